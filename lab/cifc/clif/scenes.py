"""Look-alikes that one prompt asks for, where each is looked for, and what perfect pictures are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from cidm_core.mini.draw import Background, Placed, Style, Thing, WorldScene, draw
from cidm_core.mini.world import named_color
from cidm_core.regions import Region
from lab.mini.looks import CONCEPTS

from ..measures import Doubles
from ..tasks.mini import LOOKS
from ..tasks.suite import ScenePart, Suite, SuiteScene, SuiteTask

_Box = tuple[float, float, float, float]
_HALVES: tuple[_Box, ...] = ((0.02, 0.1, 0.48, 0.9), (0.52, 0.1, 0.98, 0.9))
_THIRDS: tuple[_Box, ...] = ((0.0, 0.0, 0.35, 1.0), (0.33, 0.0, 0.67, 1.0), (0.65, 0.0, 1.0, 1.0))
_SIDES = {2: ("left", "right"), 3: ("left", "middle", "right")}
# Tasks of the suite, counted from 1.
_TABLE: tuple[tuple[int, ...], ...] = ((1, 7), (7, 1), (3, 9), (9, 3), (1, 7, 3), (9, 1, 3))
_GROUND = "gray"  # no colour of theirs
_NEAR = 0.2  # of two colours; so perfect pictures are told without a mistake


def with_look_alikes(suite: Suite) -> Suite:
    """The suite with scenes of look-alikes only, pairs either way round, then triples."""
    tasks = suite.tasks
    scenes = [_scene([tasks[n - 1] for n in numbers]) for numbers in _TABLE]
    return replace(suite, scenes=tuple(scenes))


def _scene(chosen: Sequence[SuiteTask]) -> SuiteScene:
    boxes = _HALVES if len(chosen) == 2 else _THIRDS
    backdrop, sides = f"{_GROUND} background", _SIDES[len(chosen)]
    named = [
        f"a {task.trigger} {'in' if side == 'middle' else 'on'} the {side}"
        for task, side in zip(chosen, sides, strict=True)
    ]
    parts = tuple(
        ScenePart(task.name, Region(f"{text}, {backdrop}", box=box))
        for task, text, box in zip(chosen, named, boxes, strict=True)
    )
    return SuiteScene(f"{', '.join(named[:-1])} and {named[-1]}, {backdrop}", parts)


def look_of(name: str) -> Thing:
    """The true look of a task's thing."""
    thing = CONCEPTS[LOOKS[name]].thing
    assert thing is not None, "styles have no look-alikes"
    return thing


def perfect_pictures(scene: SuiteScene, count: int, seed: int) -> list[Image.Image]:
    """What a scene asks for, drawn by the small world itself, things placed as it does."""
    rng = random.Random(f"{seed} {scene.prompt}")
    return [draw(_placed(scene, rng)) for _ in range(count)]


def _placed(scene: SuiteScene, rng: random.Random) -> WorldScene:
    color = named_color(rng, _GROUND)
    two = len(scene.parts) == 2
    places = (0.255, 0.745) if two else (0.2, 0.5, 0.8)
    sizes = (0.38, 0.46) if two else (0.28, 0.33)
    things = tuple(
        Placed(look_of(part.task), x, 0.5 + rng.uniform(-0.05, 0.05), rng.uniform(*sizes), "middle")
        for part, x in zip(scene.parts, places, strict=True)
    )
    return WorldScene(things, Background("plain", color, color, _GROUND), Style())


def by_color(
    pictures: Sequence[Image.Image], scene: SuiteScene, names: Sequence[str]
) -> list[list[list[float]]]:
    """For each picture and box, the share of pixels in the colours of each task's look.

    Another witness than CLIP, which the contrast learned from.
    """
    looks = [look_of(name) for name in names]
    colors = np.array([[look.color, look.pattern, look.accent] for look in looks])
    found: list[list[list[float]]] = []
    for picture in pictures:
        values = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
        boxes = [_cut(values, part.region.box or (0, 0, 1, 1)) for part in scene.parts]
        found.append([_shares(box, colors) for box in boxes])
    return found


def _cut(values: Doubles, box: Sequence[float]) -> Doubles:
    """The pixels of a box, (pixels, 3)."""
    height, width = values.shape[:2]
    x0, y0, x1, y1 = box
    rows = slice(round(y0 * height), round(y1 * height))
    return values[rows, round(x0 * width) : round(x1 * width)].reshape(-1, 3)


def _shares(pixels: Doubles, colors: Doubles) -> list[float]:
    """Share of the pixels that are nearest to a colour of each look (looks, 3, 3), and near it."""
    gaps = np.linalg.norm(pixels[:, None, None] - colors[None], axis=-1).min(axis=2)
    nearest = np.where(gaps.min(axis=1) < _NEAR, gaps.argmin(axis=1), -1)
    return [float((nearest == k).mean()) for k in range(len(colors))]
