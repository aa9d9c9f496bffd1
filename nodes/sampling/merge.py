"""Merge Concepts: several concepts as one, in closed form, in a bank of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ...cidm_core.bank import Bank
from ...cidm_core.catalogue import listing
from ...cidm_core.concept import Concept
from ...cidm_core.config import SampleConfig
from ...cidm_core.errors import BankError
from ...cidm_core.merging.banks import merge_in_bank
from ...cidm_core.merging.settings import MergeConfig
from ...cidm_core.merging.states import Encode
from ...cidm_core.merging.texts import captions_of, shipped_captions
from ...cidm_core.text import TextContext
from ..bank.compress import overwrite_input
from ..bank.folders import other_bank
from ..host import comfy as host
from ..host.inputs import inputs_of, passes, settings_from, text_input
from ..host.model import ModelFacts, facts_of_pair
from ..host.pictures import shown
from ..host.sockets import BankSocket, bank_input, schema
from .text import ConceptText, teach


class MergeConcepts(io.ComfyNode):
    """One concept that draws each of several as it was taught (Custom Diffusion)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_MergeConcepts",
            display_name="Merge Concepts",
            description="Makes one concept of several: at its own words each nearly keeps its "
            "look, and everything else stays as the model draws it. The result goes into a bank of "
            "its own and, by Export Concept, into other programs. The concepts are not touched.",
            search_aliases=[
                *("combine concepts", "merge LoRA", "custom diffusion", "bake bank", "CIDM"),
                *("compose", "one file"),
            ],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that the concepts were learned on."),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint, without a bank."),
                bank_input(),
                io.String.Input("name", default="merged", tooltip="Name of the new concept."),
                text_input(
                    "concepts",
                    "Which concepts of the bank, one a line or with commas between. Empty means "
                    "all of them.",
                    multiline=True,
                ),
                text_input(
                    "into",
                    "The bank for the new concept; a new name makes a new one. It has the words of "
                    "all of them, so it cannot be the same bank. By default the bank's name with "
                    "-merged.",
                ),
                *inputs_of(MergeConfig),
                text_input(
                    "captions",
                    "Ordinary captions, one a line, at which the model stays what it was; 200 or "
                    "more. Empty takes 324 of our own.",
                    multiline=True,
                    advanced=True,
                ),
                overwrite_input(),
            ],
            outputs=[
                BankSocket.Output("bank", tooltip="The bank with the merged concept."),
                io.String.Output("words", tooltip="All its words, for a prompt."),
                io.String.Output(
                    "report", tooltip="How near the concepts are met, and what was left out."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        return name is None or passes(lambda: _check_name(name))

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        bank: Bank,
        name: str,
        concepts: str = "",
        into: str = "",
        captions: str = "",
        overwrite: bool = False,
        **settings: Any,
    ) -> io.NodeOutput:
        node, target = host.node_id_of(cls), other_bank(bank, into, "merged")
        lines = captions.splitlines() if captions.strip() else []
        facts, names = facts_of_pair(model, clip), re.split(r"[\n,]", concepts)
        ordinary = captions_of(lines, "captions") if lines else shipped_captions(facts.family)
        config = settings_from(MergeConfig, settings)
        made, report = merge_in_bank(
            *(bank, names, target, name, facts, _encoder(clip, bank, facts), ordinary, config),
            on_progress=lambda done, of, _: host.show_progress(done, of, None, node),
            overwrite=overwrite,
        )
        told = report.in_words()
        ui = shown(cls, text=f"{made.name}: {made.phrase}\n{told}\n{listing(target)}")
        return io.NodeOutput(Bank(target.path), made.phrase, told, ui=ui)


def _encoder(clip: Any, bank: Bank, facts: ModelFacts) -> Encode:
    """The CLIP, with the words of the bank's concepts where some are named."""
    knowing = ConceptText(bank, facts, SampleConfig(allow_other_base=True))
    taught = teach(clip, knowing)

    def encode(texts: Sequence[str], concepts: Sequence[Concept]) -> list[TextContext]:
        del concepts  # the bank knows them all; ordinary captions hold none of their words
        return [knowing.caption(taught, text) for text in texts]

    return encode


def _check_name(name: str) -> None:
    if not name.strip():
        raise BankError("The merged concept has no name. Write one into name, such as 'pets'.")
