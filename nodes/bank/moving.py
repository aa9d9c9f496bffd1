"""Move Concepts: concepts of one bank into another, or whole banks together."""

from __future__ import annotations

from comfy_api.latest import io

from ...cidm_core.bank import Bank
from ...cidm_core.catalogue import listing
from ...cidm_core.errors import BankError
from ...cidm_core.sampling.parts import bare, parts_of
from ...cidm_core.upkeep.moving import LEAVE_OUT, RENAME, REPLACE, Choice, Decide, move_concepts
from ..host.inputs import text_input
from ..host.pictures import shown
from ..host.sockets import BankSocket, bank_input, schema
from .folders import NEW, bank_folder

STOP = "stop and tell"
_WAYS = {STOP: "", "leave out": LEAVE_OUT, "replace": REPLACE, "rename": RENAME}


class MoveConcepts(io.ComfyNode):
    """Concepts with their pictures into another bank."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_MoveConcepts",
            display_name="Move Concepts",
            description="Brings concepts of a bank, with their pictures, into another one: some, "
            "or all to put two banks together. Names and words that are taken there are told, and "
            "nothing is lost.",
            search_aliases=["merge banks", "copy concepts", "share concepts", "collect", "CIDM"],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                bank_input(),
                text_input(
                    "into",
                    "The other bank's name; a new name makes a new one.",
                ),
                text_input(
                    "names",
                    "Which concepts: their names, with commas or line ends between them. Empty "
                    "means all.",
                    multiline=True,
                ),
                io.Boolean.Input(
                    "copy",
                    default=True,
                    tooltip="On: they stay in their bank as well. Off: they go to its trash, and "
                    "their versions come along.",
                ),
                io.Combo.Input(
                    "on_conflict",
                    list(_WAYS),
                    default=STOP,
                    tooltip="Where the other bank has a name or word of a concept: move nothing "
                    "and tell all of it; leave the concept out; let it replace the other, which is "
                    "kept as a version or in the trash; or give it a free name and free words, "
                    "<dog1-2> for <dog1>.",
                ),
                io.Boolean.Input(
                    "share",
                    default=False,
                    optional=True,
                    tooltip="For other people: leaves out paths, prompts and the like that tell of "
                    "this machine, and puts a small picture into the file. It always copies.",
                ),
            ],
            outputs=[
                BankSocket.Output("bank", tooltip="The other bank with the concepts."),
                io.String.Output("report", tooltip="What became of each concept."),
            ],
        )

    @classmethod
    def execute(
        cls,
        bank: Bank,
        into: str = "",
        names: str = "",
        copy: bool = True,
        on_conflict: str = STOP,
        share: bool = False,
    ) -> io.NodeOutput:
        if not into.strip():
            raise BankError("Which bank should they go into? Write its name into into.")
        target = Bank(bank_folder(NEW, into))
        chosen = [bare(each) for each in parts_of(names)]
        done = move_concepts(
            *(bank, chosen, target, _decide(on_conflict)), copy=copy or share, share=share
        )
        report = "\n".join(each.in_words() for each in done)
        left = Bank(target.path)
        return io.NodeOutput(left, report, ui=shown(cls, text=f"{report}\n{listing(left)}"))


def _decide(way: str) -> Decide | None:
    chosen = _WAYS[way]
    return (lambda _: Choice(chosen)) if chosen else None
