"""One prompt drawn in several ways, side by side, each under its title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from .canvas import MUTED, Canvas, line_height, wrap
from .sheets import enlarge

_MARGIN = 24
_GAP = 18
_TILE = 320
_COLUMNS = 4
_BODY = 14
_TITLE = 17


class Compared(NamedTuple):
    """A picture, its title, and a line below that."""

    title: str
    subtitle: str
    picture: Image.Image


def compared_sheet(heading: str, intro: str, drawn: Sequence[Compared]) -> Image.Image:
    """Draw the pictures in rows of up to four.

    Args:
        heading: Large, on top.
        intro: Below it, wrapped.
        drawn: At least one.
    """
    columns = min(_COLUMNS, len(drawn))
    width = max(2, columns) * (_TILE + _GAP) - _GAP
    lines = wrap(intro, _BODY, width, 3)
    top = _MARGIN + 40 + line_height(_BODY) * len(lines) + _GAP
    shown = [enlarge(each.picture, _TILE) for each in drawn]
    labels = line_height(_TITLE) + line_height(_BODY) + 8
    step = labels + max(picture.height for picture in shown) + _GAP
    canvas = Canvas(width + 2 * _MARGIN, top + -(-len(drawn) // columns) * step - _GAP + _MARGIN)
    canvas.text(_MARGIN, _MARGIN - 4, heading, 24, width=width, bold=True)
    canvas.lines(_MARGIN, _MARGIN + 34, lines, _BODY, MUTED)
    for i, (each, picture) in enumerate(zip(drawn, shown, strict=True)):
        x, y = _MARGIN + i % columns * (_TILE + _GAP), top + i // columns * step
        canvas.text(x, y, each.title, _TITLE, width=_TILE, bold=True)
        canvas.text(x, y + line_height(_TITLE) + 2, each.subtitle, _BODY, MUTED, width=_TILE)
        canvas.image(x, y + labels, picture)
    return canvas.finish()
