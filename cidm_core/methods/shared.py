"""Settings that several methods have: prior pictures, and words that learn by contrast."""

from __future__ import annotations

from dataclasses import dataclass

from ..composite_options import CompositeOptions
from ..config import TrainConfig
from ..settings import other_default, setting


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


@dataclass(frozen=True, kw_only=True)
class CompositesConfig(TrainConfig):
    """For methods whose words can learn by contrast, from composites of cut-outs (CLIF)."""

    contrast_steps: int = setting(
        100, "Steps of the words by contrast, before all others.", low=0, high=100_000
    )
    lr_contrast: float = setting(
        1e-4, "Learning rate of the words while they learn by contrast.", low=0.0, high=1.0
    )
    contrast_batch: int = setting(
        128, "Composites that are contrasted with each other in a step.", low=2, high=4096
    )
    contrast_loss: str = setting(
        "clip",
        "Reading of the contrast: CLIP's own, in which composites of one caption are no negatives "
        "of each other (clip), or the released code's: features of any length, read at the last "
        "word instead of the end of the text, each pair for itself (released).",
        choices=("clip", "released"),
    )
    global_pairs: int = other_default(CompositeOptions, "global_pairs", 100)
    region_pairs: int = other_default(CompositeOptions, "region_pairs", 100)
    meeting_pairs: int = other_default(CompositeOptions, "meeting_pairs", 20)

    @property
    def contrasts(self) -> bool:
        """Whether words learn by contrast in these settings."""
        return self.contrast_steps > 0

    def composite_options(self, side_px: int) -> CompositeOptions:
        """How composites are made, on squares of this side."""
        return CompositeOptions(
            global_pairs=self.global_pairs,
            region_pairs=self.region_pairs,
            meeting_pairs=self.meeting_pairs,
            side_px=side_px,
            seed=self.seed,
        )


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
