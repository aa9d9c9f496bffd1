"""Confidence intervals of scores by bootstrap over prompts.

Pictures of one prompt are alike, so prompts are what is sampled: each prompt's score is the mean of
its pictures, and prompts are drawn with replacement (Efron's percentile bootstrap). Systems that
are compared were asked the same prompts with the same seeds, so their difference is taken prompt
by prompt before it is resampled.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cidm_core.errors import CidmError

from .measures import Doubles

ScoreRows = list[list[float]]  # (concepts, prompts)
DRAWS = 2000
LEVEL = 0.95


def average(values: Iterable[float]) -> float:
    """The mean of numbers, added in their order."""
    held = list(values)
    return float(sum(held) / len(held))


@dataclass(frozen=True)
class Interval:
    """A mean, and the range in which it would lie for other prompts of the same sort."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def bootstrap(
    scores: Sequence[Sequence[float]],
    categories: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Interval of the mean over concepts of their mean over prompts.

    Args:
        scores: For each concept the score of each of its prompts (the mean over the pictures).
        categories: For each concept, what it shares its prompts with: concepts of one category
            get the same draw, so what is hard about a prompt counts once, not per concept.
            Default: every concept has prompts of its own.
        draws: Bootstrap samples.
        seed: Of the draws.
        level: Share of the samples inside the interval.

    Raises:
        CidmError: If there is no concept, a concept has no score or one that is not finite, or
            concepts of one category have different numbers of prompts.
    """
    rows = _checked(scores)
    groups = list(categories) if categories is not None else list(range(len(rows)))
    _check_categories(rows, groups)
    rng = np.random.default_rng(seed)
    picks: dict[Hashable, NDArray[Any]] = {}
    means = np.zeros((draws, len(rows)))
    for column, (row, group) in enumerate(zip(rows, groups, strict=True)):
        if group not in picks:
            picks[group] = rng.integers(len(row), size=(draws, len(row)))
        means[:, column] = row[picks[group]].mean(axis=1)
    tail = 50 * (1 - level)
    low, high = np.percentile(means.mean(axis=1), [tail, 100 - tail])
    return Interval(float(np.mean([row.mean() for row in rows])), float(low), float(high))


def bootstrap_difference(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    categories: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Interval of `first - second`, paired: both were asked the same prompts in the same order.

    Raises:
        CidmError: As `bootstrap`, or if the two have other numbers of concepts or prompts.
    """
    a, b = _checked(first), _checked(second)
    if [len(row) for row in a] != [len(row) for row in b]:
        raise CidmError(
            f"Paired scores differ in shape: {[len(row) for row in a]} and "
            f"{[len(row) for row in b]} prompts per concept. Ask both systems the same prompts."
        )
    gaps = [(p - q).tolist() for p, q in zip(a, b, strict=True)]
    return bootstrap(gaps, categories, draws, seed, level)


def _checked(scores: Sequence[Sequence[float]]) -> list[Doubles]:
    rows = [np.asarray(row, dtype=np.float64) for row in scores]
    if not rows or any(row.ndim != 1 or not row.size for row in rows):
        raise CidmError("An interval needs at least one concept, and one prompt of each.")
    if not all(np.isfinite(row).all() for row in rows):
        raise CidmError("An interval cannot be taken of scores that are NaN or infinite.")
    return rows


def _check_categories(rows: Sequence[Doubles], groups: Sequence[Hashable]) -> None:
    if len(groups) != len(rows):
        raise CidmError(f"There are {len(groups)} categories for {len(rows)} concepts.")
    sizes: dict[Hashable, int] = {}
    for row, group in zip(rows, groups, strict=True):
        if sizes.setdefault(group, len(row)) != len(row):
            raise CidmError(
                f"Concepts of category {group!r} have {sizes[group]} and {len(row)} prompts. "
                "Concepts of one category must be asked the same prompts."
            )
