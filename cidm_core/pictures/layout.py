"""Where the regions of a picture lie: numbered boxes and masks with their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..regions import Region
from .canvas import LINE, PAPER, SHADE, Canvas, Color, color, line_height, wrap

_LONGEST_PX = 480
_BADGE = 24
_TEXT = 14
_Cover = NDArray[np.float64]  # (height, width), in 0..1


def layout_picture(
    regions: Sequence[Region],
    width: int,
    height: int,
    picture: Image.Image | None = None,
) -> Image.Image:
    """Draw the regions on an empty canvas, or over a picture, with a numbered key below.

    Args:
        regions: Numbered in their order.
        width: Width of the picture they belong to; only the shape counts, small ones are enlarged.
        height: Its height.
        picture: Shown under the regions.
    """
    scale = _LONGEST_PX / max(width, height)
    size = max(64, round(width * scale)), max(64, round(height * scale))
    lines = [wrap(region.prompt, _TEXT, size[0] - _BADGE - 12, 3) for region in regions]
    row_heights = [max(_BADGE, line_height(_TEXT) * len(each)) + 8 for each in lines]
    canvas = Canvas(size[0] + 32, 16 + size[1] + 14 + sum(row_heights) + 8)
    covers = [_coverage(region, size) for region in regions]
    canvas.image(16, 16, _overlay(covers, size, picture))
    taken: list[tuple[float, float]] = []
    for i, (region, cover) in enumerate(zip(regions, covers, strict=True)):
        x, y = _badge_place(cover >= 0.5, region.mask is not None, taken)
        _badge(canvas, 16 + x, 16 + y, i)
    y = 16 + size[1] + 14
    for i, (text, row) in enumerate(zip(lines, row_heights, strict=True)):
        _badge(canvas, 16, y, i)
        top = y + _BADGE / 2 - line_height(_TEXT) / 2 if len(text) < 2 else y
        canvas.lines(16 + _BADGE + 10, top, text, _TEXT)
        y += row
    return canvas.finish()


def _overlay(
    covers: Sequence[_Cover], size: tuple[int, int], picture: Image.Image | None
) -> Image.Image:
    if picture is None:
        sheet = Image.new("RGB", size, SHADE)
    else:
        sheet = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    strength = 0.30 if picture is None else 0.16
    for i, cover in enumerate(covers):
        sheet = _tint(sheet, cover * strength, color(i))
        sheet = _tint(sheet, _rim(cover >= 0.5, 3), color(i))
    return _tint(sheet, _rim(np.ones((size[1], size[0]), bool), 1), LINE)


def _coverage(region: Region, size: tuple[int, int]) -> _Cover:
    """How much each pixel belongs to the region."""
    if region.box is None:
        small = Image.fromarray((np.asarray(region.mask) * 255).astype(np.uint8))
        return np.asarray(small.resize(size, Image.Resampling.BILINEAR), np.float64) / 255
    width, height = size
    x0, y0, x1, y1 = region.box
    cover = np.zeros((height, width))
    cover[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = 1.0
    return cover


def _rim(inside: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """The inner edge of an area, `thickness` pixels wide."""
    core = inside.copy()
    for _ in range(thickness):
        padded = np.pad(core, 1)
        core &= padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def _tint(sheet: Image.Image, strength: _Cover | NDArray[np.bool_], ink: Color) -> Image.Image:
    layer = Image.new("RGB", sheet.size, ink)
    return Image.composite(layer, sheet, Image.fromarray((strength * 255).astype(np.uint8)))


def _badge_place(
    inside: NDArray[np.bool_], painted: bool, taken: list[tuple[float, float]]
) -> tuple[float, float]:
    """A box's top left corner or a mask's middle, moved right while another badge is there."""
    height, width = inside.shape
    rows, columns = np.nonzero(inside)
    x, y = (int(columns.min()), int(rows.min())) if rows.size else (0, 0)
    if painted and rows.size:
        x, y = int(columns.mean()) - _BADGE // 2, int(rows.mean()) - _BADGE // 2
    x = min(max(x + 8, 2), width - _BADGE - 2)
    y = min(max(y + 8, 2), height - _BADGE - 2)
    while any(abs(x - a) < _BADGE + 2 and abs(y - b) < _BADGE + 2 for a, b in taken):
        x += _BADGE + 4
        if x > width - _BADGE:
            x, y = 8, y + _BADGE + 4
    taken.append((x, y))
    return x, y


def _badge(canvas: Canvas, x: float, y: float, index: int) -> None:
    """The region's number on a disc of its colour."""
    disc = Image.new("RGBA", (4 * _BADGE, 4 * _BADGE), (*color(index), 0))
    edge = 4 * _BADGE - 1
    ImageDraw.Draw(disc).ellipse((0, 0, edge, edge), color(index), PAPER, 6)
    canvas.image(x, y, disc.resize((_BADGE, _BADGE), Image.Resampling.BOX))
    middle = _BADGE / 2
    canvas.text(x + middle, y + middle, str(index + 1), 13, PAPER, anchor="mm", bold=True)
