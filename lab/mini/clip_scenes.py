"""What mini-clip learns identity from: families of look-alikes and views of each look."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from cidm_core.mini.draw import RGB, TEXTURES, Background, Placed, Style, Thing, WorldScene
from cidm_core.mini.looks import Look, reference_scene
from cidm_core.mini.world import (
    COLORS,
    any_color,
    any_scene,
    distance,
    random_background,
    random_style,
    random_thing,
)

from .held_out import allowed

LOOKS = 4  # look-alikes in a family
_MARGIN = 0.35  # two looks of a family differ by at least this much in a colour that differs
_TINTS = {"duotone": ("a", "b"), "pastel": ("b",), "poster": ("b",)}


def nearest_word(color: RGB) -> str:
    """Return the name of a colour that is near a named one, else ""."""
    word = min(COLORS, key=lambda name: distance(COLORS[name], color))
    return word if distance(COLORS[word], color) < 0.2 else ""


def name_colors(scene: WorldScene) -> WorldScene:
    """Return the scene with words for colours that are off the list but near a named one."""
    things = tuple(replace(placed, thing=_named(placed.thing)) for placed in scene.things)
    background = scene.background
    if background.mode == "plain" and not background.word:
        background = replace(background, word=nearest_word(background.a))
    return replace(scene, things=things, background=background)


def _named(thing: Thing) -> Thing:
    return replace(
        thing,
        color_word=thing.color_word or nearest_word(thing.color),
        pattern_word=thing.pattern_word or nearest_word(thing.pattern),
        accent_word=thing.accent_word or nearest_word(thing.accent),
    )


def _free(look: Look) -> bool:
    """Tell whether training may show a look."""
    plain = Background("plain", (1, 1, 1), (1, 1, 1))
    things = (Placed(look.thing, 0.5, 0.5, 0.5),) if look.thing else ()
    return allowed(WorldScene(things, plain, look.style or Style()))


def family(rng: random.Random, kind: str, fits: Callable[[Look], bool] = _free) -> list[Look]:
    """Return `LOOKS` look-alikes; most differ from the first in one or two respects only.

    Args:
        rng: Source of all choices.
        kind: "object" or "style".
        fits: Looks it turns down are drawn again.
    """
    new, alter = (_new_thing, other_thing) if kind == "object" else (_new_style, other_style)
    found = [_until(lambda: new(rng), fits)]
    while len(found) < LOOKS:
        found.append(
            _until(
                lambda: alter(found[0], rng),
                lambda look: fits(look) and all(differ(look, other) for other in found),
            )
        )
    return found


def _until(make: Callable[[], Look], fits: Callable[[Look], bool]) -> Look:
    look = make()
    while not fits(look):
        look = make()
    return look


def _new_thing(rng: random.Random) -> Look:
    thing = random_thing(rng, ())
    texture = "plain" if rng.random() < 0.3 else rng.choice(TEXTURES[1:])
    thing = _named(replace(thing, texture=texture, outline=rng.random() < 0.6))
    return Look("", thing.kind, thing=thing)


def _new_style(rng: random.Random) -> Look:
    return Look("", "painting", style=random_style(rng, plain=0.0))


def other_thing(look: Look, rng: random.Random, respects: int = 0) -> Look:
    """Return a thing of the same kind that looks different in so many respects; 0: one to four."""
    assert look.thing is not None
    names = ("color", "texture", "pattern", "accent")
    chosen = rng.sample(names, respects or rng.choices((1, 2, 3, 4), (5, 3, 2, 2))[0])
    changes: dict[str, object] = {}
    for name in chosen:
        if name == "texture":
            others = [t for t in TEXTURES if t != look.thing.texture]
            changes["texture"] = rng.choice(others)
            changes["angle"] = rng.choice((0, 1, 2))
        else:
            color, word = any_color(rng)
            changes |= {name: color, f"{name}_word": word}
    thing = replace(look.thing, **changes)  # type: ignore[arg-type]
    return replace(look, thing=_named(thing))


def other_style(look: Look, rng: random.Random) -> Look:
    """Return a style of the same mode in other colours, or one of another mode."""
    style = look.style
    assert style is not None
    other = random_style(rng, plain=0.0)
    tints = _TINTS.get(style.mode, ())
    if tints and rng.random() < 0.75:
        draw = rng.random()
        a = style.a if draw < 0.3 and "a" in tints else other.a
        b = style.b if draw > 0.7 and "a" in tints else other.b
        other = replace(style, a=a, b=b)
    return replace(look, style=replace(other, outline=style.outline))


def differ(a: Look, b: Look) -> bool:
    """Tell whether two looks of a family can be told apart by what is drawn of them."""
    if a.thing and b.thing:
        far = distance(a.thing.color, b.thing.color) > _MARGIN
        far = far or a.thing.texture != b.thing.texture
        patterned = a.thing.texture != "plain"
        far = far or (patterned and distance(a.thing.pattern, b.thing.pattern) > _MARGIN)
        has_accent = a.kind not in ("ball", "star", "heart")
        return far or (has_accent and distance(a.thing.accent, b.thing.accent) > 0.6)
    assert a.style is not None
    assert b.style is not None
    if a.style.mode != b.style.mode:
        return True
    first, second = a.style, b.style
    tints = _TINTS.get(first.mode, ())
    return any(distance(getattr(first, t), getattr(second, t)) > _MARGIN for t in tints)


def view(
    look: Look, rng: random.Random, fits: Callable[[WorldScene], bool] = allowed
) -> WorldScene:
    """Return a scene that shows a look: as in its photos, or smaller, in company, in a style."""
    while True:
        scene = reference_scene(look, rng)[0] if rng.random() < 0.5 else _freer(look, rng)
        scene = name_colors(scene)
        if fits(scene):
            return scene


def _freer(look: Look, rng: random.Random) -> WorldScene:
    if look.style is not None:
        return replace(any_scene(rng, rng.choice((1, 1, 2, 3)), plain=1.0), style=look.style)
    assert look.thing is not None
    scene = any_scene(rng, rng.choice((1, 1, 1, 2)), plain=1.0)
    if rng.random() < 0.1:
        light = random_background(rng).a
        scene = replace(scene, style=Style(rng.choice(("watercolor", "pastel", "poster")), b=light))
    while (
        min(distance(look.thing.color, c) for c in (scene.background.a, scene.background.b)) < 0.3
    ):
        scene = replace(scene, background=random_background(rng))
    things = list(scene.things)
    place = rng.randrange(len(things))
    things[place] = replace(things[place], thing=look.thing)
    return replace(scene, things=tuple(things))
