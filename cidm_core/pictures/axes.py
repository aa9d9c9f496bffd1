"""Plot frames: where a value lies in pixels, and round numbers for the ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .canvas import INK, LINE, MUTED, Canvas, Color, Point, text_width

TICK_SIZE = 12


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high], about `count` of them."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / max(1, count)
    power = 10 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Powers of ten inside [low, high], thinned to about `count`."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, math.ceil((last - first + 1) / max(1, count)))
    return [10.0**i for i in range(first, last + 1, stride)]


def tick_label(value: float) -> str:
    """A short number: 0.05, 200, 1e-7."""
    return "0" if abs(value) < 1e-300 else f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e")


@dataclass(frozen=True)
class Frame:
    """A plot area in pixels and the values at its edges; the y axis may be logarithmic."""

    left: float
    top: float
    right: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool = False

    def at(self, x: float, y: float) -> Point:
        """Pixel position of a value; values above or below the range stay on the edge."""
        x_low, x_high = self.x_range
        share_x = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        y_low, y_high = self.y_range
        if self.log:
            y_low, y_high, y = math.log10(y_low), math.log10(y_high), math.log10(max(y, 1e-300))
        share_y = (y - y_low) / (y_high - y_low) if y_high > y_low else 0.5
        share_y = min(1.0, max(0.0, share_y))
        return (
            self.left + share_x * (self.right - self.left),
            self.bottom - share_y * (self.bottom - self.top),
        )

    def draw(self, canvas: Canvas, x_label: str, y_label: str) -> None:
        """Grid lines, ticks and labels."""
        ticks = (log_ticks if self.log else linear_ticks)(*self.y_range)
        for value in ticks:
            y = self.at(self.x_range[0], value)[1]
            canvas.line([(self.left, y), (self.right, y)], LINE)
            label = tick_label(value)
            canvas.text(self.left - 8, y, label, TICK_SIZE, MUTED, anchor="rm")
        canvas.line([(self.left, self.bottom), (self.right, self.bottom)], MUTED)
        for value in linear_ticks(*self.x_range, count=8):
            x = self.at(value, self.y_range[0])[0]
            canvas.line([(x, self.bottom), (x, self.bottom + 4)], MUTED)
            canvas.text(x, self.bottom + 8, tick_label(value), TICK_SIZE, MUTED, anchor="ma")
        middle = (self.left + self.right) / 2
        canvas.text(middle, self.bottom + 26, x_label, TICK_SIZE + 1, INK, anchor="ma")
        canvas.text(self.left - 56, self.top - 28, y_label, TICK_SIZE + 1, INK)


def legend(canvas: Canvas, right: float, y: float, entries: list[tuple[str, Color]]) -> None:
    """Colour keys in one line that ends at `right`."""
    for label, ink in reversed(entries):
        width = text_width(label, TICK_SIZE + 1)
        canvas.text(right - width, y, label, TICK_SIZE + 1, INK)
        canvas.line([(right - width - 26, y + 8), (right - width - 6, y + 8)], ink, 3)
        right -= width + 44
