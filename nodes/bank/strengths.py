"""Concept Strengths: more of one concept and less of another, without touching prompts."""

from __future__ import annotations

from comfy_api.latest import io

from ...cidm_core.as_text import listed
from ...cidm_core.bank import Bank
from ...cidm_core.sampling.strengths import at_strengths, own_strengths, read_strengths
from ..host.inputs import passes, text_input
from ..host.pictures import shown
from ..host.sockets import BankSocket, bank_input, schema


class ConceptStrengths(io.ComfyNode):
    """A bank whose concepts are drawn at strengths of their own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ConceptStrengths",
            display_name="Concept Strengths",
            description="Gives concepts of a bank a strength each, beside the one for all in Apply "
            "Concept Bank. Put it just before that node; prompts and files stay as they are.",
            search_aliases=[
                *("concept strength", "lora strength", "power lora", "weight of a concept", "CIDM"),
                *("multiplier", "per concept"),
            ],
            inputs=[
                bank_input(),
                text_input(
                    "strengths",
                    "One line for each concept, its name in the bank and a number: dog = 0.8. "
                    "Numbers from 0, which leaves its words without effect on the model, to 4; "
                    "concepts that are not named keep 1. A name that holds a comma or an equals "
                    "sign stands in double quotes.",
                    multiline=True,
                ),
            ],
            outputs=[
                BankSocket.Output(
                    "bank", tooltip="For Apply Concept Bank: the bank with these strengths."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, strengths: str | None = None) -> bool | str:
        return strengths is None or passes(lambda: read_strengths(strengths))

    @classmethod
    def execute(cls, bank: Bank, strengths: str = "") -> io.NodeOutput:
        given = at_strengths(bank, strengths)
        return io.NodeOutput(given, ui=shown(cls, text=_in_words(given)))


def _in_words(bank: Bank) -> str:
    """The strengths, one a line, and who has none of its own."""
    strengths = own_strengths(bank)
    lines = [f"{name}: {strengths[name]:g}" for name in bank if name in strengths]
    if rest := [name for name in bank if name not in strengths]:
        lines.append(f"1 for {listed(rest, most=20)}")
    return "\n".join(lines) or f"Bank '{bank.name}' holds no concept yet."
