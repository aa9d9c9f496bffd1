"""Composites of each kind with what their captions say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image

from .canvas import LINE, MUTED, Canvas, line_height, wrap
from .sheets import enlarge

_MARGIN, _GAP, _TILE, _BODY, _LINES = 28, 18, 176, 13, 4
_HEADING = 40


class Captioned(NamedTuple):
    """A picture and its caption."""

    image: Image.Image
    text: str


def composites_picture(
    kinds: Mapping[str, Sequence[Captioned]], title: str = "", subtitle: str = ""
) -> Image.Image:
    """A sheet with a row for each kind: pictures in frames, their captions below.

    Args:
        kinds: Pictures by what their row is called; rows without any are left out.
        title: Printed on top.
        subtitle: Below the title.
    """
    rows = [_Row(name, shown) for name, shown in kinds.items() if shown]
    longest = max((len(row.shown) for row in rows), default=1)
    body = max(480, longest * (_TILE + _GAP) - _GAP)
    intro = wrap(subtitle, _BODY + 1, body)
    top = _MARGIN + 40 + line_height(_BODY + 1) * len(intro)
    canvas = Canvas(body + 2 * _MARGIN, top + sum(row.height for row in rows) + _MARGIN // 2)
    canvas.text(_MARGIN, _MARGIN - 6, title or "Composites", 26, width=body, bold=True)
    canvas.lines(_MARGIN, _MARGIN + 36, intro, _BODY + 1, MUTED)
    for row in rows:
        row.draw(canvas, top)
        top += row.height
    return canvas.finish()


class _Row:
    """Pictures of one kind, and the lines of their captions."""

    def __init__(self, name: str, shown: Sequence[Captioned]) -> None:
        self.name, self.shown = name, shown
        self.lines = [wrap(each.text, _BODY, _TILE, _LINES) for each in shown]
        deepest = max(len(lines) for lines in self.lines)
        self.height = _HEADING + _TILE + line_height(_BODY) * deepest + _GAP

    def draw(self, canvas: Canvas, top: int) -> None:
        """Onto a sheet, from `top` on."""
        canvas.text(_MARGIN, top + 12, self.name, 17, bold=True)
        y = top + _HEADING
        for number, (each, lines) in enumerate(zip(self.shown, self.lines, strict=True)):
            x = _MARGIN + number * (_TILE + _GAP)
            scaled = enlarge(each.image, _TILE)
            at = x + (_TILE - scaled.width) // 2, y + (_TILE - scaled.height) // 2
            canvas.box((x - 1, y - 1, x + _TILE + 1, y + _TILE + 1), None, LINE)
            canvas.image(*at, scaled)
            canvas.lines(x, y + _TILE + 6, lines, _BODY, MUTED)
