"""Banks as the host's users see them: a folder to choose, a concept to look at or remove."""

from __future__ import annotations

from comfy_api.latest import io

from ...cidm_core.bank import Bank
from ...cidm_core.errors import BankError, CidmError
from ..host.pictures import shown, to_tensor
from ..host.sockets import CATEGORY, BankSocket
from .facts import facts_of, find_entry, listing, preview_of
from .folders import NEW, bank_folder, bank_names, stamps


class LoadConceptBank(io.ComfyNode):
    """A bank folder as a socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = bank_names()
        return io.Schema(
            node_id="CIDM_LoadConceptBank",
            display_name="Load Concept Bank",
            category=CATEGORY,
            description="Open a bank: a folder of learned concepts. A new name makes a new bank.",
            search_aliases=["concept bank", "load concepts", "CIDM", "custom concepts", "new bank"],
            inputs=[
                io.Combo.Input(
                    "bank",
                    [*names, NEW],
                    default=names[0] if names else NEW,
                    tooltip="A folder in models/concept_banks, or in a concept_banks folder of "
                    "extra_model_paths.yaml.",
                ),
                io.String.Input(
                    "new_name",
                    default="",
                    optional=True,
                    tooltip="A bank's name, used instead of the list. It is made if there is none "
                    "of that name yet.",
                ),
            ],
            outputs=[
                BankSocket.Output(
                    "bank", tooltip="The bank, for training, applying and looking after it."
                ),
                io.String.Output(
                    "listing", tooltip="Its concepts in learning order, and files with a fault."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, bank: str | None = None, new_name: str | None = None) -> bool | str:
        """Names are checked here, so that a bank made after the page was loaded is found too."""
        try:
            if bank is not None:  # None: linked, known only when it runs
                bank_folder(bank, new_name or "")
        except CidmError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, bank: str | None = None, new_name: str | None = None) -> str:
        """Changes when a concept is added, replaced or removed."""
        if bank is None:
            return ""
        folder = bank_folder(bank, new_name or "")
        return f"{folder}: {sorted(stamps(folder))}"

    @classmethod
    def execute(cls, bank: str, new_name: str = "") -> io.NodeOutput:
        folder = bank_folder(bank, new_name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BankError(
                f"Bank '{folder}' cannot be made ({error.strerror}). Make room or allow writing."
            ) from error
        opened = Bank(folder)
        text = listing(opened)
        return io.NodeOutput(opened, text, ui=shown(cls, text=text))


class ConceptInfo(io.ComfyNode):
    """What a concept is and how it was learned."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CIDM_ConceptInfo",
            display_name="Concept Info",
            category=CATEGORY,
            description="Words, class, picture and training facts of one concept of a bank.",
            search_aliases=["concept words", "trigger words", "show concept", "CIDM"],
            is_output_node=True,
            inputs=[bank_input(), name_input("Which concept; empty: the last one learned.")],
            outputs=[
                io.String.Output("facts", tooltip="Everything the bank knows of it, as text."),
                io.String.Output("words", tooltip="Its words, to be put into a prompt."),
                io.Image.Output("picture", tooltip="Its picture with the main facts."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, bank: Bank, name: str = "") -> io.NodeOutput:
        from ...cidm_core.pictures.card import concept_card

        entry = find_entry(bank, name)
        bank[entry.name]  # reads and verifies every tensor
        facts = facts_of(entry)
        text = "\n".join(f"{key}: {value}" for key, value in facts.items())
        card = concept_card(entry.name, entry.trigger, facts, preview_of(entry))
        image = to_tensor(card)
        return io.NodeOutput(text, entry.trigger, image, ui=shown(cls, text=text, image=image))


class RemoveConcept(io.ComfyNode):
    """Deletes a concept's file, after its name was typed twice."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CIDM_RemoveConcept",
            display_name="Remove Concept",
            category=CATEGORY,
            description="Delete one concept from a bank, for good. The others are not touched.",
            search_aliases=["delete concept", "forget concept", "CIDM"],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                bank_input(),
                name_input(
                    "The concept to delete; a damaged file's name without its ending.", False
                ),
                io.String.Input(
                    "confirm",
                    default="",
                    tooltip="The same name once more; without it nothing is deleted.",
                ),
            ],
            outputs=[BankSocket.Output("bank", tooltip="The bank without the concept.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None, confirm: str | None = None) -> bool | str:
        if name is None or confirm is None:  # linked
            return True
        return _objection(name, confirm) or True

    @classmethod
    def execute(cls, bank: Bank, name: str, confirm: str) -> io.NodeOutput:
        if objection := _objection(name, confirm):
            raise BankError(objection)
        stems = [path.stem for path, _ in bank.broken()]
        wanted = name.strip()
        found = wanted if wanted in stems else find_entry(bank, wanted).name
        bank.remove(found)
        left = Bank(bank.path)
        text = f"Removed {found!r}.\n{listing(left)}"
        return io.NodeOutput(left, ui=shown(cls, text=text))


def bank_input() -> io.Input:
    """The socket of a node that works on a bank."""
    return BankSocket.Input("bank", tooltip="From Load Concept Bank or Train Concept.")


def name_input(tooltip: str, optional: bool = True) -> io.Input:
    """The name of a concept."""
    return io.String.Input("name", default="", optional=optional, tooltip=tooltip)


def _objection(name: str, confirm: str) -> str | None:
    """Why nothing may be deleted."""
    if not name.strip():
        return "Which concept should be removed? Write its name into name and into confirm."
    if name.strip() != confirm.strip():
        return (
            f"Removing {name.strip()!r} cannot be undone. Write the same name into confirm to do "
            "it, or take this node out."
        )
    return None
