"""How sure a number is that was measured on a set of pictures: bootstrap over the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.seeds import generator

_DRAWS = 400
_TAIL = 0.025


@dataclass(frozen=True)
class Measured:
    """A number, and the 95 % interval in which it would lie for other pictures of the kind."""

    value: float
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float, float]:
        """Low end, value, high end."""
        return self.low, self.value, self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def measured(
    statistic: Callable[..., Tensor], *sets: Tensor, biased: bool = False, seed: int = 0
) -> Measured:
    """A statistic of one or more sets, whose members are drawn anew with replacement (Efron).

    Args:
        statistic: Of sets as they are given; 0 or more.
        sets: Each (members, ...).
        biased: Few members make it larger, and draws with their repeats make it larger still. The
            draws then tell how far it goes astray, and the interval is what is left after that
            (the basic bootstrap); otherwise it is that of the draws (the percentile bootstrap).
        seed: Of the draws.
    """
    value, drawn = float(statistic(*sets)), list[float]()
    source = generator(seed, "bootstrap")
    for _ in range(_DRAWS):
        picks = [torch.randint(len(each), (len(each),), generator=source) for each in sets]
        some = [each[pick] for each, pick in zip(sets, picks, strict=True)]
        drawn.append(float(statistic(*some)))
    ends = torch.tensor(drawn, dtype=torch.float64)
    low, high = (float(torch.quantile(ends, share)) for share in (_TAIL, 1 - _TAIL))
    if biased:
        low, high = max(0.0, 2 * value - high), max(0.0, 2 * value - low)
    return Measured(value, low, high)
