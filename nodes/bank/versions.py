"""Concept Version: a bank as it was before one of its concepts was replaced, to draw with."""

from __future__ import annotations

from comfy_api.latest import io

from ...cidm_core.bank import Bank
from ...cidm_core.catalogue import find_entry
from ...cidm_core.upkeep.listings import versions_listing
from ...cidm_core.upkeep.views import at_version
from ..host.pictures import shown
from ..host.sockets import BankSocket, bank_input, schema
from .banks import concept_input


class ConceptVersion(io.ComfyNode):
    """A bank in which one concept is a former version of itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ConceptVersion",
            display_name="Concept Version",
            description="The bank with a former version of one concept in its place, to draw with: "
            "the same prompt and seed with and without this node show what a training has changed. "
            "No file changes.",
            search_aliases=["version", "history", "compare concepts", "undo training", "CIDM"],
            is_output_node=True,  # alone it lists the versions
            inputs=[
                bank_input(),
                concept_input(),
                io.Int.Input(
                    "number",
                    default=0,
                    min=0,
                    max=10**9,
                    tooltip="The version's number, as this node lists them once it has run. 0 is "
                    "the concept as it is now.",
                ),
            ],
            outputs=[
                BankSocket.Output("bank", tooltip="For Apply Concept Bank: the bank as it was."),
                io.String.Output("versions", tooltip="The concept's versions, oldest first."),
            ],
        )

    @classmethod
    def execute(cls, bank: Bank, name: str = "", number: int = 0) -> io.NodeOutput:
        found = find_entry(bank, name).name
        text = f"{found}\n{versions_listing(bank, found)}"
        seen = at_version(bank, found, number)
        return io.NodeOutput(seen, text, ui=shown(cls, text=text))
