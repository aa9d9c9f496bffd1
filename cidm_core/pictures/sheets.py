"""Many pictures on one page: in a grid, below or beside one another, in labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from PIL import Image

from .canvas import LINE, MUTED, PAPER, Canvas, line_height, wrap

_MARGIN = 28
_GAP = 6  # between pictures of one group
_GROUP_GAP = 30
_ROW_GAP = 16
_LABEL = 190
_BODY = 14


class Row(NamedTuple):
    """One line of the contact sheet: a title, a line below it, and groups of pictures."""

    title: str
    subtitle: str
    groups: Sequence[Sequence[Image.Image]]


def enlarge(picture: Image.Image, longest_px: int) -> Image.Image:
    """The picture with its longer side at `longest_px`, smooth; never a zero side."""
    scale = longest_px / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def grid(images: Sequence[Image.Image], columns: int, tile_px: int) -> Image.Image:
    """Lay pictures of any sizes out in rows; `tile_px` is the longer side of each."""
    step = tile_px + 12
    canvas = Canvas(columns * step + 12, -(-len(images) // columns) * step + 12)
    for i, image in enumerate(images):
        _place(canvas, 12 + i % columns * step, 12 + i // columns * step, image, tile_px)
    return canvas.finish()


def _place(canvas: Canvas, x: float, y: float, image: Image.Image, tile: int) -> None:
    shown = enlarge(image, tile)
    canvas.image(x + (tile - shown.width) // 2, y + (tile - shown.height) // 2, shown)


def stack(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Put pictures below one another, left-aligned, on white."""
    width = max((picture.width for picture in pictures), default=1)
    height = sum(picture.height + gap for picture in pictures) - gap if pictures else 1
    sheet = Image.new("RGB", (width, height), PAPER)
    y = 0
    for picture in pictures:
        sheet.paste(picture.convert("RGB"), (0, y))
        y += picture.height + gap
    return sheet


def beside(titled: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Put pictures side by side below a line, each under its title."""
    width = sum(picture.width + _GROUP_GAP for _, picture in titled) - _GROUP_GAP
    tallest = max(picture.height for _, picture in titled)
    canvas = Canvas(width + 2 * _MARGIN, tallest + 42)
    canvas.line([(_MARGIN, 2), (_MARGIN + width, 2)], LINE)
    x = _MARGIN
    for title, picture in titled:
        canvas.text(x, 12, title, _BODY + 1, width=picture.width, bold=True)
        canvas.image(x, 34, picture)
        x += picture.width + _GROUP_GAP
    return canvas.finish()


def contact_sheet(
    rows: Sequence[Row],
    headings: Sequence[str] = (),
    title: str = "",
    subtitle: str = "",
    tile_px: int = 112,
) -> Image.Image:
    """One page: labelled rows of picture groups under common headings.

    Args:
        rows: The k-th groups of all rows stand in one column.
        headings: One per group.
        title: Large, on top.
        subtitle: Below the title, wrapped.
        tile_px: Longer side of every picture.
    """
    widths = _group_widths(rows, tile_px)
    lefts = [_MARGIN + _LABEL + sum(widths[:k]) + _GROUP_GAP * k for k in range(len(widths))]
    body = max(480, _LABEL + sum(width + _GROUP_GAP for width in widths) - _GROUP_GAP)
    intro = wrap(subtitle, _BODY, body)
    heads = [wrap(text, _BODY, width, 2) for text, width in zip(headings, widths, strict=False)]
    top = _MARGIN + (44 if title else 0)
    first = top + 18 + line_height(_BODY) * (len(intro) + max(map(len, heads), default=0))
    canvas = Canvas(body + 2 * _MARGIN, first + len(rows) * (tile_px + _ROW_GAP) + 12)
    canvas.text(_MARGIN, _MARGIN - 6, title, 26, width=body, bold=True)
    canvas.lines(_MARGIN, top, intro, _BODY, MUTED)
    for left, lines in zip(lefts, heads, strict=False):
        canvas.lines(left, first - 8 - len(lines) * line_height(_BODY), lines, _BODY, bold=True)
    for i, row in enumerate(rows):
        _draw_row(canvas, row, lefts, first + i * (tile_px + _ROW_GAP), tile_px)
    return canvas.finish()


def _group_widths(rows: Sequence[Row], tile: int) -> list[int]:
    longest = [
        max(len(group) for group in column)
        for column in zip_longest(*(row.groups for row in rows), fillvalue=())
    ]
    return [max(1, number) * (tile + _GAP) - _GAP for number in longest]


def _draw_row(canvas: Canvas, row: Row, lefts: Sequence[int], y: int, tile: int) -> None:
    title = wrap(row.title, 17, _LABEL - 20, 2)
    below = 10 + line_height(17) * len(title)
    note = wrap(row.subtitle, 13, _LABEL - 20, max(1, (tile - below) // line_height(13)))
    canvas.lines(_MARGIN, y + 4, title, 17, bold=True)
    canvas.lines(_MARGIN, y + below, note, 13, MUTED)
    for left, group in zip(lefts, row.groups, strict=False):
        for k, image in enumerate(group):
            _place(canvas, left + k * (tile + _GAP), y, image, tile)
