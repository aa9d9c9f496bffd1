"""Compress Concept: a concept in fewer numbers, in a bank of its own."""

from __future__ import annotations

from comfy_api.latest import io

from ...cidm_core.bank import Bank
from ...cidm_core.catalogue import listing
from ...cidm_core.merging.banks import compress_in_bank
from ...cidm_core.merging.settings import CompressConfig
from ..host import comfy as host
from ..host.inputs import inputs_of, settings_from, text_input
from ..host.pictures import shown
from ..host.sockets import BankSocket, bank_input, schema
from .banks import concept_input
from .folders import other_bank


class CompressConcept(io.ComfyNode):
    """The strongest directions of every change of a weight."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_CompressConcept",
            display_name="Compress Concept",
            description="Keeps the strongest part of what a concept changes, by singular values, "
            "and says how much is lost. Whole matrices, as Custom Diffusion learns them, become "
            "an ordinary LoRA of a fraction of the size. The concept itself is not touched.",
            search_aliases=["shrink", "smaller LoRA", "SVD", "resize LoRA", "low rank", "CIDM"],
            is_output_node=True,
            inputs=[
                bank_input(),
                concept_input(),
                *inputs_of(CompressConfig),
                text_input(
                    "into",
                    "The bank for the compressed concept; a new name makes a new one. It has the "
                    "same words, so it cannot be the same bank. By default the bank's name with "
                    "-compressed.",
                ),
                overwrite_input(),
            ],
            outputs=[
                BankSocket.Output("bank", tooltip="The bank with the compressed concept."),
                io.String.Output("report", tooltip="Sizes, ranks and the error that was reached."),
            ],
        )

    @classmethod
    def execute(
        cls,
        bank: Bank,
        name: str = "",
        energy: float = 0.6,
        into: str = "",
        overwrite: bool = False,
    ) -> io.NodeOutput:
        node, target = host.node_id_of(cls), other_bank(bank, into, "compressed")
        concept, report = compress_in_bank(
            *(bank, name, target, "", settings_from(CompressConfig, {"energy": energy})),
            on_progress=lambda done, of, _: host.show_progress(done, of, None, node),
            overwrite=overwrite,
        )
        told = f"{concept.name!r}: {report.in_words()}"
        ui = shown(cls, text=f"{told}\n{listing(target)}")
        return io.NodeOutput(Bank(target.path), told, ui=ui)


def overwrite_input() -> io.Input:
    """Whether a concept of that name in the other bank is replaced."""
    return io.Boolean.Input(
        "overwrite",
        default=False,
        optional=True,
        tooltip="Take the place of a concept of that name in the other bank, which keeps it as a "
        "version.",
    )
