"""A sheet of photos as they will be learned: what is seen of each, its caption, what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from .canvas import (
    INK,
    LINE,
    MUTED,
    PALETTE,
    PAPER,
    Canvas,
    Color,
    line_height,
    plain,
    text_width,
    wrap,
)
from .sheets import enlarge

_MARGIN, _GAP, _TILE, _BODY, _NOTE = 28, 24, 224, 14, 13
_INDENT = 14
_MOST_COLUMNS = 5
_TITLE, _HEADING = 26, 18
_WARNING: Color = (176, 74, 12)
_WORDS = PALETTE[0]
_MOST_LINES = 12  # of one caption or warning

_SPACE = text_width("a a", _BODY) - text_width("aa", _BODY)

Part = tuple[str, bool]
"""A stretch of a caption, and whether it is the concept's words."""


class Card(NamedTuple):
    """One photo: its picture and mask, a heading, a note, its caption, and warnings."""

    picture: Image.Image
    mask: Image.Image | None
    heading: str
    note: str
    caption: Sequence[Part]
    warnings: Sequence[str]


class Section(NamedTuple):
    """The photos of one subject under a heading, with warnings about all of them."""

    heading: str
    note: str
    warnings: Sequence[str]
    cards: Sequence[Card]


def photos_picture(sections: Sequence[Section], title: str, subtitle: str = "") -> Image.Image:
    """A page with a section for each subject, and in it a card for each photo.

    Args:
        sections: At least one.
        title: Printed on top.
        subtitle: Below the title.
    """
    most = max(len(section.cards) for section in sections)
    rows = -(-most // _MOST_COLUMNS)
    columns = max(2, -(-most // rows))
    width = columns * (_TILE + _GAP) - _GAP
    blocks = [_Block(section, columns, width) for section in sections]
    intro = wrap(subtitle, _BODY, width)
    top = _MARGIN + 38 + line_height(_BODY) * len(intro) + 6
    canvas = Canvas(width + 2 * _MARGIN, top + sum(block.height for block in blocks) + 8)
    canvas.text(_MARGIN, _MARGIN - 6, title, _TITLE, width=width, bold=True)
    canvas.lines(_MARGIN, _MARGIN + 34, intro, _BODY, MUTED)
    for block in blocks:
        block.draw(canvas, top)
        top += block.height
    return canvas.finish()


class _Block:
    """A section, measured."""

    def __init__(self, section: Section, columns: int, width: int) -> None:
        self.section, self.width = section, width
        self.note = wrap(section.note, _BODY, width)
        self.warnings = _warnings(section.warnings, width)
        self.head = 26 + line_height(_HEADING) + line_height(_BODY) * len(self.note)
        self.head += _height(self.warnings) + 18
        cards = [_Measured(card) for card in section.cards]
        self.rows = [cards[at : at + columns] for at in range(0, len(cards), columns)]
        self.heights = [max(card.height for card in row) + _GAP for row in self.rows]
        self.height = self.head + sum(self.heights)

    def draw(self, canvas: Canvas, top: int) -> None:
        """Onto a sheet, from `top` on."""
        canvas.line([(_MARGIN, top + 8), (_MARGIN + self.width, top + 8)], LINE)
        y = top + 18
        canvas.text(_MARGIN, y, self.section.heading, _HEADING, width=self.width, bold=True)
        y += line_height(_HEADING) + 4
        canvas.lines(_MARGIN, y, self.note, _BODY, MUTED)
        y += line_height(_BODY) * len(self.note) + 6
        _warn(canvas, _MARGIN, y, self.warnings)
        y = top + self.head
        for row, height in zip(self.rows, self.heights, strict=True):
            for number, card in enumerate(row):
                card.draw(canvas, _MARGIN + number * (_TILE + _GAP), y)
            y += height


class _Measured:
    """A card with its text in lines."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.caption = _lines_of(card.caption)
        self.warnings = _warnings(card.warnings, _TILE)
        self.height = _TILE + 10 + 2 * line_height(_NOTE) + 4
        self.height += line_height(_BODY) * len(self.caption) + 6
        self.height += _height(self.warnings)

    def draw(self, canvas: Canvas, x: int, y: int) -> None:
        """Onto a sheet, top left corner at (x, y)."""
        card = self.card
        canvas.box((x - 1, y - 1, x + _TILE + 1, y + _TILE + 1), None, LINE)
        shown = _with_mask(enlarge(card.picture, _TILE), card.mask)
        canvas.image(x + (_TILE - shown.width) // 2, y + (_TILE - shown.height) // 2, shown)
        y += _TILE + 10
        canvas.text(x, y, card.heading, _NOTE, width=_TILE, bold=True)
        canvas.text(x, y + line_height(_NOTE), card.note, _NOTE, MUTED, width=_TILE)
        y += 2 * line_height(_NOTE) + 4
        for line in self.caption:
            at = float(x)
            for text, is_word in line:
                canvas.text(at, y, text, _BODY, _WORDS if is_word else INK, bold=is_word)
                at += text_width(text, _BODY) + _SPACE
            y += line_height(_BODY)
        _warn(canvas, x, y + 6, self.warnings)


def _lines_of(caption: Sequence[Part]) -> list[list[Part]]:
    """A caption's words in lines no wider than a picture."""
    lines: list[list[Part]] = [[]]
    used = 0.0
    for word, is_word in [(w, flag) for text, flag in caption for w in plain(text).split()]:
        (shown, *_) = wrap(word, _BODY, _TILE) or [""]
        width = text_width(shown, _BODY)
        if lines[-1] and used + width > _TILE:
            lines.append([])
            used = 0.0
        lines[-1].append((shown, is_word))
        used += width + _SPACE
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], [("...", False)]]
    return lines


def _warnings(texts: Sequence[str], width: int) -> list[list[str]]:
    """Each text in lines, with room for a dot before them."""
    return [wrap(text, _NOTE, width - _INDENT, _MOST_LINES) for text in texts]


def _height(warnings: Sequence[Sequence[str]]) -> int:
    return sum(line_height(_NOTE) * len(lines) + 4 for lines in warnings)


def _warn(canvas: Canvas, x: int, y: int, warnings: Sequence[Sequence[str]]) -> None:
    for lines in warnings:
        canvas.dot(x + 4, y + 8, 3, _WARNING)
        canvas.lines(x + _INDENT, y, lines, _NOTE, _WARNING)
        y += _height([lines])


def _with_mask(picture: Image.Image, mask: Image.Image | None) -> Image.Image:
    """A picture pale where the mask is black, with a line around the rest."""
    if mask is None:
        return picture
    grey = mask.convert("L").resize(picture.size, Image.Resampling.BILINEAR)
    pale = Image.blend(picture, Image.new("RGB", picture.size, PAPER), 0.75)
    shown = Image.composite(picture, pale, grey)
    inside = Image.fromarray(np.where(np.asarray(grey) >= 128, 255, 0).astype(np.uint8))
    rim = np.asarray(inside.filter(ImageFilter.MaxFilter(5))) != np.asarray(inside)
    line = Image.new("RGB", picture.size, _WORDS)
    return Image.composite(line, shown, Image.fromarray((rim * 255).astype(np.uint8)))
