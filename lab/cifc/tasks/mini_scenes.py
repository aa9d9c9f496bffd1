"""Scenes of two, three and four concepts with boxes, in layouts that mini-sd can draw.

mini-sd learned pictures of 32 x 32 px with one to three things, and things in a corner, or three
boxes within 8 x 8 latent cells, are beyond it. It draws larger canvases that are made of such
pictures, though, so scenes of more things give each of them a tile of 32 x 32 px, in a row, in a
column or two by two. Where a thing stands in its tile is said by the region's prompt: mini-sd never
drew one without, at the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cidm_core.regions import Region

from .suite import ScenePart, SuiteScene, SuiteTask

TILE_PX = 32
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Layout:
    """Boxes, and what says in the prompt where each is; empty: only in the region's prompt."""

    boxes: tuple[_Box, ...]
    places: tuple[str, ...] = ()
    columns: int = 1
    rows: int = 1

    def scene(self, chosen: Sequence[SuiteTask], backdrop: str) -> SuiteScene:
        named = [f"a {task.trigger}" for task in chosen]
        places = self.places or ("in the middle",) * len(named)
        placed = [f"{name} {place}" for name, place in zip(named, places, strict=True)]
        parts = tuple(
            ScenePart(task.name, Region(f"{text}, {backdrop}", box=box))
            for task, text, box in zip(chosen, placed, self.boxes, strict=True)
        )
        listed = _listing(placed if self.places else named)
        size = TILE_PX * self.columns, TILE_PX * self.rows
        return SuiteScene(f"{listed}, {backdrop}", parts, *size)


def _tiles(columns: int, rows: int) -> _Layout:
    """Tiles that fill the canvas, row by row."""
    boxes = tuple(
        (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows)
        for y in range(rows)
        for x in range(columns)
    )
    return _Layout(boxes, (), columns, rows)


_SIDES = _Layout(((0.02, 0.1, 0.48, 0.9), (0.52, 0.1, 0.98, 0.9)), ("on the left", "on the right"))
_STACK = _Layout(((0.1, 0.02, 0.9, 0.48), (0.1, 0.52, 0.9, 0.98)), ("at the top", "at the bottom"))
# Tasks are counted from 1. V1 and V7, V3 and V9 look alike.
_TABLE: tuple[tuple[_Layout, tuple[int, ...], str], ...] = (
    (_SIDES, (1, 7), "green background"),
    (_STACK, (9, 3), "white background"),
    (_tiles(2, 1), (3, 5), "on grass"),
    (_tiles(2, 1), (4, 2), "in the snow"),
    (_tiles(3, 1), (1, 3, 5), "on grass"),
    (_tiles(3, 1), (7, 1, 9), "gray background"),
    (_tiles(1, 3), (3, 4, 9), "white background"),
    (_tiles(3, 1), (2, 7, 4), "on the beach"),
    (_tiles(2, 2), (1, 3, 7, 9), "green background"),
    (_tiles(4, 1), (2, 4, 5, 9), "gray background"),
    (_tiles(2, 2), (4, 3, 2, 1), "orange background"),
    (_tiles(4, 1), (7, 1, 5, 3), "on grass"),
)


def mini_scenes(tasks: Sequence[SuiteTask]) -> tuple[SuiteScene, ...]:
    """The scenes of the ten tasks of `mini_suite`: four each of two, three and four concepts."""
    return tuple(
        layout.scene([tasks[number - 1] for number in asked], backdrop)
        for layout, asked, backdrop in _TABLE
    )


def _listing(texts: Sequence[str]) -> str:
    """Join as people list things, with "and" before the last."""
    return f"{', '.join(texts[:-1])} and {texts[-1]}"
