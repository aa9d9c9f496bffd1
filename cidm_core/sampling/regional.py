"""Regional cross-attention: which regions go into which UNet rows (CIDM section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..ops import attention


@dataclass(frozen=True, eq=False)
class Insert:
    """What regional cross-attention puts into one row."""

    row: int  # place in the batch
    slots: Tensor  # of the regions, (regions,)
    masks: Tensor  # where they are, (regions, height, width) at latent size


@dataclass(frozen=True, eq=False)
class Inserts:
    """All inserts of one UNet call; masks are resized once per attention resolution."""

    inserts: Sequence[Insert]
    _resized: dict[tuple[int, int], list[Tensor]] = field(
        default_factory=dict[tuple[int, int], list[Tensor]]
    )

    def __bool__(self) -> bool:
        return bool(self.inserts)

    def blend(self, out: Tensor, inside: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Replace the features inside every region by that region's own.

        Args:
            out: Output of a cross-attention layer, (rows, cells, dim).
            inside: For each insert, what its regions' texts make of its row, (regions, cells, dim).
            size: (height, width) of the layer.
        """
        if size not in self._resized:
            self._resized[size] = [
                attention.resize_mask(insert.masks, *size).flatten(1) for insert in self.inserts
            ]
        parts = list(out)
        for insert, own, masks in zip(self.inserts, inside, self._resized[size], strict=True):
            parts[insert.row] = attention.blend_regions(parts[insert.row], own, masks.to(own.dtype))
        return torch.stack(parts)
