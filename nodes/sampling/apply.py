"""Apply Concept Bank: afterwards stock text encode nodes and samplers know the concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ...cidm_core.bank import Bank
from ...cidm_core.config import SampleConfig
from ...cidm_core.pictures.sheets import stack
from ...cidm_core.pictures.weights import weights_picture
from ...cidm_core.sampling.plan import weights_in_words
from ...cidm_core.sampling.strengths import (
    acting_weights,
    name_with_strength,
    own_strengths,
)
from ..host.inputs import inputs_of, settings_from
from ..host.model import facts_of_pair
from ..host.pictures import shown, to_tensor
from ..host.sockets import RegionPrompt, RegionsSocket, bank_input, schema
from .banked import attach_hooks
from .prompts import ConceptPrompt, prompt_in
from .text import ConceptText, teach

_SETTINGS = (
    *("recipe", "weights", "top_k", "strength", "infuse", "encoding"),
    *("key_value_routing", "residual_share", "second_stream", "residual_layers"),
    *("key_residuals", "allow_other_base"),
)
_STRENGTH = {"strength": False}  # the one knob everybody looks for


class ApplyConceptBank(io.ComfyNode):
    """Elastic weight aggregation (CIDM section 4.2) for everything downstream."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ApplyConceptBank",
            display_name="Apply Concept Bank",
            description=(
                "Makes MODEL and CLIP know all concepts of a bank. Write their words into any CLIP "
                "Text Encode node: only the concepts a prompt names take part, each with a weight "
                "of its own in every layer. Works with stock samplers, LoRAs and ControlNet."
            ),
            search_aliases=["CIDM", "concept", "lora bank", "elastic aggregation", "load concepts"],
            inputs=[
                io.Model.Input("model", tooltip="The model the bank was learned on."),
                io.Clip.Input(
                    "clip",
                    tooltip="The CLIP of the same checkpoint, for SDXL with both text encoders.",
                ),
                bank_input(),
                *inputs_of(SampleConfig, _SETTINGS, advanced=_STRENGTH),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For the sampler or the guider."),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="For text encode nodes. It knows the concept words.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, bank: Bank, **settings: Any) -> io.NodeOutput:
        config = settings_from(SampleConfig, settings)
        facts = facts_of_pair(model, clip)
        bank.check(facts, allow_other_base=config.allow_other_base)
        text = ConceptText(bank, facts, config)
        hooked = attach_hooks(model, facts, config, text.requests, own_strengths(bank))
        return io.NodeOutput(hooked, teach(clip, text))


class ShowConceptWeights(io.ComfyNode):
    """The weights psi(M) of Eq. 3, as a text and a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_ShowConceptWeights",
            display_name="Show Concept Weights",
            description="Shows which concept got which weight in which layer for a prompt.",
            search_aliases=["concept weights", "aggregation weights", "CIDM weights"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="From CLIP Text Encode with the CLIP of the bank."
                ),
                RegionsSocket.Input(
                    "regions", optional=True, tooltip="Connect regions to see their weights too."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="picture", tooltip="A bar chart for each prompt."),
                io.String.Output(display_name="text", tooltip="The mean weights in words."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, conditioning: Any, regions: Sequence[RegionPrompt] = ()) -> io.NodeOutput:
        titled = [("The picture", entry) for entry in conditioning]
        titled += [
            (f"Region {number}", entry)
            for number, region in enumerate(regions, start=1)
            for entry in region.positive
        ]
        found = [(title, prompt_in(entry[1])) for title, entry in titled]
        text = "\n".join(_described(title, prompt) for title, prompt in found)
        drawn = [_drawn(title, prompt) for title, prompt in found if prompt is not None]
        image = to_tensor(stack(drawn)) if drawn else torch.zeros(1, 64, 64, 3)
        return io.NodeOutput(image, text, ui=shown(cls, text=text, image=image))


def _described(title: str, prompt: ConceptPrompt | None) -> str:
    if prompt is None:
        return f"{title}: encoded with a CLIP that knows no bank. Use that of Apply Concept Bank."
    return f"{title}: {weights_in_words(tuple(prompt.concepts.values()), prompt.weights)}"


def _drawn(title: str, prompt: ConceptPrompt) -> Any:
    concepts = tuple(prompt.concepts.values())
    names = [name_with_strength(concept) for concept in concepts]
    heading = f"{title}: {prompt.named}" if prompt.named else title
    weights = acting_weights(concepts, prompt.weights)
    return weights_picture(names, prompt.layers, weights.numpy(), heading)
