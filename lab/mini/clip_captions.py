"""Captions that are wrong in one aspect, for mini-clip's training and its check.

A wrong caption makes the right one's random choices for a scene in which one thing differs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

from cidm_core.mini.draw import GROUNDS, STYLES, TEXTURES, WorldScene
from cidm_core.mini.shapes import THING_KINDS
from cidm_core.mini.world import COLORS, GROUND_PHRASES, WHERE_PHRASES

from .captions import COLORLESS, STYLE_PHRASES, TEXTURE_NOUNS, caption
from .clip_scenes import nearest_word

Altered = tuple[WorldScene, tuple[str, ...]]  # the other scene, and the phrases that say so


def _with(scene: WorldScene, index: int, **changes: str) -> WorldScene:
    things = list(scene.things)
    thing = replace(things[index].thing, **changes)  # type: ignore[arg-type]
    things[index] = replace(things[index], thing=thing)
    return replace(scene, things=tuple(things))


def _other_color(scene: WorldScene, rng: random.Random) -> Altered | None:
    index = rng.randrange(len(scene.things))
    thing = scene.things[index].thing
    taken = {p.thing.color_word for p in scene.things if p.thing.kind == thing.kind}
    if scene.style.mode in COLORLESS or not thing.color_word:
        return None
    word = rng.choice([c for c in COLORS if c not in taken])
    return _with(scene, index, color_word=word), (f"{word} {thing.kind}",)


def _swapped_colors(scene: WorldScene, _rng: random.Random) -> Altered | None:
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


def _other_kind(scene: WorldScene, rng: random.Random) -> Altered | None:
    taken = {placed.thing.kind for placed in scene.things}
    kind = rng.choice([k for k in THING_KINDS if k not in taken])
    return _with(scene, rng.randrange(len(scene.things)), kind=kind), (kind,)


def _other_texture(scene: WorldScene, rng: random.Random) -> Altered | None:
    taken = {placed.thing.texture for placed in scene.things}
    texture = rng.choice([t for t in TEXTURES[1:] if t not in taken] or [""])
    if not texture:
        return None
    altered = _with(scene, rng.randrange(len(scene.things)), texture=texture)
    return altered, (texture, TEXTURE_NOUNS.get(texture, texture))


def _other_side(scene: WorldScene, rng: random.Random) -> Altered | None:
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


def _other_background(scene: WorldScene, rng: random.Random) -> Altered | None:
    old = scene.background
    if scene.style.mode not in ("flat", "watercolor", "pastel", "poster"):
        return None
    if rng.random() < 0.5:
        mode = rng.choice([m for m in GROUNDS if m != old.mode])
        return replace(scene, background=replace(old, mode=mode, word="")), GROUND_PHRASES[mode]
    word = rng.choice([w for w in COLORS if w not in (old.word, nearest_word(old.a))])
    phrases = f"{word} background", f"{word} gradient background"
    return replace(scene, background=replace(old, mode="plain", word=word)), phrases


def _other_mode(scene: WorldScene, rng: random.Random) -> Altered | None:
    mode = rng.choice([m for m in STYLES[1:] if m != scene.style.mode])
    return replace(scene, style=replace(scene.style, mode=mode)), STYLE_PHRASES[mode]


ASPECTS: dict[str, Callable[[WorldScene, random.Random], Altered | None]] = {
    "color": _other_color,
    "binding": _swapped_colors,
    "kind": _other_kind,
    "texture": _other_texture,
    "side": _other_side,
    "background": _other_background,
    "style": _other_mode,
}


def wrong_caption(scene: WorldScene, aspect: str, seed: int) -> tuple[str, str]:
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


def caption_pair(scene: WorldScene, rng: random.Random) -> tuple[str, str]:
    """Return a caption and one wrong in a random aspect it states; that one is "" after 6 tries."""
    seed = rng.randrange(1 << 30)
    right = ""
    for aspect in rng.choices(tuple(ASPECTS), k=6):
        right, wrong = wrong_caption(scene, aspect, seed)
        if wrong:
            return right, wrong
    return right, ""
