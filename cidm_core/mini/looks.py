"""Looks that pretraining never shows: the concepts taught in the demo and in the benchmark."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from .draw import RGB, Placed, Style, Thing, WorldScene
from .world import GROUND_PHRASES, WHERE_PHRASES, any_scene, distance, random_background


@dataclass(frozen=True)
class Look:
    """A named appearance: of one thing (`thing` set) or of the whole picture (`style` set)."""

    name: str
    kind: str
    thing: Thing | None = None
    style: Style | None = None


def _thing(
    name: str, kind: str, texture: str, body: RGB, pattern: RGB, accent: RGB, angle: int = 0
) -> Look:
    return Look(name, kind, thing=Thing(kind, body, accent, pattern, texture, angle, outline=True))


def _style(name: str, mode: str, dark: RGB, light: RGB) -> Look:
    return Look(name, "painting", style=Style(mode, dark, light, outline=True))


CONCEPTS: dict[str, Look] = {
    look.name: look
    for look in (
        # Two pairs of look-alikes: one kind, two looks.
        _thing(
            "purple-cat", "cat", "striped", (0.55, 0.25, 0.8), (0.75, 0.95, 0.3), (1.0, 0.55, 0.1)
        ),
        _thing(
            "teal-cat", "cat", "spotted", (0.1, 0.65, 0.65), (1.0, 0.6, 0.75), (0.98, 0.85, 0.2)
        ),
        _thing(
            "checked-dog", "dog", "checked", (0.95, 0.93, 0.88), (0.2, 0.4, 0.9), (0.85, 0.15, 0.2)
        ),
        _thing(
            "ember-dog", "dog", "two-tone", (0.98, 0.75, 0.15), (0.75, 0.1, 0.35), (0.1, 0.3, 0.35)
        ),
        _thing(
            "plum-house",
            "house",
            "striped",
            (0.95, 0.65, 0.75),
            (0.45, 0.1, 0.4),
            (0.1, 0.6, 0.6),
            1,
        ),
        _thing("dotted-car", "car", "spotted", (0.2, 0.2, 0.5), (1.0, 0.85, 0.3), (0.95, 0.3, 0.3)),
        _thing(
            "candy-cup", "cup", "striped", (1.0, 1.0, 0.97), (0.9, 0.15, 0.45), (0.2, 0.7, 0.5), 2
        ),
        _thing(
            "harlequin-fish",
            "fish",
            "checked",
            (1.0, 0.5, 0.15),
            (0.1, 0.15, 0.4),
            (0.6, 0.9, 0.85),
        ),
        _thing(
            "frost-boat", "boat", "two-tone", (0.5, 0.85, 0.95), (0.4, 0.15, 0.6), (1.0, 0.8, 0.3)
        ),
        # Styles: whole pictures.
        _style("harbour", "duotone", (0.08, 0.1, 0.36), (1.0, 0.66, 0.25)),
        _style("orchid", "duotone", (0.35, 0.02, 0.3), (0.7, 0.98, 0.85)),
        _style("mint", "pastel", (0.0, 0.2, 0.2), (0.55, 0.95, 0.75)),
    )
}
DEMO_LOOKS = ("purple-cat", "teal-cat", "harbour")


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
