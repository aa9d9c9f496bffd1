"""Which UNet rows one picture needs, and how their estimates become one (CIDM section 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..config import SampleConfig
from ..ops import guidance

NEGATIVE, GLOBAL = 0, 1  # the rows every scene starts with

Text = TypeVar("Text")


@dataclass(frozen=True)
class RegionTexts(Generic[Text]):
    """What a region shows and, if it has one, its own negative."""

    positive: Text
    negative: Text | None = None


@dataclass(frozen=True)
class Scene:
    """The UNet rows of one picture.

    Attributes:
        rows: Slot of each row: negative, global, one per estimated region, own negatives.
        inserts: Per row, the (slot, region) pairs that regional cross-attention puts in.
        negatives: Per estimated region, the row of its unconditional estimate.
        lenders: Per row, the row with whose queries it attends; none: each with its own.
    """

    rows: tuple[int, ...]
    inserts: tuple[tuple[tuple[int, int], ...], ...]
    negatives: tuple[int, ...]
    lenders: tuple[int, ...] = ()

    @property
    def counted(self) -> int:
        """Number of the rows whose estimates count; those that only lend come after them."""
        lending = (lender for row, lender in enumerate(self.lenders) if lender != row)
        return min(lending, default=len(self.rows))


def layout(
    positive: Text,
    negative: Text,
    regions: Sequence[RegionTexts[Text]],
    config: SampleConfig,
    slot: Callable[[Text, Text], int],
) -> Scene:
    """U + 2 rows: one unconditional estimate serves all regions without an own negative.

    Args:
        positive: The text of the whole picture.
        negative: What it should not show.
        regions: The texts of its regions.
        config: Whether regions have estimates and attention of their own, and whose text weighs.
        slot: Gives the slot of a text whose weights come from another (or the same) text.
    """
    # The unconditional half runs with the picture's weights, as merging would make it.
    rows = [slot(negative, positive), slot(positive, positive)]
    own = config.region_weights == "per_region"
    inside = [slot(r.positive, r.positive if own else positive) for r in regions]
    if not config.noise_estimation:
        put = tuple((each, u) for u, each in enumerate(inside))
        return Scene(tuple(rows), ((), put if config.regional_attention else ()), ())
    # With regional attention a region's row keeps the global text outside its box.
    attended = config.regional_attention
    inserts = [((each, u),) if attended else () for u, each in enumerate(inside)]
    rows += [rows[GLOBAL]] * len(regions) if attended else inside
    negatives: list[int] = []
    for region in regions:
        if region.negative is None:
            negatives.append(NEGATIVE)
        else:
            negatives.append(len(rows))
            rows.append(slot(region.negative, region.positive if own else positive))
    empty = ((),) * (len(rows) - 2 - len(regions))
    return Scene(tuple(rows), ((), (), *inserts, *empty), tuple(negatives))


def guide(
    scene: Scene, guided: Callable[[int, int], Tensor], masks: Tensor, config: SampleConfig
) -> Tensor:
    """Guidance and region noise estimation of one step (Eq. 4 and 5).

    Affine with weights that sum to 1 (mode "partition"), so noise and denoised latents both work.

    Args:
        scene: The rows.
        guided: Classifier-free guidance of a row with the row of its unconditional estimate
            (Eq. 4), (batch, channels, height, width).
        masks: (regions, height, width) at latent size, 0..1.
        config: `alpha` and the form of Eq. 5.

    Returns:
        (batch, channels, height, width).
    """
    whole = guided(GLOBAL, NEGATIVE)
    if not scene.negatives:
        return whole
    parts = [guided(GLOBAL + 1 + u, row) for u, row in enumerate(scene.negatives)]
    masks = masks.to(whole.device, whole.dtype)
    return guidance.combine(whole, torch.stack(parts), masks, config.alpha, config.region_mode)
