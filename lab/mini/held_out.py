"""What training may not show: combinations kept for evaluation, and the looks to be taught."""

from __future__ import annotations

import itertools
import random

from cidm_core.mini.draw import Thing, WorldScene
from cidm_core.mini.looks import Look
from cidm_core.mini.shapes import THING_KINDS
from cidm_core.mini.world import COLORS, any_scene, distance

from .looks import CONCEPTS

_SEED = 20240521


def _held_out() -> tuple[frozenset[tuple[str, str]], frozenset[frozenset[str]]]:
    rng = random.Random(_SEED)
    colored = list(itertools.product(COLORS, THING_KINDS))
    pairs = [frozenset(pair) for pair in itertools.combinations(THING_KINDS, 2)]
    return (
        frozenset(rng.sample(colored, round(0.1 * len(colored)))),
        frozenset(rng.sample(pairs, round(0.15 * len(pairs)))),
    )


HELD_OUT_LOOKS, HELD_OUT_PAIRS = _held_out()  # (colour, kind) and {kind, kind}


def is_held_out(scene: WorldScene) -> bool:
    """Tell whether a scene shows a named colour on a kind, or two kinds, kept for evaluation."""
    things = [placed.thing for placed in scene.things]
    if any((thing.color_word, thing.kind) in HELD_OUT_LOOKS for thing in things):
        return True
    pairs = itertools.combinations([thing.kind for thing in things], 2)
    return any(frozenset(pair) in HELD_OUT_PAIRS for pair in pairs)


def resembles_look(scene: WorldScene) -> bool:
    """Tell whether a scene comes near any look that is to be taught."""
    return any(_near(scene, look) for look in CONCEPTS.values())


def _near(scene: WorldScene, look: Look) -> bool:
    if look.style is not None:
        style, goal = scene.style, look.style
        same_light = distance(style.b, goal.b) < 0.3
        same_dark = distance(style.a, goal.a) < 0.3 or goal.mode == "pastel"
        return style.mode == goal.mode and same_light and same_dark
    goal = look.thing
    return goal is not None and any(_alike(placed.thing, goal) for placed in scene.things)


def _alike(thing: Thing, goal: Thing) -> bool:
    if (thing.kind, thing.texture) != (goal.kind, goal.texture):
        return False
    return distance(thing.color, goal.color) < 0.3 and distance(thing.pattern, goal.pattern) < 0.35


def allowed(scene: WorldScene) -> bool:
    """Tell whether training may show a scene."""
    return not is_held_out(scene) and not resembles_look(scene)


def random_scene(rng: random.Random) -> WorldScene:
    """Return a scene that training may show."""
    while not allowed(scene := any_scene(rng)):
        pass
    return scene
