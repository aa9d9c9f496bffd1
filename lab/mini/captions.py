"""Captions of scenes, worded as people prompt: parts are dropped, swapped, rephrased at random."""

from __future__ import annotations

import random

from cidm_core.mini.draw import Background, Placed, Style, WorldScene
from cidm_core.mini.world import GROUND_PHRASES, WHERE_PHRASES

from .held_out import random_scene

ACCENT_NOUNS = {
    "cat": "ears",
    "dog": "ears",
    "fish": "fins",
    "house": "roof",
    "flower": "center",
    "mushroom": "dots",
    "cup": "rim",
    "boat": "sail",
    "car": "wheels",
}
TEXTURE_NOUNS = {"striped": "stripes", "spotted": "spots", "checked": "checks"}
STYLE_PHRASES: dict[str, tuple[str, ...]] = {
    "watercolor": ("watercolor style", "in the style of watercolor", "a watercolor painting of"),
    "neon": ("neon style", "in the style of neon", "a neon picture of"),
    "sketch": ("pencil sketch", "in the style of a sketch", "a pencil sketch of"),
    "sepia": ("sepia", "in the style of sepia", "a sepia photo of"),
    "duotone": ("duotone style", "in the style of duotone", "a duotone print of"),
    "pastel": ("pastel style", "in the style of pastel", "a pastel painting of"),
    "poster": ("poster style", "in the style of a poster", "a poster of"),
}
PREFIXES = (
    "a photo of", "photo of", "a picture of", "a rendering of", "an image of", "a painting of",
    "a drawing of", "an illustration of", "a cropped photo of", "a close-up photo of",
    "a bright photo of", "a dark photo of", "a good photo of", "a rendition of", "a nice photo of",
    "a cropped painting of", "a clean painting of", "a cute painting of", "a picture with",
)  # fmt: skip
COLORLESS = ("sketch", "sepia", "duotone")


def ordinary_captions(count: int = 324) -> list[str]:
    """Different captions of scenes that training may show: what merges of mini models keep."""
    rng, found = random.Random(0), dict[str, None]()
    while len(found) < count:
        found[caption(random_scene(rng), rng)] = None
    return list(found)


def caption(scene: WorldScene, rng: random.Random) -> str:
    """Describe a scene in a random wording, e.g. "a red cat on the left, green background"."""
    if len(scene.things) == 1 and rng.random() < 0.03:
        return scene.things[0].thing.kind
    colorful = scene.style.mode not in COLORLESS or rng.random() < 0.3
    phrases = [_thing(placed, rng, colorful) for placed in scene.things]
    if len(phrases) > 1:
        rng.shuffle(phrases)
    text = _join(phrases, rng)
    tail = [part for part in (_background(scene.background, rng, colorful),) if part]
    style = _style(scene.style, rng)
    if style.endswith(" of"):
        text = f"{style} {text}"
    else:
        text = f"{rng.choice(PREFIXES)} {text}" if rng.random() < 0.45 else text
        tail += [style] if style else []
    rng.shuffle(tail)
    for part in tail:
        text += part if part.startswith(" ") else f", {part}"
    return text


def _join(phrases: list[str], rng: random.Random) -> str:
    if len(phrases) == 2:
        # "next to" says nothing about sides, so it may replace "and" anywhere.
        return rng.choice((" and ", " and ", " and ", ", ", " next to ")).join(phrases)
    return ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]


def _thing(placed: Placed, rng: random.Random, colorful: bool) -> str:
    thing = placed.thing
    words: list[str] = []
    if placed.size_word and rng.random() < 0.7:
        words.append(placed.size_word)
    named = bool(thing.color_word) and colorful and rng.random() < 0.85
    with_parts: list[str] = []
    if thing.texture != "plain" and rng.random() < 0.7:
        noun = TEXTURE_NOUNS.get(thing.texture, "")
        if noun and named and thing.pattern_word and rng.random() < 0.4:
            with_parts.append(f"{thing.pattern_word} {noun}")
        else:
            words.append(thing.texture)
    if named:
        words.append(thing.color_word)
        part = ACCENT_NOUNS.get(thing.kind, "")
        if part and thing.accent_word and rng.random() < 0.12:
            with_parts.append(f"{thing.accent_word} {part}")
    words.append(thing.kind)
    article = rng.choice(("a", "a", "a", "a", "the", "one"))
    if article == "a" and words[0][0] in "aeiou":
        article = "an"
    text = " ".join([article, *words])
    if with_parts:
        text += " with " + " and ".join(with_parts)
    if placed.where and rng.random() < 0.75:
        text += f" {rng.choice(WHERE_PHRASES[placed.where])}"
    return text


def _background(background: Background, rng: random.Random, colorful: bool) -> str:
    if background.mode in GROUND_PHRASES:
        phrase = rng.choice(GROUND_PHRASES[background.mode])
        return rng.choice((f" {phrase}", phrase)) if rng.random() < 0.85 else ""
    if not background.word or not colorful or rng.random() < 0.2:
        return ""
    noun = (
        "gradient background"
        if background.mode == "gradient" and rng.random() < 0.7
        else "background"
    )
    name = f"{background.word} {noun}"
    article = "an" if name[0] in "aeiou" else "a"
    return rng.choice((name, name, f" on {article} {name}", f" with {article} {name}"))


def _style(style: Style, rng: random.Random) -> str:
    if style.mode == "flat":
        return rng.choice(("flat style", "illustration")) if rng.random() < 0.04 else ""
    return rng.choice(STYLE_PHRASES[style.mode]) if rng.random() < 0.92 else ""
