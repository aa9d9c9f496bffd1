"""Scenes of two, three and four concepts with boxes, in layouts that mini-sd can draw."""

from __future__ import annotations

from collections.abc import Sequence

from ..regions import Region
from .suite import Part, Scene, Task

_Place = tuple[str, tuple[float, float, float, float]]
SIDES: tuple[_Place, ...] = (
    ("on the left", (0.02, 0.1, 0.48, 0.9)),
    ("on the right", (0.52, 0.1, 0.98, 0.9)),
)
STACK: tuple[_Place, ...] = (
    ("at the top", (0.1, 0.02, 0.9, 0.48)),
    ("at the bottom", (0.1, 0.52, 0.9, 0.98)),
)
_TABLE: tuple[tuple[tuple[_Place, ...], str, tuple[int, ...]], ...] = (
    # Layout, backdrop, tasks (counted from 1). The first and third are look-alike pairs.
    (SIDES, "white background", (1, 7)),
    (SIDES, "on grass", (3, 5)),
    (STACK, "white background", (9, 3)),
    (STACK, "in the snow", (2, 4)),
)


def mini_scenes(tasks: Sequence[Task]) -> tuple[Scene, ...]:
    """The scenes of the ten tasks of `mini_suite`."""
    return tuple(_scene(tasks, places, where, asked) for places, where, asked in _TABLE)


def _scene(
    tasks: Sequence[Task], places: Sequence[_Place], backdrop: str, asked: Sequence[int]
) -> Scene:
    chosen = [tasks[number - 1] for number in asked]
    texts = [f"a {t.trigger} {w}" for t, (w, _) in zip(chosen, places, strict=True)]
    parts = tuple(
        Part(task.name, Region(f"{text}, {backdrop}", box=box))
        for task, text, (_, box) in zip(chosen, texts, places, strict=True)
    )
    return Scene(f"{' and '.join(texts)}, {backdrop}", parts)
