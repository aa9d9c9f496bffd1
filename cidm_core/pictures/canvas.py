"""A sheet to draw on: smooth shapes below, crisp text that always fits above.

Pillow draws shapes without anti-aliasing, so they go onto a sheet twice as large that is scaled
down at the end; text goes on afterwards at its true size.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Point = tuple[float, float]

PAPER: Color = (255, 255, 255)
INK: Color = (31, 41, 55)
MUTED: Color = (100, 110, 125)
LINE: Color = (214, 219, 226)
SHADE: Color = (246, 247, 249)
# Distinct for colour-blind readers too: the hues also differ in lightness.
PALETTE: tuple[Color, ...] = (
    (47, 104, 178),
    (219, 116, 41),
    (35, 143, 103),
    (134, 84, 176),
    (197, 59, 90),
    (32, 150, 168),
    (176, 137, 20),
    (96, 107, 122),
)
_PALE: Color = (240, 243, 248)
_DARK: Color = (28, 80, 158)
_OVERSAMPLING = 2
# The built-in font knows ASCII only; these keep their meaning in ASCII.
_SUBSTITUTES = str.maketrans("–—‘’“”×→−\u00a0", "--''\"\"x>- ")  # noqa: RUF001


def color(index: int) -> Color:
    """The palette's colour for the index, round and round."""
    return PALETTE[index % len(PALETTE)]


def mix(first: Color, second: Color, share: float) -> Color:
    """Blend two colours; share 0 is the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(share: float) -> Color:
    """Pale for 0, dark for 1."""
    return mix(_PALE, _DARK, min(1.0, max(0.0, share)))


@lru_cache(maxsize=64)
def font(size: int) -> Font:
    """Pillow's own scalable font, so that pictures look the same everywhere."""
    return ImageFont.load_default(size)


def plain(text: str) -> str:
    """Text in one line, with accents and typographic marks the font lacks written in ASCII."""
    text = unicodedata.normalize("NFKD", " ".join(text.translate(_SUBSTITUTES).split()))
    return "".join(ch for ch in text if not unicodedata.combining(ch))


def text_width(text: str, size: int) -> float:
    """Width of one line in pixels."""
    return font(size).getlength(plain(text))


def fit(text: str, size: int, width: float) -> str:
    """The text, cut with an ellipsis where it would be wider than `width` pixels."""
    text = plain(text)
    if text_width(text, size) <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the longest head that fits together with the ellipsis
        middle = (low + high + 1) // 2
        if text_width(text[:middle].rstrip() + "...", size) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "..." if low else ""


def wrap(text: str, size: int, width: float, max_lines: int = 100) -> list[str]:
    """Break text into lines of at most `width` pixels; what exceeds `max_lines` is cut."""
    lines: list[str] = []
    line = ""
    for word in plain(text).split():
        longer = f"{line} {word}" if line else word
        if text_width(longer, size) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
    if line:
        lines.append(line)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], " ".join(lines[max_lines - 1 :])]
    return [fit(each, size, width) for each in lines]


def line_height(size: int) -> int:
    """Distance between two lines of text."""
    return round(size * 1.3)


class Canvas:
    """Shapes and text on a sheet of a given size in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._shapes = Image.new("RGB", (width * _OVERSAMPLING, height * _OVERSAMPLING), PAPER)
        self._draw = ImageDraw.Draw(self._shapes)
        self._texts: list[tuple[float, float, str, int, Color, str, bool]] = []
        self._images: list[tuple[int, int, Image.Image]] = []

    def line(self, points: Sequence[Point], ink: Color = LINE, width: float = 1) -> None:
        """A line through the points."""
        scaled = [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points]
        if len(scaled) > 1:
            self._draw.line(scaled, ink, max(1, round(width * _OVERSAMPLING)), joint="curve")

    def dot(self, x: float, y: float, radius: float, ink: Color) -> None:
        """A filled circle."""
        box = (x - radius, y - radius, x + radius, y + radius)
        self._draw.ellipse([value * _OVERSAMPLING for value in box], ink)

    def box(
        self,
        corners: tuple[float, float, float, float],
        fill: Color | None = None,
        outline: Color | None = None,
        width: float = 1,
    ) -> None:
        """A rectangle (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = (round(value * _OVERSAMPLING) for value in corners)
        inside = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        self._draw.rectangle(inside, fill, outline, max(1, round(width * _OVERSAMPLING)))

    def bar(self, x: float, y: float, full: float, share: float, ink: Color) -> None:
        """A horizontal bar that fills a share of its full length."""
        self.box((x, y, x + full, y + 20), SHADE)
        length = full * min(1.0, max(0.0, share))
        if length >= 1:
            self.box((x, y, x + length, y + 20), ink)

    def image(self, x: float, y: float, picture: Image.Image) -> None:
        """Another picture at its own size, top left corner at (x, y), above all shapes."""
        self._images.append((round(x), round(y), picture))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int = 14,
        ink: Color = INK,
        *,
        anchor: str = "la",
        width: float | None = None,
        bold: bool = False,
    ) -> None:
        """One line of text, cut to `width`; the anchor is Pillow's (la, mm, rm, ...)."""
        shown = plain(text) if width is None else fit(text, size, width)
        self._texts.append((x, y, shown, size, ink, anchor, bold))

    def lines(
        self,
        x: float,
        y: float,
        lines: Sequence[str],
        size: int = 14,
        ink: Color = INK,
        *,
        bold: bool = False,
    ) -> None:
        """Lines of text below one another."""
        for k, line in enumerate(lines):
            self.text(x, y + k * line_height(size), line, size, ink, bold=bold)

    def finish(self) -> Image.Image:
        """The finished picture."""
        sheet = self._shapes.resize((self.width, self.height), Image.Resampling.BOX)
        draw = ImageDraw.Draw(sheet)
        for x, y, picture in self._images:
            sheet.paste(picture, (x, y), picture if picture.mode == "RGBA" else None)
        for x, y, text, size, ink, anchor, bold in self._texts:
            for shift in (0, 0.6) if bold else (0,):  # the built-in font has no bold face
                draw.text((x + shift, y), text, ink, font(size), anchor=anchor)
        return sheet
