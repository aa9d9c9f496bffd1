"""The UNet rows of all pictures, in the order in which they are called, and cut into calls."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..config import SampleConfig
from ..sampling.layout import Scene
from ..sampling.plan import Plan
from ..sampling.regional import Insert, Inserts
from .base import Base
from .patches import CallRows
from .sizes import added_conditions
from .start import told_sizes


class RowTable:
    """The rows while one phase of a plan lasts; one that lends its queries follows its borrower.

    Args:
        base: The model.
        plan: What to draw.
        scenes: Of each picture, as `Plan.arranged` has them.
        latent_size: (height, width) of the latents.
        config: Sizes that the model is told of.

    Attributes:
        picture: Of each row, the number of its picture.
        kept: Places of the rows whose estimates count, in the order of the scenes.
        added: What the UNet reads of each row beside its text, for families that have it.
    """

    def __init__(
        self,
        base: Base,
        plan: Plan,
        scenes: Sequence[Scene],
        latent_size: tuple[int, int],
        config: SampleConfig,
    ) -> None:
        self._base, self._plan, self._latent_size = base, plan, latent_size
        placed = [(n, scene, row) for n, scene in enumerate(scenes) for row in _in_order(scene)]
        places = {(picture, row): place for place, (picture, _, row) in enumerate(placed)}
        self.picture = [picture for picture, _, _ in placed]
        self._lenders = [places[n, s.lenders[r] if s.lenders else r] for n, s, r in placed]
        # A call may begin at any row that is not lent from by the one before it.
        self._starts = [i for i in range(len(placed)) if i == 0 or self._lenders[i - 1] != i]
        self._lends = any(scene.lenders for scene in scenes)
        self.kept = [p for (n, row), p in sorted(places.items()) if row < scenes[n].counted]
        self._slots = torch.tensor([scene.rows[row] for _, scene, row in placed]).to(base.device)
        self._inserts = list(self._inserted([scene.inserts[row] for _, scene, row in placed]))
        self.added = self._added(config)
        self._calls: dict[tuple[int, int], CallRows] = {}

    def __len__(self) -> int:
        return len(self.picture)

    def end(self, first: int, at_once: int) -> int:
        """Where a call ends that begins at a row; a row and its lender are never parted."""
        ends = [*self._starts[1:], len(self)]
        last = bisect_right(ends, first + at_once) - 1
        return max(ends[max(last, 0)], ends[bisect_right(ends, first)])

    def call(self, first: int, last: int) -> CallRows:
        """What the call of some rows needs; the same rows come back in every step."""
        if (first, last) not in self._calls:
            here = [i for i in self._inserts if first <= i.row < last]
            moved = [Insert(i.row - first, i.slots, i.masks) for i in here]
            lenders = torch.tensor(self._lenders[first:last]).to(self._base.device) - first
            self._calls[first, last] = CallRows(
                self._slots[first:last],
                Inserts(moved),
                self._latent_size,
                lenders if self._lends else None,
            )
        return self._calls[first, last]

    def _inserted(self, inserts: Sequence[Sequence[tuple[int, int]]]) -> Iterator[Insert]:
        masks = self._plan.masks.to(self._base.device)
        for row, pairs in enumerate(inserts):
            if pairs:
                slots, areas = zip(*pairs, strict=True)
                yield Insert(row, torch.tensor(slots).to(self._base.device), masks[list(areas)])

    def _added(self, config: SampleConfig) -> dict[str, Tensor]:
        """Pooled text and sizes of every row, for families whose UNet reads them."""
        base = self._base
        texts = [slot.text for slot in self._plan.all_slots if slot.text]
        found = [text.pooled for text in texts if text.pooled is not None]
        if not found:
            return {}
        pooled = torch.stack(found).to(base.device, base.dtype)[self._slots]
        height, width = (side * base.family.latent_px for side in self._latent_size)
        return added_conditions(pooled, [told_sizes(config, height, width)] * len(pooled))


def _in_order(scene: Scene) -> Iterator[int]:
    """Rows that count, each with the one that was added for it behind it."""
    for row in range(scene.counted):
        yield row
        if scene.lenders and scene.lenders[row] != row:
            yield scene.lenders[row]
