"""Common things of the small world, to stand beside the subjects of composites (CLIF)."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from ..as_text import with_article
from ..training.composites.cutouts import CutOut, cut_out
from .draw import Placed, Thing, WorldScene, draw, mask_of, plain
from .world import COLORS, any_color, distance, named_color

# Plain things that the models of the small world were shown; a white one would not be seen.
_THINGS: tuple[tuple[str, str], ...] = (
    *(("red", "ball"), ("yellow", "star"), ("pink", "heart"), ("gray", "cat"), ("brown", "dog")),
    *(("orange", "fish"), ("blue", "house"), ("purple", "flower"), ("red", "mushroom")),
    *(("green", "cup"), ("teal", "boat"), ("blue", "car"), ("green", "star"), ("purple", "ball")),
)
_SIDE_PX = 96
_PLACE = (0.5, 0.5, 0.85)


def drawn_things() -> list[CutOut]:
    """Cut-outs of drawn things, "a red ball" and the like; the same each time."""
    return [_cut_out(thing) for thing in things()]


def things() -> list[Thing]:
    """What they are cut-outs of."""
    return [_thing(color, kind) for color, kind in _THINGS]


def _thing(color: str, kind: str) -> Thing:
    rng = random.Random(f"common {color} {kind}")
    body = named_color(rng, color)
    accent, _ = any_color(rng, named=1.0)
    while distance(accent, body) < 0.4 or distance(accent, COLORS["white"]) < 0.4:
        accent, _ = any_color(rng, named=1.0)
    return Thing(kind, body, accent, accent, color_word=color)


def _cut_out(thing: Thing) -> CutOut:
    picture = _without_background(thing)
    assert picture is not None, "the thing is smaller than the picture"
    return CutOut(picture, label=with_article(f"{thing.color_word} {thing.kind}"))


def _without_background(thing: Thing) -> Image.Image | None:
    """The thing alone, in its own colours where something shows through it."""
    scene = WorldScene((Placed(thing, *_PLACE),), plain(0.0))
    black = np.asarray(draw(scene, _SIDE_PX), dtype=np.float32) / np.float32(255)
    mask = mask_of(scene, _SIDE_PX)
    colors = black / np.maximum(mask, 1 / 255)[..., None]
    picture = Image.fromarray(np.rint(colors.clip(0, 1) * 255).astype(np.uint8))
    return cut_out(picture, mask)
