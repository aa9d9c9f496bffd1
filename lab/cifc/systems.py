"""The systems that the benchmark compares: how each learns, keeps and draws concepts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from PIL import Image

from cidm_core.concept import Concept
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.diffusers_host.start import picture_px
from cidm_core.errors import CidmError
from cidm_core.regions import Region

from .baselines.composite import draw_composite
from .baselines.merge import combined

Arrange = Callable[[Sequence[Concept], Concept], Mapping[str, Concept]]
Draw = Callable[[Base, Mapping[str, Concept], Sequence[str], SampleConfig], list[Image.Image]]


def _all(learned: Sequence[Concept], _asked: Concept) -> Mapping[str, Concept]:
    return {concept.name: concept for concept in learned}


def _own(_learned: Sequence[Concept], asked: Concept) -> Mapping[str, Concept]:
    return {asked.name: asked}


def _latest(learned: Sequence[Concept], asked: Concept) -> Mapping[str, Concept]:
    return {asked.name: replace(asked, updates=learned[-1].low_rank)}


def _sum(learned: Sequence[Concept], asked: Concept) -> Mapping[str, Concept]:
    return {asked.name: replace(asked, updates=combined(learned))}


def _average(learned: Sequence[Concept], asked: Concept) -> Mapping[str, Concept]:
    return {asked.name: replace(asked, updates=combined(learned, 1 / len(learned)))}


def _draw(
    base: Base, bank: Mapping[str, Concept], prompts: Sequence[str], config: SampleConfig
) -> list[Image.Image]:
    return generate(base, bank, prompts, (), config)


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes:
        name: For files and options.
        label: For people.
        learner: Key of `LEARNERS`; systems with one learner share its banks.
        sampling: Overrides of the sampling settings that all systems share.
        arranged: From the concepts learned so far and the one asked for to what is drawn with.
        drawn: How; default: `generate`.
        rows: Whether concepts are drawn again after every later task, not only after the last.
    """

    name: str
    label: str
    learner: str
    sampling: Mapping[str, object] = field(default_factory=dict[str, object])
    arranged: Arrange = _all
    drawn: Draw = _draw
    rows: bool = True

    def arrange(self, learned: Sequence[Concept], name: str) -> Mapping[str, Concept]:
        """The bank that a concept is drawn with.

        Args:
            learned: In learning order, so far.
            name: The concept asked for, one of them.

        Raises:
            CidmError: If it is none of them.
        """
        for concept in learned:
            if concept.name == name:
                return self.arranged(learned, concept)
        known = ", ".join(concept.name for concept in learned) or "nothing yet"
        raise CidmError(f"{name!r} is not learned; {known} is. Ask for one of these.")

    def draw(
        self,
        base: Base,
        bank: Mapping[str, Concept],
        prompts: Sequence[str],
        config: SampleConfig,
    ) -> list[Image.Image]:
        """`config.num_images` pictures per prompt, prompt by prompt, all in one batch.

        Args:
            base: The model.
            bank: From `arrange`.
            prompts: With concept words.
            config: Settings that all systems share; `sampling` is put on top.

        Raises:
            CidmError: As `generate`.
        """
        return self.drawn(base, bank, prompts, _with(config, self.sampling))


@dataclass(frozen=True)
class MultiSystem:
    """One way of drawing several concepts, each in its box, from one and the same bank.

    Attributes:
        name: For files and options.
        label: For people.
        sampling: Overrides of the sampling settings.
        whole_cells: Boxes shrink to the latent cells that lie in them entirely.
    """

    name: str
    label: str
    sampling: Mapping[str, object]
    whole_cells: bool = False

    def draw(
        self,
        base: Base,
        bank: Mapping[str, Concept],
        prompt: str,
        regions: Sequence[Region],
        config: SampleConfig,
    ) -> list[Image.Image]:
        """`config.num_images` pictures of a scene.

        Raises:
            CidmError: As `generate`.
        """
        config = _with(config, self.sampling)
        if self.whole_cells:
            width, height = picture_px(base, config)
            cell = base.family.latent_px
            regions = [shrunk(region, height // cell, width // cell) for region in regions]
        return generate(base, bank, prompt, regions, config)


def shrunk(region: Region, height: int, width: int) -> Region:
    """Mix-of-Show's rule for boxes: start rounded up, end rounded down, at least one cell.

    Args:
        region: With a box; one with a mask stays as it is.
        height: Latent cells from top to bottom.
        width: Latent cells from left to right.
    """
    if region.box is None:
        return region
    x0, y0, x1, y1 = region.box
    (left, right), (top, bottom) = _whole(x0, x1, width), _whole(y0, y1, height)
    return replace(region, box=(left, top, right, bottom))


def _whole(low: float, high: float, cells: int) -> tuple[float, float]:
    # What rounding adds to a coordinate must not cost a cell.
    start = min(math.ceil(low * cells - 1e-6), cells - 1)
    stop = max(math.floor(high * cells + 1e-6), start + 1)
    return start / cells, stop / cells


def _with(config: SampleConfig, sampling: Mapping[str, object]) -> SampleConfig:
    overrides: dict[str, Any] = dict(sampling)
    return replace(config, **overrides)


SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        system.name: system
        for system in (
            System("oracle", "Oracle (own weights)", "plain", arranged=_own),
            System("sequential", "Sequential finetuning", "sequential", arranged=_latest),
            System("ewc", "EWC", "ewc", arranged=_latest),
            System("lwf", "LwF", "lwf", arranged=_latest),
            System("c_lora", "C-LoRA", "c_lora", arranged=_sum),
            System("lora_merge", "LoRA-Merge", "plain", arranged=_average),
            # A pass of the model per concept: drawn in between it would cost a quarter of the run.
            System("lora_composite", "LoRA-Composite", "plain", drawn=draw_composite, rows=False),
            System("paper", "CIDM (as in the paper)", "paper", {"weights": "paper"}),
            System(
                "released",
                "CIDM (as released)",
                "released",
                {"weights": "released", "encoding": "joint"},
            ),
            System("ours", "CIDM (ours)", "ours"),
        )
    }
)


def _multi(name: str, label: str, attention: bool, noise: bool, **more: object) -> MultiSystem:
    switches = {"regional_attention": attention, "noise_estimation": noise}
    return MultiSystem(name, label, switches | more, whole_cells=name == "mix_of_show")


MULTI: Mapping[str, MultiSystem] = MappingProxyType(
    {
        system.name: system
        for system in (
            _multi("none", "No regions", False, False),
            _multi("attention", "Regional attention only", True, False),
            _multi("noise", "Region noise estimation only", False, True),
            _multi("both", "Both (ours)", True, True),
            # Its boxes are hard; fusing the weights is left out, so that regions alone differ.
            _multi("mix_of_show", "Mix-of-Show regional attention", True, False, feather=0.0),
        )
    }
)
