"""Sequential finetuning: one LoRA, carried on from task to task; new tokens for each concept.

The lower bound of continual learning, and what EWC and LwF build on. The LoRA sits where CIDM's
does, on q, k, v and out of every attn2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.errors import TrainingError

from .base import Baseline


class Sequential(Baseline):
    """A `Method` whose low-rank weights start where the task before has left them."""

    name = "sequential"

    def _first_factors(self, source: torch.Generator) -> Mapping[str, tuple[Tensor, Tensor]]:
        before = last_of(self._old)
        if before is None:
            return super()._first_factors(source)
        for path, pair in before.low_rank.items():
            if (pair.rank, pair.alpha) != (self._config.rank, self._alpha):
                raise TrainingError(
                    f"{before.name!r} was learned with rank {pair.rank} and alpha {pair.alpha:g} "
                    f"({path}), this task is to be learned with {self._config.rank} and "
                    f"{self._alpha:g}. One LoRA keeps its size: use the same settings."
                )
        return {path: (pair.down, pair.up) for path, pair in before.low_rank.items()}


def last_of(old: Collection[Concept]) -> Concept | None:
    """The concept learned last, or None."""
    last: Concept | None = None
    for last in old:  # noqa: B007 - a bank's values can only be gone through
        pass
    return last
