"""Where the regions of a picture lie: numbered boxes and masks with their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .canvas import INK, LINE, PAPER, SHADE, Canvas, Color, color, line_height, wrap

_LONGEST_PX = 480
_BADGE = 24
_TEXT = 14


class DrawnRegion(Protocol):
    """What a region needs to be drawn: a prompt and a box or a mask."""

    @property
    def prompt(self) -> str: ...

    @property
    def box(self) -> Sequence[float] | None: ...

    @property
    def mask(self) -> Any: ...


def layout_picture(
    regions: Sequence[DrawnRegion],
    width: int,
    height: int,
    picture: Image.Image | None = None,
    title: str = "",
) -> Image.Image:
    """Draw the regions on an empty canvas, or over a picture, with a numbered key below.

    Args:
        regions: Boxes in 0..1, or masks (height, width) in 0..1.
        width: Width of the picture they belong to; only the shape counts, small ones are enlarged.
        height: Its height.
        picture: Shown under the regions.
        title: Printed on top.
    """
    scale = _LONGEST_PX / max(width, height)
    size = max(64, round(width * scale)), max(64, round(height * scale))
    lines = [wrap(region.prompt, _TEXT, size[0] - _BADGE - 12, 3) for region in regions]
    row_heights = [max(_BADGE, line_height(_TEXT) * len(each)) + 8 for each in lines]
    head = 44 if title else 16
    canvas = Canvas(size[0] + 32, head + size[1] + 14 + sum(row_heights) + 8)
    if title:
        canvas.text(16, 12, title, 17, width=size[0], bold=True)
    canvas.image(16, head, _overlay(regions, size, picture))
    taken: list[tuple[float, float]] = []
    for i, region in enumerate(regions):
        _badge(canvas, *_badge_place(region, size, head, taken), i)
    y = head + size[1] + 14
    for i, (text, row) in enumerate(zip(lines, row_heights, strict=True)):
        _badge(canvas, 16, y, i)
        top = y + _BADGE / 2 - line_height(_TEXT) / 2 if len(text) < 2 else y
        for k, line in enumerate(text):
            canvas.text(16 + _BADGE + 10, top + k * line_height(_TEXT), line, _TEXT, INK)
        y += row
    return canvas.finish()


def _overlay(
    regions: Sequence[DrawnRegion], size: tuple[int, int], picture: Image.Image | None
) -> Image.Image:
    if picture is None:
        sheet = Image.new("RGB", size, SHADE)
    else:
        sheet = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    strength = 0.30 if picture is None else 0.16
    for i, region in enumerate(regions):
        inner, edge = _coverage(region, size)
        sheet = _tint(sheet, inner * strength, color(i))
        sheet = _tint(sheet, edge, color(i))
    return _tint(sheet, _rim(np.ones((size[1], size[0]), bool), 1).astype(np.float64), LINE)


def _coverage(
    region: DrawnRegion, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much each pixel belongs to the region, and its outline."""
    width, height = size
    if region.mask is not None:
        values = np.clip(np.nan_to_num(np.asarray(region.mask, dtype=np.float64)), 0, 1)
        small = Image.fromarray((values * 255).astype(np.uint8))
        inner = np.asarray(small.resize(size, Image.Resampling.BILINEAR), np.float64) / 255
    else:
        x0, y0, x1, y1 = region.box or (0.0, 0.0, 1.0, 1.0)
        inner = np.zeros((height, width))
        rows = slice(max(0, round(y0 * height)), max(0, round(y1 * height)))
        inner[rows, max(0, round(x0 * width)) : max(0, round(x1 * width))] = 1.0
    return inner, _rim(inner >= 0.5, 3).astype(np.float64)


def _rim(inside: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """The inner edge of an area, `thickness` pixels wide."""
    core = inside.copy()
    for _ in range(thickness):
        padded = np.pad(core, 1)
        core &= padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def _tint(sheet: Image.Image, strength: NDArray[np.float64], ink: Color) -> Image.Image:
    layer = Image.new("RGB", sheet.size, ink)
    return Image.composite(layer, sheet, Image.fromarray((strength * 255).astype(np.uint8)))


def _badge_place(
    region: DrawnRegion, size: tuple[int, int], head: int, taken: list[tuple[float, float]]
) -> tuple[float, float]:
    """The region's top left corner, moved right while another badge is there."""
    inner, _ = _coverage(region, size)
    rows, columns = np.nonzero(inner >= 0.5)
    x, y = (int(columns.min()), int(rows.min())) if rows.size else (0, 0)
    if region.mask is not None and rows.size:
        x, y = int(columns.mean()) - _BADGE // 2, int(rows.mean()) - _BADGE // 2
    x = min(max(x + 8, 2), size[0] - _BADGE - 2)
    y = min(max(y + 8, 2), size[1] - _BADGE - 2)
    while any(abs(x - a) < _BADGE + 2 and abs(y - b) < _BADGE + 2 for a, b in taken):
        x += _BADGE + 4
        if x > size[0] - _BADGE:
            x, y = 8, y + _BADGE + 4
    taken.append((x, y))
    return 16 + x, head + y


def _badge(canvas: Canvas, x: float, y: float, index: int) -> None:
    """The region's number on a disc of its colour."""
    disc = Image.new("RGBA", (4 * _BADGE, 4 * _BADGE), (*color(index), 0))
    edge = 4 * _BADGE - 1
    ImageDraw.Draw(disc).ellipse((0, 0, edge, edge), color(index), PAPER, 6)
    canvas.image(x, y, disc.resize((_BADGE, _BADGE), Image.Resampling.BOX))
    middle = _BADGE / 2
    canvas.text(x + middle, y + middle, str(index + 1), 13, PAPER, anchor="mm", bold=True)
