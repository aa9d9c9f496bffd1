"""Banks as the host's users see them: a folder to choose, a concept to look at or remove."""

from __future__ import annotations

from comfy_api.latest import io

from ...cidm_core.bank import Bank
from ...cidm_core.catalogue import described, find_entry, find_name, listing, picture_beside
from ...cidm_core.errors import BankError
from ..host import comfy as host
from ..host.inputs import passes, text_input
from ..host.pictures import shown, to_tensor
from ..host.sockets import BankSocket, bank_input, schema
from .folders import NEW, bank_folder, bank_names, contents


class LoadConceptBank(io.ComfyNode):
    """A bank folder as a socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = bank_names()
        return schema(
            node_id="CIDM_LoadConceptBank",
            display_name="Load Concept Bank",
            description="Opens a bank, which is a folder of learned concepts. Learning or "
            "importing the first concept makes the folder of a new one.",
            search_aliases=[
                *("concept bank", "load concepts", "CIDM", "custom concepts", "new bank"),
                *("character", "style"),
            ],
            inputs=[
                io.Combo.Input(
                    "bank",
                    [*names, NEW],
                    default=names[0] if names else NEW,
                    tooltip="A folder in models/concept_banks, or in a concept_banks folder of "
                    f"extra_model_paths.yaml. {NEW} takes the name below.",
                ),
                text_input(
                    "new_name",
                    f"The name that goes with {NEW}. A bank of that name is opened; if there is "
                    "none, the first concept makes it.",
                ),
            ],
            outputs=[
                BankSocket.Output("bank", tooltip="The bank, for training and for drawing."),
                io.String.Output(
                    "listing",
                    tooltip="Concepts in learning order, and damaged files, as this node found "
                    "them. Train Concept shows what the bank holds afterwards.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, bank: str | None = None) -> bool | str:
        """Names are checked here, so that a bank made after the page was loaded is found too."""
        asked = host.inputs_asked(cls)
        new_name = None if asked is None else asked.get("new_name", "")
        if bank is None or new_name is None:  # linked, known only when it runs
            return True
        return passes(lambda: bank_folder(bank, new_name))

    @classmethod
    def fingerprint_inputs(cls, bank: str | None = None, new_name: str | None = None) -> str:
        """Changes when a concept is added, replaced or removed."""
        if bank is None:
            return ""
        folder = bank_folder(bank, new_name or "")
        return f"{folder}: {host.file_stamps(folder)}"

    @classmethod
    def execute(cls, bank: str, new_name: str = "") -> io.NodeOutput:
        opened = Bank(bank_folder(bank, new_name))
        text = contents(opened)
        return io.NodeOutput(opened, text, ui=shown(cls, text=text))


class ConceptInfo(io.ComfyNode):
    """What a concept is and how it was learned."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ConceptInfo",
            display_name="Concept Info",
            description="Shows the words, the class, the picture and the training of one concept.",
            search_aliases=["concept words", "trigger words", "show concept", "CIDM"],
            is_output_node=True,
            inputs=[bank_input(), concept_input()],
            outputs=[
                io.String.Output("facts", tooltip="Everything the bank knows of it, as text."),
                io.String.Output("words", tooltip="Its words, for a prompt."),
                io.Image.Output("picture", tooltip="Its picture with the main facts."),
            ],
        )

    @classmethod
    def execute(cls, bank: Bank, name: str = "") -> io.NodeOutput:
        from ...cidm_core.pictures.card import concept_card

        entry = find_entry(bank, name)
        bank[entry.name]  # reads and verifies every tensor
        facts = described(entry)
        text = "\n".join(f"{key}: {value}" for key, value in facts.items())
        card = concept_card(entry.name, entry.phrase, facts, picture_beside(entry.path))
        image = to_tensor(card)
        return io.NodeOutput(text, entry.phrase, image, ui=shown(cls, text=text, image=image))


class RemoveConcept(io.ComfyNode):
    """Puts a concept into the bank's trash, after its name was typed twice."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_RemoveConcept",
            display_name="Remove Concept",
            description="Puts one concept of a bank, with its versions, into the bank's trash. The "
            "others are not touched.",
            search_aliases=["delete concept", "forget concept", "CIDM"],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                bank_input(),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="The concept to remove. For a damaged file, its name without the "
                    "ending.",
                ),
                io.String.Input(
                    "confirm",
                    default="",
                    tooltip="The same name once more. Nothing is removed without it.",
                ),
            ],
            outputs=[BankSocket.Output("bank", tooltip="The bank without the concept.")],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        confirm = (host.inputs_asked(cls) or {}).get("confirm")
        # None: linked, known only when it runs
        return name is None or confirm is None or passes(lambda: _check_twice(name, confirm))

    @classmethod
    def execute(cls, bank: Bank, name: str, confirm: str) -> io.NodeOutput:
        wanted = _check_twice(name, confirm)
        removed = bank.remove(find_name(bank, wanted))
        left = Bank(bank.path)
        back = f"It is number {removed.number} in the bank's trash, from which it can be restored."
        text = f"Removed {removed.name!r}. {back}\n{listing(left)}"
        return io.NodeOutput(left, ui=shown(cls, text=text))


def concept_input() -> io.Input:
    """The name of a concept of the connected bank."""
    return text_input("name", "Which concept of the bank. Empty means the last one learned.")


def _check_twice(name: str, confirm: str) -> str:
    """The name, if it was typed twice."""
    wanted = name.strip()
    if not wanted:
        raise BankError("Which concept should be removed? Write its name into name and confirm.")
    if wanted != confirm.strip():
        raise BankError(
            f"{wanted!r} would be removed. Write the same name into confirm to do it, or take this "
            "node out."
        )
    return wanted
