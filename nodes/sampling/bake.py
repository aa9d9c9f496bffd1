"""Bake Concepts: the weights of one prompt inside the model, for nodes that save or merge it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ...cidm_core.errors import HostError, PromptError
from ...cidm_core.sampling.layer_updates import baked
from ...cidm_core.sampling.slots import SlotTable
from ..host.model import ModelFacts
from ..host.sockets import schema
from .banked import applied_config, applied_facts, attach_hooks
from .prompts import prompt_in


class BakeConcepts(io.ComfyNode):
    """What the concepts add for one prompt, as ordinary patches of the MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CIDM_BakeConcepts",
            display_name="Bake Concepts",
            description="Puts the concept weights of one prompt into MODEL as ordinary patches, so "
            "that Save Checkpoint, Model Merge and LoRA extraction get them. Concept words are "
            "embeddings that differ from layer to layer; no checkpoint can hold them.",
            search_aliases=["save checkpoint", "merge concepts", "bake LoRA", "fold in", "CIDM"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of Apply Concept Bank."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The prompt whose concept weights are wanted, from the CLIP of Apply "
                    "Concept Bank.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For Save Checkpoint and the like. It still draws concept words.",
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, conditioning: Any) -> io.NodeOutput:
        config = applied_config(model)
        if config is None:
            raise HostError(
                "The model of Bake Concepts has no concept bank. Take MODEL and CLIP from Apply "
                "Concept Bank."
            )
        prompts = [found for entry in conditioning if (found := prompt_in(entry[1]))]
        if not any(prompt.weights.any() for prompt in prompts):
            raise PromptError(
                "The conditioning of Bake Concepts names no concept. Encode a prompt with concept "
                "words, with the CLIP of Apply Concept Bank."
            )
        facts = applied_facts(model)
        table = SlotTable(len(facts.layers))
        table.add("", None, table.weigh(prompts), {})
        concepts, (slot,) = table.finish()
        deltas = baked(concepts, slot, facts.names, config)
        # From now on only words are the bank's; weights would count twice.
        made = attach_hooks(model, facts, replace(config, strength=0.0))
        made.add_patches({_key(name, facts): ("diff", (d,)) for name, d in deltas.items()})
        return io.NodeOutput(made)


def _key(name: str, facts: ModelFacts) -> str:
    path, _, part = name.rpartition(".")
    return f"diffusion_model.{facts.host_path(path)}.{part}"
