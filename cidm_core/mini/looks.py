"""Looks that pretraining never shows, for the demo to teach, and photos of such a look."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from .draw import Placed, Style, Thing, WorldScene, draw, mask_of
from .world import GROUND_PHRASES, WHERE_PHRASES, any_scene, distance, random_background


@dataclass(frozen=True)
class Look:
    """A named appearance: of one thing (`thing` set) or of the whole picture (`style` set)."""

    name: str
    kind: str
    thing: Thing | None = None
    style: Style | None = None


class Example(NamedTuple):
    """A photo, what it shows, and how much of each pixel the thing covers."""

    photo: Image
    caption: str
    mask: NDArray[np.float32]


DEMO_LOOKS = (
    Look(
        "purple-cat",
        "cat",
        Thing(
            "cat",
            color=(0.55, 0.25, 0.8),
            accent=(1.0, 0.55, 0.1),
            pattern=(0.75, 0.95, 0.3),
            texture="striped",
            outline=True,
        ),
    ),
    Look(
        "teal-cat",
        "cat",
        Thing(
            "cat",
            color=(0.1, 0.65, 0.65),
            accent=(0.98, 0.85, 0.2),
            pattern=(1.0, 0.6, 0.75),
            texture="spotted",
            outline=True,
        ),
    ),
    Look(
        "harbour",
        "painting",
        style=Style("duotone", (0.08, 0.1, 0.36), (1.0, 0.66, 0.25), outline=True),
    ),
)


def reference_scene(look: Look, rng: random.Random) -> tuple[WorldScene, str]:
    """Return a training picture of a concept and its caption with the plain class word."""
    if look.style is not None:
        return _style_scene(look.style, rng)
    assert look.thing is not None
    where = rng.choice(("left", "right", "middle", "middle"))
    x = {"left": 0.31, "right": 0.69, "middle": 0.5}[where]
    background = random_background(rng)
    while min(distance(look.thing.color, c) for c in (background.a, background.b)) < 0.45:
        background = random_background(rng)
    size = rng.uniform(0.62, 0.8) if where == "middle" else rng.uniform(0.5, 0.58)
    placed = Placed(look.thing, x, rng.uniform(0.46, 0.54), size, where)
    scene = WorldScene((placed,), background, Style(), rng.randrange(1 << 30))
    text = f"a {look.kind} {rng.choice(WHERE_PHRASES[where])}"
    return scene, text + _backdrop_words(scene)


def example_photos(look: Look = DEMO_LOOKS[0]) -> list[Example]:
    """Four photos of a thing's look, the same each time."""
    rng = random.Random(look.name)
    scenes = [reference_scene(look, rng) for _ in range(4)]
    return [Example(draw(scene), caption, mask_of(scene)) for scene, caption in scenes]


def _style_scene(style: Style, rng: random.Random) -> tuple[WorldScene, str]:
    scene = any_scene(rng, count=1, plain=1.0)
    placed = scene.things[0]
    placed = replace(placed, size=max(0.48, placed.size))
    text = f"a painting of a {placed.thing.kind} {rng.choice(WHERE_PHRASES[placed.where])}"
    return replace(scene, things=(placed,), style=style), text


def _backdrop_words(scene: WorldScene) -> str:
    background = scene.background
    if background.mode in GROUND_PHRASES:
        return f", {GROUND_PHRASES[background.mode][0]}"
    return f", {background.word} background" if background.word else ""
