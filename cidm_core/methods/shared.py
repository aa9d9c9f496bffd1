"""Settings that several methods have: prior pictures, and words that learn by contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..composite_options import CompositeOptions
from ..config import TrainConfig
from ..settings import setting


@dataclass(frozen=True, kw_only=True)
class PriorConfig(TrainConfig):
    """For methods that hold what the model knows of a class by prior pictures of it."""

    prior_images: int = setting(
        200,
        "Prior pictures that the model itself draws of the class where none are given; they are "
        "kept beside the bank's concepts and used again. With 0 learning goes without.",
        low=0,
        high=10_000,
        advanced=False,
    )
    prior_batches: str = setting(
        "mixed",
        "How prior pictures come beside the photos: each picture of a batch is one or the other by "
        "an even chance (mixed), or as many follow the photos (paired).",
        choices=("mixed", "paired"),
    )
    prior_weight: float = setting(
        1.0, "Weight of the prior pictures in the loss.", low=0.0, high=100.0
    )


class ContrastReading(NamedTuple):
    """Composites that are contrasted in a step, and the reading (`ClifConfig.contrast_loss`)."""

    batch: int = 128
    loss: str = "clip"


@dataclass(frozen=True, kw_only=True)
class CompositesConfig(TrainConfig):
    """For methods whose words can learn by contrast, from composites of cut-outs (CLIF)."""

    contrast_steps: int = setting(
        100, "Steps of the words by contrast, before all others.", low=0, high=100_000
    )
    lr_contrast: float = setting(
        1e-4, "Learning rate of the words while they learn by contrast.", low=0.0, high=1.0
    )

    @property
    def contrasts(self) -> bool:
        """Whether words learn by contrast in these settings."""
        return self.contrast_steps > 0

    @property
    def all_steps(self) -> int:
        return super().all_steps + (self.contrast_steps if self.contrasts else 0)

    @property
    def reading(self) -> ContrastReading:
        """How the contrast is computed."""
        return ContrastReading()

    def composite_options(self, side_px: int) -> CompositeOptions:
        """How composites are made, on squares of this side."""
        return CompositeOptions(side_px=side_px, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class ContrastConfig(CompositesConfig):
    """For methods with words that can be told apart before they learn; by default they are not."""

    contrast: bool = setting(
        False,
        "First teach the words by contrast, with the words of the bank and the class words as "
        "negatives, so that concepts that look alike are mixed up less. It needs masks and CLIP.",
        advanced=False,
    )

    @property
    def contrasts(self) -> bool:
        return self.contrast and super().contrasts
