"""LoRA-Composite: every step asks the model once per concept and takes the mean of the answers.

Zhong et al. 2024, "Multi-LoRA Composition", https://arxiv.org/abs/2402.16843.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.pipeline import draw_plan, make_plan
from cidm_core.ops.guidance import classifier_free
from cidm_core.sampling.layout import Scene
from cidm_core.sampling.plan import Plan


class CompositePlan(Plan):
    """A plan whose scenes hold one pair of rows, negative and prompt, for each concept."""

    def guide(self, estimates: Tensor, scene: int = 0) -> Tensor:
        """`1/k sum_i (e_i(negative) + s (e_i(prompt) - e_i(negative)))`.

        Args:
            estimates: (2 * concepts, batch, channels, height, width).
            scene: Not read: all scenes hold the same rows.

        Returns:
            (batch, channels, height, width).
        """
        del scene
        negative, prompt = estimates[0::2], estimates[1::2]
        return classifier_free(prompt, negative, self.config.guidance_scale).mean(0)


def composite_plan(
    base: Base, bank: Mapping[str, Concept], prompts: Sequence[str], config: SampleConfig
) -> CompositePlan:
    """The plan of prompts in which each concept of the bank answers with its weights alone.

    Raises:
        CidmError: As `make_plan`.
    """
    # A dense rule has every concept take part; its weights are then replaced.
    plan = make_plan(base, bank, prompts, (), replace(config, weights="paper", encoding="per_task"))
    alone = torch.eye(len(plan.concepts))
    slots = [
        replace(slot, weights=row.expand_as(slot.weights).to(slot.weights))
        for slot in plan.slots
        for row in alone
    ]
    count = len(plan.concepts)
    scenes = tuple(
        Scene(
            rows=tuple(row * count + i for i in range(count) for row in scene.rows),
            inserts=((),) * (count * len(scene.rows)),
            negatives=(),
        )
        for scene in plan.scenes
    )
    layers, masks = plan.layers, plan.masks
    return CompositePlan(plan.concepts, layers, tuple(slots), scenes, masks, plan.config)


def draw_composite(
    base: Base, bank: Mapping[str, Concept], prompts: Sequence[str], config: SampleConfig
) -> list[Image.Image]:
    """`config.num_images` pictures per prompt, prompt by prompt.

    Raises:
        CidmError: As `generate`.
    """
    return draw_plan(base, composite_plan(base, bank, prompts, config), config)
