"""What can be said of a merge and of a compression; apart, because it needs nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..settings import Settings, setting

ROWS = ("compvis", "diffusers")

OnProgress = Callable[[int, int, str], object]
"""Is told of units done, units in all, and what is being done."""


@dataclass(frozen=True, kw_only=True)
class MergeConfig(Settings):
    """What can be said of a merge."""

    rows: str = setting(
        "compvis",
        "Which tokens a concept is held to: those of Custom Diffusion's first code (compvis), "
        "where 'a photo of' counts too, or those of its diffusers code, the concept's own only.",
        choices=ROWS,
        advanced=False,
    )
    slack: float = setting(
        0.1,
        "How far a concept may be missed at its own words, so that other words stay as they were. "
        "0 meets it exactly, as published; concepts that look alike then spoil each other.",
        low=0.0,
        high=10.0,
    )
    allow_other_base: bool = setting(
        False, "Merge concepts that were learned on another model of the family."
    )


@dataclass(frozen=True, kw_only=True)
class CompressConfig(Settings):
    """What can be said of a compression."""

    energy: float = setting(
        0.6,
        "How much of the sum of each layer's singular values is kept. Less makes a smaller file "
        "that is less like the concept.",
        low=0.01,
        high=0.99,
        advanced=False,
    )


def untold(_done: int, _of: int, _what: str) -> None:
    """An `OnProgress` for nobody."""
