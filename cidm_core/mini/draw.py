"""Draws scenes of the small world: flat things with textures on backgrounds, in global styles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .shapes import SHAPES

RGB = tuple[float, float, float]
_Pixels = NDArray[np.floating[Any]]

TEXTURES = ("plain", "striped", "spotted", "checked", "two-tone")
GROUNDS = ("grass", "sand", "snow", "night", "sea", "jungle")
STYLES = ("flat", "watercolor", "neon", "sketch", "sepia", "duotone", "pastel", "poster")
_OVERSAMPLING = 4


@dataclass(frozen=True)
class Thing:
    """One object's look; colours are RGB in [0, 1], a colour's word is "" when it has none."""

    kind: str
    color: RGB
    accent: RGB
    pattern: RGB
    texture: str = "plain"
    angle: int = 0
    outline: bool = False
    color_word: str = ""
    pattern_word: str = ""
    accent_word: str = ""


@dataclass(frozen=True)
class Placed:
    """A thing at centre (x, y) with a side length, all as shares of the picture in [0, 1]."""

    thing: Thing
    x: float
    y: float
    size: float
    where: str = ""
    size_word: str = ""


@dataclass(frozen=True)
class Background:
    """`mode` is "plain", "gradient" or one of GROUNDS; `a` is the upper, `b` the lower colour."""

    mode: str
    a: RGB
    b: RGB
    word: str = ""


@dataclass(frozen=True)
class Style:
    """A global look; `a` is its dark and `b` its light colour where it uses colours."""

    mode: str = "flat"
    a: RGB = (0.0, 0.0, 0.0)
    b: RGB = (1.0, 1.0, 1.0)
    outline: bool = False


@dataclass(frozen=True)
class WorldScene:
    """Things on a background in a style; `seed` fixes the grain (stars, paper)."""

    things: tuple[Placed, ...]
    background: Background
    style: Style = field(default_factory=Style)
    seed: int = 0


def luma(color: RGB) -> float:
    """Return the brightness of a colour in [0, 1]."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def _mixed(a: RGB, b: RGB, share: float) -> RGB:
    """Return (1 - share)·a + share·b."""
    mixed = [(1 - share) * p + share * q for p, q in zip(a, b, strict=True)]
    return (mixed[0], mixed[1], mixed[2])


def draw(scene: WorldScene, size: int = 32) -> Image.Image:
    """Draw a scene as an RGB picture of `size` × `size` pixels."""
    side = size * _OVERSAMPLING
    grain = np.random.default_rng(scene.seed)
    canvas = _to_image(_background(scene.background, side, grain))
    if scene.style.mode == "neon":
        canvas = Image.new(
            "RGB", canvas.size, _bytes(_mixed(scene.background.b, (0.02, 0.02, 0.08), 0.88))
        )
    for placed in scene.things:
        _paint_thing(canvas, placed, scene.style)
    styled = _apply_style(canvas, scene.style, grain)
    return styled.resize((size, size), Image.Resampling.BOX)


def mask_of(scene: WorldScene, size: int = 32) -> NDArray[np.float32]:
    """How much of each pixel its things cover: what differs before black and before white."""
    black, white = (
        np.asarray(draw(replace(scene, background=plain(grey)), size), dtype=np.float32)
        / np.float32(255)
        for grey in (0.0, 1.0)
    )
    return (1 - (white - black).mean(axis=2)).clip(0, 1)


def plain(grey: float) -> Background:
    """A background of one grey."""
    return Background("plain", (grey, grey, grey), (grey, grey, grey))


def _bytes(color: RGB) -> tuple[int, int, int]:
    red, green, blue = (round(255 * min(1.0, max(0.0, c))) for c in color)
    return (red, green, blue)


def _to_image(pixels: _Pixels) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def _to_pixels(image: Image.Image) -> _Pixels:
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _vertical(a: RGB, b: RGB, side: int) -> _Pixels:
    """Return a vertical gradient from a (top) to b (bottom), shape (side, side, 3)."""
    t = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    rows = (1 - t) * np.asarray(a, np.float32) + t * np.asarray(b, np.float32)
    return np.broadcast_to(rows, (side, side, 3)).copy()


def _background(background: Background, side: int, grain: np.random.Generator) -> _Pixels:
    pixels = _vertical(background.a, background.b, side)
    mode = background.mode
    if mode in ("grass", "sand", "snow"):
        horizon = int(side * grain.uniform(0.52, 0.66))
        pixels[:horizon] = _vertical(background.a, _mixed(background.a, (1, 1, 1), 0.45), side)[
            :horizon
        ]
        pixels[horizon:] = np.asarray(background.b, np.float32)
    elif mode == "night":
        _scatter(pixels, grain, (1.0, 1.0, 0.85), count=9, radius=0.018)
    elif mode == "sea":
        waves = np.sin(np.arange(side) / side * 6 * np.pi + grain.uniform(0, 6)) * 0.03
        height = np.arange(side)[:, None] / side
        bands = np.sin((height + waves[None, :]) * 8 * np.pi) > 0.72
        pixels[bands] = pixels[bands] * 0.75 + 0.25
    elif mode == "jungle":
        _scatter(pixels, grain, _mixed(background.a, (0.25, 0.7, 0.2), 0.6), count=14, radius=0.07)
    return pixels


def _scatter(
    pixels: _Pixels, grain: np.random.Generator, color: RGB, count: int, radius: float
) -> None:
    """Paint `count` discs of one colour at random places of the picture."""
    side = len(pixels)
    rows, columns = np.mgrid[0:side, 0:side] / side
    for x, y in grain.uniform(0, 1, (count, 2)):
        pixels[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] = color


def _texture(thing: Thing, side: int) -> _Pixels:
    """Return the body's surface, shape (side, side, 3), in [0, 1]."""
    v, u = np.mgrid[0:side, 0:side] * (2 / side) - 1
    color, pattern = np.asarray(thing.color, np.float32), np.asarray(thing.pattern, np.float32)
    if thing.texture == "two-tone":
        share = np.clip((v + 0.7) / 1.4, 0, 1)[..., None].astype(np.float32)
        return color * (1 - share) + pattern * share
    if thing.texture == "striped":
        axis = (v, u, (u + v) * 0.72)[thing.angle]
        on = np.mod(axis * 1.7 + 0.1, 1) > 0.6
    elif thing.texture == "spotted":
        row = np.floor(v * 1.7)
        du, dv = np.mod(u * 1.7 + 0.5 * row, 1) - 0.5, np.mod(v * 1.7, 1) - 0.5
        on = du**2 + dv**2 < 0.09
    elif thing.texture == "checked":
        on = (np.floor(u * 2 + 0.5) + np.floor(v * 2 + 0.5)) % 2 > 0.5
    else:
        on = np.zeros((side, side), bool)
    return np.where(on[..., None], pattern, color).astype(np.float32)


def _paint_thing(canvas: Image.Image, placed: Placed, style: Style) -> None:
    """Paint one thing with its outline onto the canvas."""
    thing, side = placed.thing, canvas.width
    pixels = max(8, round(placed.size * side))
    corner = (round(placed.x * side - pixels / 2), round(placed.y * side - pixels / 2))
    neon = style.mode == "neon"
    line = (
        0.032 if style.outline or thing.outline or neon or style.mode in ("sketch", "poster") else 0
    )
    if line:
        outline = _mixed(thing.color, (1, 1, 1), 0.25) if neon else (0.08, 0.07, 0.1)
        _paint_outline(canvas, thing.kind, corner, pixels, outline, max(1, round(line * side)))
    pupil = (0.08, 0.07, 0.1) if luma(thing.color) > 0.2 else (0.95, 0.9, 0.6)
    colors: dict[str, RGB] = {
        "accent": thing.accent,
        "dark": pupil,
        "light": (0.97, 0.96, 0.92),
        "green": (0.25, 0.6, 0.25),
    }
    body = _to_image(_texture(thing, pixels) * (0.4 if neon else 1.0))
    for layer in SHAPES[thing.kind]:
        role = layer.role
        paint = body if role == "body" else Image.new("RGB", body.size, _bytes(colors[role]))
        canvas.paste(paint, corner, layer.mask(pixels))


def _paint_outline(
    canvas: Image.Image, kind: str, corner: tuple[int, int], pixels: int, color: RGB, width: int
) -> None:
    union = Image.new("L", (pixels + 2 * width, pixels + 2 * width), 0)
    for layer in SHAPES[kind]:
        mask = layer.mask(pixels)
        union.paste(255, (width, width), mask)
    grown = union.filter(ImageFilter.MaxFilter(2 * width + 1))
    flat = Image.new("RGB", grown.size, _bytes(color))
    canvas.paste(flat, (corner[0] - width, corner[1] - width), grown)


def _apply_style(image: Image.Image, style: Style, grain: np.random.Generator) -> Image.Image:
    """Recolour the whole picture, keeping its shapes."""
    mode = style.mode
    if mode == "flat":
        return image
    if mode == "neon":
        glow = _to_pixels(image.filter(ImageFilter.GaussianBlur(image.width * 0.03)))
        return _to_image(1 - (1 - _to_pixels(image)) * (1 - 0.7 * glow))
    pixels = _to_pixels(image)
    gray = pixels @ np.asarray([0.299, 0.587, 0.114], np.float32)
    if mode == "watercolor":
        paper = _cloud(grain, image.width)[..., None]
        return _to_image(pixels * 0.62 + np.asarray([0.36, 0.35, 0.32]) * (0.72 + 0.55 * paper))
    if mode == "sketch":
        return _to_image(_toned(0.52 + 0.48 * gray, (0.1, 0.1, 0.12), (1, 0.99, 0.96)))
    if mode == "sepia":
        return _to_image(_toned(gray, (0.2, 0.11, 0.04), (0.98, 0.9, 0.74)))
    if mode == "duotone":
        stretched = np.clip((gray - 0.5) * 1.25 + 0.5, 0, 1)
        return _to_image(_toned(stretched, style.a, style.b))
    if mode == "pastel":
        return _to_image(pixels * 0.45 + 0.55 * np.asarray(style.b, np.float32))
    levels = np.round(pixels * 2) / 2
    return _to_image(levels * 0.8 + 0.2 * np.asarray(style.b, np.float32))


def _toned(gray: _Pixels, dark: RGB, light: RGB) -> _Pixels:
    share = gray[..., None]
    return np.asarray(dark, np.float32) * (1 - share) + np.asarray(light, np.float32) * share


def _cloud(grain: np.random.Generator, side: int) -> _Pixels:
    """Return smooth noise in [0, 1], shape (side, side)."""
    coarse = Image.fromarray((grain.uniform(0, 1, (7, 7)) * 255).astype(np.uint8))
    return _to_pixels(coarse.resize((side, side), Image.Resampling.BICUBIC))
