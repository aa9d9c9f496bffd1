"""What mini-clip learns from: families of look-alikes, their views, and captions that are wrong."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

from .captions import caption
from .draw import GROUNDS, RGB, STYLES, TEXTURES, Background, Placed, Scene, Style, Thing
from .looks import Look, reference_scene, resembles_look
from .shapes import KINDS
from .world import (
    COLORS,
    GROUND_PHRASES,
    STYLE_PHRASES,
    TEXTURE_NOUNS,
    WHERE_PHRASES,
    any_color,
    any_scene,
    distance,
    is_held_out,
    random_background,
    random_style,
    random_thing,
)

LOOKS = 4  # look-alikes in a family
COLORLESS = ("sketch", "sepia", "duotone")
_MARGIN = 0.35  # two looks of a family differ by at least this much in a colour that differs
_TINTS = {"duotone": ("a", "b"), "pastel": ("b",), "poster": ("b",)}


def nearest_word(color: RGB) -> str:
    """Return the name of a colour that is near a named one, else ""."""
    word = min(COLORS, key=lambda name: distance(COLORS[name], color))
    return word if distance(COLORS[word], color) < 0.2 else ""


def name_colors(scene: Scene) -> Scene:
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


def allowed(scene: Scene) -> bool:
    """Tell whether training may show a scene: nothing held out, no concept's look."""
    return not is_held_out(scene) and not resembles_look(scene)


def _free(look: Look) -> bool:
    """Tell whether training may show a look."""
    plain = Background("plain", (1, 1, 1), (1, 1, 1))
    things = (Placed(look.thing, 0.5, 0.5, 0.5),) if look.thing else ()
    return allowed(Scene(things, plain, look.style or Style()))


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


def view(look: Look, rng: random.Random, fits: Callable[[Scene], bool] = allowed) -> Scene:
    """Return a scene that shows a look: as in its photos, or smaller, in company, in a style."""
    while True:
        scene = reference_scene(look, rng)[0] if rng.random() < 0.5 else _freer(look, rng)
        scene = name_colors(scene)
        if fits(scene):
            return scene


def _freer(look: Look, rng: random.Random) -> Scene:
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


# Wrong captions: the right caption's random choices applied to a scene in which one thing differs.

Altered = tuple[Scene, tuple[str, ...]]  # the other scene, and the phrases that say so


def _with(scene: Scene, index: int, **changes: str) -> Scene:
    things = list(scene.things)
    thing = replace(things[index].thing, **changes)  # type: ignore[arg-type]
    things[index] = replace(things[index], thing=thing)
    return replace(scene, things=tuple(things))


def _other_color(scene: Scene, rng: random.Random) -> Altered | None:
    index = rng.randrange(len(scene.things))
    thing = scene.things[index].thing
    taken = {p.thing.color_word for p in scene.things if p.thing.kind == thing.kind}
    if scene.style.mode in COLORLESS or not thing.color_word:
        return None
    word = rng.choice([c for c in COLORS if c not in taken])
    return _with(scene, index, color_word=word), (f"{word} {thing.kind}",)


def _swapped_colors(scene: Scene, _rng: random.Random) -> Altered | None:
    if scene.style.mode in COLORLESS or len(scene.things) != 2:
        return None
    first, second = (placed.thing for placed in scene.things)
    words = {first.color_word, second.color_word}
    if first.kind == second.kind or len(words) < 2 or "" in words:
        return None
    swapped = _with(scene, 0, color_word=second.color_word)
    swapped = _with(swapped, 1, color_word=first.color_word)
    phrases = f"{second.color_word} {first.kind}", f"{first.color_word} {second.kind}"
    return swapped, phrases


def _other_kind(scene: Scene, rng: random.Random) -> Altered | None:
    taken = {placed.thing.kind for placed in scene.things}
    kind = rng.choice([k for k in KINDS if k not in taken])
    return _with(scene, rng.randrange(len(scene.things)), kind=kind), (kind,)


def _other_texture(scene: Scene, rng: random.Random) -> Altered | None:
    taken = {placed.thing.texture for placed in scene.things}
    texture = rng.choice([t for t in TEXTURES[1:] if t not in taken] or [""])
    if not texture:
        return None
    altered = _with(scene, rng.randrange(len(scene.things)), texture=texture)
    return altered, (texture, TEXTURE_NOUNS.get(texture, texture))


def _other_side(scene: Scene, rng: random.Random) -> Altered | None:
    things = list(scene.things)
    if len(things) == 1:
        where = rng.choice([w for w in WHERE_PHRASES if w != things[0].where])
        things[0] = replace(things[0], where=where)
        return replace(scene, things=tuple(things)), WHERE_PHRASES[where]
    i, j = rng.sample(range(len(things)), 2)
    if len({placed.thing.kind for placed in things}) < len(things):
        return None
    places = things[j].where, things[i].where
    phrases = [
        f"{things[k].thing.kind} {phrase}"
        for k, where in zip((i, j), places, strict=True)
        for phrase in WHERE_PHRASES[where]
    ]
    things[i], things[j] = (
        replace(things[i], where=places[0]),
        replace(things[j], where=places[1]),
    )
    return replace(scene, things=tuple(things)), tuple(phrases)


def _other_background(scene: Scene, rng: random.Random) -> Altered | None:
    old = scene.background
    if scene.style.mode not in ("flat", "watercolor", "pastel", "poster"):
        return None
    if rng.random() < 0.5:
        mode = rng.choice([m for m in GROUNDS if m != old.mode])
        return replace(scene, background=replace(old, mode=mode, word="")), GROUND_PHRASES[mode]
    word = rng.choice([w for w in COLORS if w not in (old.word, nearest_word(old.a))])
    phrases = f"{word} background", f"{word} gradient background"
    return replace(scene, background=replace(old, mode="plain", word=word)), phrases


def _other_mode(scene: Scene, rng: random.Random) -> Altered | None:
    mode = rng.choice([m for m in STYLES[1:] if m != scene.style.mode])
    return replace(scene, style=replace(scene.style, mode=mode)), STYLE_PHRASES[mode]


ASPECTS: dict[str, Callable[[Scene, random.Random], Altered | None]] = {
    "color": _other_color,
    "binding": _swapped_colors,
    "kind": _other_kind,
    "texture": _other_texture,
    "side": _other_side,
    "background": _other_background,
    "style": _other_mode,
}


def wrong_caption(scene: Scene, aspect: str, seed: int) -> tuple[str, str]:
    """Return a caption of a scene and one that is wrong in one aspect; that one may be ""."""
    right = caption(scene, random.Random(seed))
    altered = ASPECTS[aspect](scene, random.Random(seed + 1))
    if altered is None:
        return right, ""
    wrong = caption(altered[0], random.Random(seed))
    states = _count(wrong, altered[1]) > _count(right, altered[1])
    return right, wrong if states else ""


def _count(text: str, phrases: tuple[str, ...]) -> int:
    return sum(len(re.findall(rf"\b{re.escape(phrase)}\b", text)) for phrase in set(phrases))


def caption_pair(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Return a caption and one wrong in a random aspect it states; that one is "" after 6 tries."""
    seed = rng.randrange(1 << 30)
    right = ""
    for aspect in rng.choices(tuple(ASPECTS), k=6):
        right, wrong = wrong_caption(scene, aspect, seed)
        if wrong:
            return right, wrong
    return right, ""
