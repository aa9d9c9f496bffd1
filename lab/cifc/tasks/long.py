"""The long run: many concepts of random looks, to see what a growing bank costs."""

from __future__ import annotations

import random

from cidm_core.errors import CidmError
from cidm_core.mini.draw import TEXTURES, Style, Thing
from cidm_core.mini.looks import Look
from cidm_core.mini.shapes import THING_KINDS
from cidm_core.mini.world import distance, random_color, random_style

from .mini import look_task
from .suite import Suite, SuiteTask

LONGEST = 200
PHOTOS = 4
_STYLE_EVERY = 5
_TRIES = 10_000
_APART = 0.45  # distance of two colours that people tell apart at a glance
_STYLE_MODES = ("duotone", "pastel")


def long_suite(count: int = 40, seed: int = 0) -> Suite:
    """`count` concepts, every fifth a style; one order, no scenes.

    The looks are drawn at random, distinct from each other: two of one kind differ in texture or
    clearly in colour. Pretraining kept only the looks of `mini.looks` out, so mini-sd may have seen
    something near to one of these, though never under its own word.

    Args:
        count: 1 to 200; a shorter suite is the beginning of a longer one.
        seed: Of looks and reference pictures.

    Raises:
        CidmError: If the count is out of range.
    """
    if not 1 <= count <= LONGEST:
        raise CidmError(f"A long run of {count} concepts was asked; give 1 to {LONGEST}.")
    rng = random.Random(f"{seed} long")
    looks: list[Look] = []
    for number in range(1, count + 1):
        looks.append(_new_look(number, looks, rng))
    tasks = tuple(_task(number, look, seed) for number, look in enumerate(looks, start=1))
    return Suite("long", tasks, (tuple(range(count)),))


def _task(number: int, look: Look, seed: int) -> SuiteTask:
    name = f"L{number:02}-{look.kind}"
    return look_task(look, name, f"<l{number}a> <l{number}b>", look.kind, PHOTOS, seed)


def _new_look(number: int, earlier: list[Look], rng: random.Random) -> Look:
    """A look that can be told from all earlier ones; kinds take turns."""
    for _ in range(_TRIES):
        if number % _STYLE_EVERY == 0:
            look = Look(f"long-{number}", "painting", style=_random_style(rng))
        else:
            look = Look(
                f"long-{number}", kind := THING_KINDS[number % len(THING_KINDS)], _thing(kind, rng)
            )
        if not any(alike(look, other) for other in earlier):
            return look
    raise CidmError(f"No further look is distinct from {len(earlier)} others. Ask for fewer.")


def _thing(kind: str, rng: random.Random) -> Thing:
    colors = [random_color(rng) for _ in range(3)]
    while distance(colors[0], colors[1]) < _APART:
        colors[1] = random_color(rng)
    texture = rng.choice(TEXTURES[1:])
    return Thing(kind, colors[0], colors[2], colors[1], texture, rng.choice((0, 1, 2)), True)


def _random_style(rng: random.Random) -> Style:
    while (style := random_style(rng, plain=0.0)).mode not in _STYLE_MODES:
        pass
    return style


def alike(a: Look, b: Look) -> bool:
    """Tell whether two looks would be hard to tell apart."""
    if a.style is not None and b.style is not None:
        near = [distance(a.style.b, b.style.b) < _APART]
        near += [distance(a.style.a, b.style.a) < _APART] if a.style.mode == "duotone" else []
        return a.style.mode == b.style.mode and all(near)
    if a.thing is None or b.thing is None:
        return False
    same = (a.thing.kind, a.thing.texture) == (b.thing.kind, b.thing.texture)
    near = [distance(a.thing.color, b.thing.color), distance(a.thing.pattern, b.thing.pattern)]
    return same and max(near) < _APART
