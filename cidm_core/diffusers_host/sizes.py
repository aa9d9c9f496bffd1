"""What SDXL reads beside text and time: pooled text, and six numbers about the picture's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PictureSizes:
    """Lengths in pixels: sizes are (height, width), the crop is (top, left).

    Attributes:
        original: Size of the picture before it was scaled and cropped.
        crop: Where the part that is seen begins.
        target: Size of what is seen.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]

    @classmethod
    def whole(cls, height_px: int, width_px: int) -> PictureSizes:
        """A picture that nothing was cut off, at its own size."""
        return cls((height_px, width_px), (0, 0), (height_px, width_px))

    @property
    def ids(self) -> tuple[int, ...]:
        """In the order that SDXL was trained with."""
        return (*self.original, *self.crop, *self.target)


def added_conditions(pooled: Tensor, sizes: Sequence[PictureSizes]) -> dict[str, Tensor]:
    """`added_cond_kwargs` of a UNet call.

    Args:
        pooled: Pooled text of each row, (rows, dim).
        sizes: Of each row. They stay float32: bfloat16 would round them.
    """
    ids = torch.tensor([each.ids for each in sizes], dtype=torch.float32)
    return {"text_embeds": pooled, "time_ids": ids.to(pooled.device)}
