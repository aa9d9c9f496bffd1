"""A concept on one card: its picture, its words, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from .canvas import LINE, MUTED, PALETTE, SHADE, Canvas, line_height, wrap
from .sheets import enlarge

_MARGIN = 24
_PICTURE = 240
_WIDTH = 760
_SIZE = 14
_LABEL = 92
_LINES = 2  # of one fact


def concept_card(
    name: str, words: str, facts: Mapping[str, str], picture: Image.Image | None = None
) -> Image.Image:
    """Draw a concept's card.

    Args:
        name: Heading.
        words: Its words, below the heading.
        facts: Labels and values, in order; `name` and `words` among them are not repeated.
        picture: Its preview; None leaves a frame that says so.
    """
    left = 2 * _MARGIN + _PICTURE
    room = _WIDTH - left - _MARGIN
    rows = [
        (label, wrap(value, _SIZE, room - _LABEL, _LINES))
        for label, value in facts.items()
        if label not in ("name", "words") and value
    ]
    heights = [line_height(_SIZE) * max(1, len(lines)) + 5 for _, lines in rows]
    top = _MARGIN + 72
    canvas = Canvas(_WIDTH, max(2 * _MARGIN + _PICTURE, top + sum(heights) + _MARGIN))
    _picture(canvas, picture)
    canvas.text(left, _MARGIN - 4, name, 24, width=room, bold=True)
    canvas.text(left, _MARGIN + 30, words, 16, PALETTE[0], width=room)
    canvas.line([(left, top - 14), (_WIDTH - _MARGIN, top - 14)], LINE)
    for (label, lines), height in zip(rows, heights, strict=True):
        canvas.text(left, top, label, _SIZE, MUTED, width=_LABEL - 8)
        canvas.lines(left + _LABEL, top, lines, _SIZE)
        top += height
    return canvas.finish()


def _picture(canvas: Canvas, picture: Image.Image | None) -> None:
    corners = (_MARGIN, _MARGIN, _MARGIN + _PICTURE, _MARGIN + _PICTURE)
    canvas.box(corners, SHADE, LINE)
    if picture is None:
        middle = _MARGIN + _PICTURE / 2
        canvas.text(middle, middle, "no picture", _SIZE, MUTED, anchor="mm")
        return
    shown = enlarge(picture, _PICTURE)
    x, y = (_MARGIN + (_PICTURE - side) // 2 for side in shown.size)
    canvas.image(x, y, shown)
