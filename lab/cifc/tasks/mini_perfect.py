"""The picture a prompt of mini-CIFC asks for, drawn by the small world itself.

What a model that has learned everything would draw: its alignment is the most that a score can mean
on these prompts. A concept shows its own colours, so the text alignment of a perfect picture is
below that of one which shows any dog, or no style at all.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from cidm_core.mini.draw import Background, Placed, Style, Thing, WorldScene, draw
from cidm_core.mini.looks import Look
from cidm_core.mini.shapes import THING_KINDS
from cidm_core.mini.world import (
    ALONE,
    COLORS,
    GROUND_COLORS,
    GROUND_PHRASES,
    WHERE_PHRASES,
    any_color,
    distance,
    named_color,
    random_background,
    random_style,
    random_thing,
)
from lab.mini.captions import STYLE_PHRASES

_CONCEPT = "<TOK>"
_NAMED_BACKGROUND = re.compile(r",? (\w+) background")
_THINGS = re.compile(rf"(?:(\w+) )?({_CONCEPT}|\b(?:{'|'.join(THING_KINDS)})\b)")
_SIZES = {"small": (0.34, 0.39), "large": (0.74, 0.82)}
_STANDS_OUT = 0.45  # distance of a concept from the backdrop, as in its reference pictures


def perfect_picture(look: Look, prompt: str, rng: random.Random) -> Image.Image:
    """One picture, 32 x 32 px, that shows what the prompt asks for; the rest is random.

    Args:
        look: What `<TOK>` stands for.
        prompt: One of `mini`' lists.
        rng: For everything the prompt leaves open.
    """
    text = _NAMED_BACKGROUND.sub("", prompt)
    asked = [(word, kind) for word, kind in _THINGS.findall(text) if _is_thing(kind, look)]
    background = _background(prompt, look, rng)
    things = [_thing(word, kind, look, background, rng) for word, kind in asked]
    placed = _placed(things, text, rng)
    return draw(WorldScene(placed, background, _style(text, look, rng), rng.randrange(1 << 30)))


def _is_thing(kind: str, look: Look) -> bool:
    """A style is no thing; "a <TOK> of a house" shows the house alone."""
    return kind != _CONCEPT or look.thing is not None


def _background(prompt: str, look: Look, rng: random.Random) -> Background:
    for mode, phrases in GROUND_PHRASES.items():
        if any(phrase in prompt for phrase in phrases):
            return Background(mode, *GROUND_COLORS[mode])
    if named := _NAMED_BACKGROUND.search(prompt):
        color = named_color(rng, named[1])
        return Background("plain", color, color, named[1])
    while True:
        found = random_background(rng)
        apart = look.thing is None or _stands_out(look.thing, found)
        if found.mode in ("plain", "gradient") and apart:
            return found


def _stands_out(thing: Thing, background: Background) -> bool:
    return min(distance(thing.color, c) for c in (background.a, background.b)) >= _STANDS_OUT


def _style(text: str, look: Look, rng: random.Random) -> Style:
    if look.style is not None:
        return look.style
    for mode, phrases in STYLE_PHRASES.items():
        if any(phrase in text for phrase in phrases):
            while (style := random_style(rng, plain=0.0)).mode != mode:
                pass
            return style
    return Style()


def _thing(word: str, kind: str, look: Look, background: Background, rng: random.Random) -> Thing:
    if kind == _CONCEPT and look.thing is not None:
        return look.thing
    thing = replace(random_thing(rng, (background.a, background.b)), kind=kind)
    if word in COLORS:
        return replace(thing, color=named_color(rng, word), texture="plain")
    while not _stands_out(thing, background):
        thing = replace(thing, color=any_color(rng)[0])
    return thing


def _placed(things: Sequence[Thing], text: str, rng: random.Random) -> tuple[Placed, ...]:
    """One thing where the prompt says, or two beside or above each other in the order asked."""
    wobble = [rng.uniform(-0.03, 0.03) for _ in range(2 * len(things))]
    said = [where for where, phrases in WHERE_PHRASES.items() if any(p in text for p in phrases)]
    if len(things) == 1:
        where = said[0] if said else "middle"
        low, high = (0.6, 0.78) if where == "middle" else (0.48, 0.56)
        for size, span in _SIZES.items():
            low, high = span if f"a {size} " in text else (low, high)
        x, y = ALONE[where]
        placed = Placed(things[0], x + wobble[0], y + wobble[1], rng.uniform(low, high), where)
        return (placed,)
    upright = "top" in said
    sides = ("top", "bottom") if upright else ("left", "right")
    if not said and rng.random() < 0.5:
        sides = sides[::-1]
    found: list[Placed] = []
    for k, (thing, where) in enumerate(zip(things, sides, strict=True)):
        along = 0.255 if where in ("top", "left") else 0.745
        across = 0.5 + wobble[2 * k]
        x, y = (across, along) if upright else (along, across)
        found.append(Placed(thing, x, y, rng.uniform(0.38, 0.46), where))
    return tuple(found)
