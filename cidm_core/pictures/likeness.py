"""Likeness against over-fitting: a point for each concept, with the interval of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image

from .axes import Frame, legend
from .canvas import MUTED, PAPER, Canvas, Color, color, fit, mix, text_width

Ends = tuple[float, float, float]  # low end of the interval, value, high end
_WIDTH, _LEFT, _GAP = 420, 76, 96
_TOP, _BOTTOM = 92, 372
_NAME = 13


class Point(NamedTuple):
    """A concept in the plot.

    Attributes:
        name: Stands beside it.
        group: Gives its colour, such as the method.
        likeness: Its height.
        measures: How far it is to the right, by name of the measure; each has a frame.
    """

    name: str
    group: str
    likeness: Ends
    measures: Mapping[str, Ends]


def likeness_picture(points: Sequence[Point], title: str = "") -> Image.Image:
    """Draw a frame for each measure, side by side. Up and to the left is better.

    Args:
        points: All with the same measures, at least one.
        title: Printed on top.
    """
    measures = list(points[0].measures)
    canvas = Canvas(_LEFT + len(measures) * (_WIDTH + _GAP) - _GAP + 24, _BOTTOM + 84)
    title = title or "Likeness against over-fitting"
    canvas.text(20, 16, title, 17, bold=True, width=canvas.width - 40)
    groups = list(dict.fromkeys(point.group for point in points))
    entries = [(group, color(k)) for k, group in enumerate(groups)]
    legend(canvas, canvas.width - 24, 54, entries)
    heights = _range([end for point in points for end in point.likeness])
    for k, measure in enumerate(measures):
        left = _LEFT + k * (_WIDTH + _GAP)
        across = _range([end for point in points for end in point.measures[measure]])
        frame = Frame(left, _TOP, left + _WIDTH, _BOTTOM, across, heights)
        frame.draw(canvas, measure, "likeness" if k == 0 else "")
        _Labels(canvas, frame).draw(
            [(p, p.measures[measure], color(groups.index(p.group))) for p in points]
        )
    note = "Bars: 95 % intervals over pictures. Up and to the left is better."
    canvas.text(_LEFT, _BOTTOM + 54, note, 13, MUTED)
    return canvas.finish()


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Room around all values; what cannot be below 0 does not begin there."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


class _Labels:
    """Points of one frame, with names that do not lie on one another."""

    def __init__(self, canvas: Canvas, frame: Frame) -> None:
        self._canvas, self._frame = canvas, frame
        self._taken: list[tuple[float, float, float]] = []  # left, right, top

    def draw(self, points: Sequence[tuple[Point, Ends, Color]]) -> None:
        for point, across, ink in points:
            self._bars(across, point.likeness, mix(ink, PAPER, 0.45))
        for point, across, ink in points:
            x, y = self._frame.at(across[1], point.likeness[1])
            self._canvas.dot(x, y, 5, ink)
            self._name(x, y, point.name)

    def _bars(self, across: Ends, up: Ends, ink: Color) -> None:
        at = self._frame.at
        self._canvas.line([at(across[0], up[1]), at(across[2], up[1])], ink, 2)
        self._canvas.line([at(across[1], up[0]), at(across[1], up[2])], ink, 2)

    def _name(self, x: float, y: float, name: str) -> None:
        name = fit(name, _NAME, 150)
        width = text_width(name, _NAME)
        left = x + 8 if x + 8 + width <= self._frame.right else x - 8 - width
        y -= 18
        while any(
            left < end and start < left + width and abs(y - top) < 15
            for start, end, top in self._taken
        ):
            y += 15
        self._taken.append((left, left + width, y))
        self._canvas.text(left, y, name, _NAME)
