"""Many pictures on one page: a plain grid, and the contact sheet of rows, groups and panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from .canvas import LINE, MUTED, PAPER, Canvas, line_height, wrap

_MARGIN = 28
_GAP = 6  # between pictures of one group
_GROUP_GAP = 30
_LABEL = 190
_BODY = 14


class Row(NamedTuple):
    """One line of the contact sheet: a title, a line below it, and groups of pictures."""

    title: str
    subtitle: str
    groups: Sequence[Sequence[Image.Image]]


class Panel(NamedTuple):
    """A larger picture below the rows, with its heading."""

    title: str
    picture: Image.Image


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


def contact_sheet(
    rows: Sequence[Row],
    headings: Sequence[str] = (),
    panels: Sequence[Panel] = (),
    title: str = "",
    subtitle: str = "",
    tile_px: int = 112,
) -> Image.Image:
    """One page: labelled rows of picture groups under common headings, then panels.

    Args:
        rows: The k-th groups of all rows stand in one column.
        headings: One per group.
        panels: Shown below at their own size, side by side where they fit.
        title: Large, on top.
        subtitle: Below the title, wrapped.
        tile_px: Longer side of every picture in the rows.
    """
    widths = _group_widths(rows, tile_px)
    body = _LABEL + sum(widths) + _GROUP_GAP * max(0, len(widths) - 1)
    body = max(body, 480, *(panel.picture.width for panel in panels))
    flow = _flow(panels, body)
    intro = wrap(subtitle, _BODY, body)
    head = _MARGIN + (44 if title else 0) + len(intro) * line_height(_BODY) + 10
    heading_lines = [
        wrap(text, _BODY, width, 2) for text, width in zip(headings, widths, strict=False)
    ]
    headed = max((len(lines) for lines in heading_lines), default=0) * line_height(_BODY) + 8
    height = head + headed + len(rows) * (tile_px + 16)
    height += sum(34 + max(panel.picture.height for panel in line) + 16 for line in flow)
    canvas = Canvas(body + 2 * _MARGIN, height + _MARGIN)
    canvas.text(_MARGIN, _MARGIN - 6, title, 26, width=body, bold=True)
    canvas.lines(_MARGIN, head - 10 - len(intro) * line_height(_BODY), intro, _BODY, MUTED)
    _rows(canvas, rows, widths, heading_lines, head, headed, tile_px)
    _panels(canvas, flow, head + headed + len(rows) * (tile_px + 16))
    return canvas.finish()


def _group_widths(rows: Sequence[Row], tile: int) -> list[int]:
    count = max((len(row.groups) for row in rows), default=0)
    longest = [
        max(len(row.groups[k]) if k < len(row.groups) else 0 for row in rows) for k in range(count)
    ]
    return [max(1, number) * (tile + _GAP) - _GAP for number in longest]


def _rows(
    canvas: Canvas,
    rows: Sequence[Row],
    widths: Sequence[int],
    headings: Sequence[Sequence[str]],
    head: int,
    headed: int,
    tile: int,
) -> None:
    lefts = [_MARGIN + _LABEL + sum(widths[:k]) + _GROUP_GAP * k for k in range(len(widths))]
    for left, lines in zip(lefts, headings, strict=False):
        y = head + headed - 8 - len(lines) * line_height(_BODY)
        canvas.lines(left, y, lines, _BODY, bold=True)
    for i, row in enumerate(rows):
        y = head + headed + i * (tile + 16)
        title = wrap(row.title, 17, _LABEL - 20, 2)
        below = 10 + line_height(17) * len(title)
        note = wrap(row.subtitle, 13, _LABEL - 20, max(1, (tile - below) // line_height(13)))
        canvas.lines(_MARGIN, y + 4, title, 17, bold=True)
        canvas.lines(_MARGIN, y + below, note, 13, MUTED)
        for left, group in zip(lefts, row.groups, strict=False):
            for k, image in enumerate(group):
                _place(canvas, left + k * (tile + _GAP), y, image, tile)


def _flow(panels: Sequence[Panel], width: int) -> list[list[Panel]]:
    """Break panels into lines that are no wider than the page."""
    lines: list[list[Panel]] = []
    used = width + 1
    for panel in panels:
        if used + _GROUP_GAP + panel.picture.width > width:
            lines.append([])
            used = -_GROUP_GAP
        lines[-1].append(panel)
        used += _GROUP_GAP + panel.picture.width
    return lines


def _panels(canvas: Canvas, flow: Sequence[Sequence[Panel]], y: int) -> None:
    for line in flow:
        canvas.line([(_MARGIN, y + 2), (canvas.width - _MARGIN, y + 2)], LINE)
        x = _MARGIN
        for panel in line:
            canvas.text(x, y + 12, panel.title, _BODY + 1, width=panel.picture.width, bold=True)
            canvas.image(x, y + 34, panel.picture)
            x += panel.picture.width + _GROUP_GAP
        y += 34 + max(panel.picture.height for panel in line) + 16
