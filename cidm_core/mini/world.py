"""Random scenes of the small world, and words for its colours, grounds and places.

Everything is deterministic from a `random.Random`.
"""

from __future__ import annotations

import colorsys
import random

from .draw import GROUNDS, RGB, TEXTURES, Background, Placed, Style, Thing, WorldScene, luma
from .shapes import THING_KINDS

COLORS: dict[str, RGB] = {
    "red": (0.86, 0.15, 0.16),
    "orange": (0.96, 0.52, 0.1),
    "yellow": (0.98, 0.84, 0.18),
    "green": (0.2, 0.66, 0.25),
    "teal": (0.05, 0.62, 0.62),
    "blue": (0.18, 0.35, 0.88),
    "purple": (0.52, 0.2, 0.74),
    "pink": (0.98, 0.52, 0.72),
    "brown": (0.48, 0.29, 0.15),
    "white": (0.96, 0.96, 0.95),
    "black": (0.1, 0.1, 0.12),
    "gray": (0.54, 0.55, 0.57),
}
GROUND_COLORS: dict[str, tuple[RGB, RGB]] = {
    "grass": ((0.5, 0.76, 0.96), (0.38, 0.72, 0.3)),
    "sand": ((0.42, 0.74, 0.96), (0.93, 0.82, 0.56)),
    "snow": ((0.68, 0.78, 0.9), (0.95, 0.97, 1.0)),
    "night": ((0.04, 0.05, 0.2), (0.16, 0.17, 0.42)),
    "sea": ((0.2, 0.6, 0.88), (0.05, 0.3, 0.65)),
    "jungle": ((0.1, 0.4, 0.16), (0.06, 0.24, 0.1)),
}
GROUND_PHRASES: dict[str, tuple[str, ...]] = {
    "grass": ("on grass", "on the grass", "in a green field"),
    "sand": ("on sand", "on the beach", "on a sandy beach"),
    "snow": ("on snow", "in the snow", "in snow"),
    "night": ("at night", "in the night", "under a starry sky"),
    "sea": ("in the sea", "in the water", "under water"),
    "jungle": ("in the jungle", "in the forest", "in a dark jungle"),
}
WHERE_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle", "in the center"),
}
# Where the centre of a single thing is.
ALONE: dict[str, tuple[float, float]] = {
    "left": (0.29, 0.5),
    "right": (0.71, 0.5),
    "top": (0.5, 0.29),
    "bottom": (0.5, 0.71),
    "middle": (0.5, 0.5),
}


def distance(a: RGB, b: RGB) -> float:
    """Return the Euclidean distance of two colours."""
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5


def random_color(rng: random.Random) -> RGB:
    """Return any colour, saturated ones more often."""
    return colorsys.hsv_to_rgb(rng.random(), rng.random() ** 0.6, 0.15 + 0.85 * rng.random() ** 0.6)


def named_color(rng: random.Random, word: str) -> RGB:
    """Return a colour a little off the named one."""
    hue, saturation, value = colorsys.rgb_to_hsv(*COLORS[word])
    return colorsys.hsv_to_rgb(
        (hue + rng.uniform(-0.015, 0.015)) % 1,
        min(1.0, max(0.0, saturation + rng.uniform(-0.06, 0.06) * (saturation > 0.15))),
        min(1.0, max(0.0, value + rng.uniform(-0.05, 0.04))),
    )


def any_color(rng: random.Random, named: float = 0.75) -> tuple[RGB, str]:
    """Return a colour and its word; the word is "" for the colours off the list."""
    if rng.random() < named:
        word = rng.choice(tuple(COLORS))
        return named_color(rng, word), word
    return random_color(rng), ""


def _far_color(rng: random.Random, *others: RGB, named: float = 0.75) -> tuple[RGB, str]:
    """Return a colour that can be told from all the others."""
    color, word = any_color(rng, named)
    for _ in range(20):
        if all(distance(color, other) > 0.4 for other in others):
            break
        color, word = any_color(rng, named)
    return color, word


def random_thing(rng: random.Random, backdrop: tuple[RGB, ...]) -> Thing:
    """Return a thing whose body stands out from the backdrop's colours."""
    color, color_word = _far_color(rng, *backdrop)
    accent, accent_word = _far_color(rng, color, *backdrop[:1], named=0.5)
    pattern, pattern_word = _far_color(rng, color, named=0.5)
    plain = rng.random() < 0.55
    return Thing(
        kind=rng.choice(THING_KINDS),
        color=color,
        accent=accent,
        pattern=pattern,
        texture="plain" if plain else rng.choice(TEXTURES[1:]),
        angle=rng.choice((0, 0, 1, 2)),
        outline=rng.random() < 0.25,
        color_word=color_word,
        pattern_word=pattern_word,
        accent_word=accent_word,
    )


def random_background(rng: random.Random) -> Background:
    """Return a plain colour, a gradient or a ground."""
    draw = rng.random()
    if draw < 0.45:
        color, word = any_color(rng, named=0.8)
        return Background("plain", color, color, word)
    if draw < 0.62:
        color, word = any_color(rng)
        white = rng.uniform(0.35, 0.8)
        pale = (1 - white * (1 - color[0]), 1 - white * (1 - color[1]), 1 - white * (1 - color[2]))
        other = random_color(rng) if not word else pale
        return Background("gradient", color, other, word)
    mode = rng.choice(GROUNDS)
    sky, ground = GROUND_COLORS[mode]
    return Background(mode, _nudge(rng, sky), _nudge(rng, ground))


def _nudge(rng: random.Random, color: RGB) -> RGB:
    red, green, blue = (min(1.0, max(0.0, c + rng.uniform(-0.04, 0.04))) for c in color)
    return (red, green, blue)


def random_style(rng: random.Random, plain: float = 0.7) -> Style:
    """Return the flat style with probability `plain`, else a named or a two-colour one."""
    if rng.random() < plain:
        return Style()
    mode = rng.choice(
        ("watercolor", "neon", "sketch", "sepia", "duotone", "duotone", "pastel", "poster")
    )
    dark, light = random_color(rng), random_color(rng)
    for _ in range(20):
        if luma(light) - luma(dark) > 0.3:
            break
        dark, light = random_color(rng), random_color(rng)
    return Style(mode, dark, light, outline=rng.random() < 0.4)


def _size(rng: random.Random, low: float, high: float) -> tuple[float, str]:
    """Return a size in [low, high]; its word is "" in the middle of the range."""
    step = (high - low) / 4
    draw = rng.random()
    if draw < 0.2:
        return rng.uniform(low, low + step), "small"
    if draw < 0.4:
        return rng.uniform(high - step, high), "large"
    return rng.uniform(low + step, high - step), ""


def _places(rng: random.Random, count: int) -> list[tuple[float, float, float, str, str]]:
    """Return (x, y, size, place word, size word) for each of `count` things, without overlap."""
    wobble = lambda: rng.uniform(-0.03, 0.03)  # noqa: E731
    if count == 1:
        where = rng.choice(("left", "right", "top", "bottom", "middle", "middle", "middle"))
        size, word = _size(rng, 0.34, 0.82 if where == "middle" else 0.56)
        x, y = ALONE[where]
        return [(x + wobble(), y + wobble(), size, where, word)]
    if count == 2:
        upright = rng.random() < 0.3
        words = ("top", "bottom") if upright else ("left", "right")
        found: list[tuple[float, float, float, str, str]] = []
        for where, along in zip(words, (0.255, 0.745), strict=True):
            size, word = _size(rng, 0.31, 0.49)
            across = 0.5 + (0.0 if upright else 0.06) + rng.uniform(-0.09, 0.09)
            x, y = (across, along) if upright else (along, across)
            found.append((x + wobble() / 2, y + wobble() / 2, size, where, word))
        return found
    row = [(0.2, "left"), (0.5, "middle"), (0.8, "right")]
    lift = rng.choice((-0.22, 0.0, 0.22))
    return [
        (
            x,
            0.5 + (lift if where == "middle" else -lift / 2) + wobble(),
            rng.uniform(0.28, 0.33),
            where,
            "",
        )
        for x, where in row
    ]


def any_scene(rng: random.Random, count: int | None = None, plain: float = 0.7) -> WorldScene:
    """Return a scene of one to three things, whatever training may be shown."""
    background = random_background(rng)
    backdrop = (background.a, background.b)
    number = count or rng.choices((1, 2, 3), (0.42, 0.46, 0.12))[0]
    things: list[Placed] = []
    for place in _places(rng, number):
        thing = random_thing(rng, backdrop)
        x, y, size, where, word = place
        things.append(Placed(thing, x, y, size, where, word))
    return WorldScene(tuple(things), background, random_style(rng, plain), rng.randrange(1 << 30))
