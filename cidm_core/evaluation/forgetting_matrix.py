"""The forgetting matrix: how well each concept is drawn after each task, and what is lost.

Row j, column i: score of concept i after task j, both in learning order. Only i <= j exists. Drops
are as in continual learning's backward transfer (Lopez-Paz and Ranzato 2017), with the sign turned:
the mean over all concepts but the last of `own - final`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import CidmError

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ForgettingMatrix:
    """Scores of concepts after tasks.

    Attributes:
        concepts: Names in learning order.
        values: (tasks, concepts); NaN above the diagonal, and where nothing was measured.

    Raises:
        CidmError: If the shape does not fit, or the diagonal or the last row has gaps.
    """

    concepts: tuple[str, ...]
    values: Doubles

    def __post_init__(self) -> None:
        count = len(self.concepts)
        values = np.array(self.values, dtype=np.float64)
        if not count or values.shape != (count, count):
            raise CidmError(
                f"A forgetting matrix of {count} concepts has shape {values.shape}; give one row "
                "per task and one column per concept, at least one."
            )
        values[np.triu_indices(count, 1)] = np.nan
        needed = np.concatenate([values.diagonal(), values[-1]])
        if not np.isfinite(needed).all():
            raise CidmError(
                "A forgetting matrix needs every concept's score after its own task (the diagonal) "
                "and after the last task (the last row)."
            )
        object.__setattr__(self, "values", values)

    @classmethod
    def from_cells(
        cls, concepts: Sequence[str], cells: Mapping[tuple[int, int], float]
    ) -> ForgettingMatrix:
        """From scores by (after which task, of which concept), counted from 0."""
        values = np.full((len(concepts), len(concepts)), np.nan)
        for place, score in cells.items():
            values[place] = score
        return cls(tuple(concepts), values)

    @property
    def own(self) -> Doubles:
        """(concepts,): right after each concept's own training."""
        return self.values.diagonal().copy()

    @property
    def final(self) -> Doubles:
        """(concepts,): after the last task."""
        return self.values[-1].copy()

    @property
    def average_final(self) -> float:
        """Mean over all concepts after the last task; the figure of the paper's tables."""
        return float(self.final.mean())

    @property
    def averages(self) -> Doubles:
        """(tasks,): mean over the concepts measured after each task."""
        return np.nanmean(self.values, axis=1)

    @property
    def drops(self) -> Doubles:
        """(concepts,): `own - final`; above 0: something was lost. The last one's is 0."""
        return self.own - self.final

    @property
    def mean_drop(self) -> float:
        """Mean drop of all concepts but the last, which nothing came after; 0 for one concept."""
        return float(self.drops[:-1].mean()) if len(self.concepts) > 1 else 0.0

    @property
    def worst_drop(self) -> float:
        """The largest drop of any concept."""
        return float(self.drops.max())

    @property
    def retention(self) -> Doubles:
        """(concepts,): `final / own`, the share that every concept keeps.

        Raises:
            CidmError: If a score after own training is not above 0, so that no share exists.
        """
        if (self.own <= 0).any():
            name = self.concepts[int(self.own.argmin())]
            raise CidmError(f"{name!r} scored {self.own.min():.4g}, so it has nothing to keep.")
        return self.final / self.own

    def summary(self) -> dict[str, float]:
        """The figures of reports."""
        retention = self.retention if (self.own > 0).all() else np.full(len(self.own), np.nan)
        earlier = retention[:-1] if len(retention) > 1 else retention
        return {
            "average_final": self.average_final,
            "average_own": float(self.own.mean()),
            "mean_drop": self.mean_drop,
            "worst_drop": self.worst_drop,
            "retention": float(earlier.mean()),
            "lowest_retention": float(earlier.min()),
        }

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; None where nothing was measured."""
        rows = [[None if np.isnan(v) else float(v) for v in row] for row in self.values]
        numbers = {k: None if np.isnan(v) else v for k, v in self.summary().items()}
        return {"concepts": list(self.concepts), "values": rows, **numbers}


def oracle_gap(scores: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """Mean over concepts of `oracle - score`: what the rest of the bank costs (note, section 8).

    Args:
        scores: By concept, with the whole bank.
        oracle: By concept, drawn with its own weights only, same prompts and seeds.

    Raises:
        CidmError: If the two are not of the same concepts, or of none.
    """
    if not scores or set(scores) != set(oracle):
        odd = ", ".join(sorted(set(scores) ^ set(oracle))) or "none"
        raise CidmError(f"The oracle gap needs both scores of every concept; missing: {odd}.")
    return float(np.mean([oracle[name] - scores[name] for name in scores]))
