"""A plot of IA against TA: every system a point, ours a curve over its strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from cidm_core.pictures.axes import Frame
from cidm_core.pictures.canvas import (
    INK,
    MUTED,
    PAPER,
    Canvas,
    Color,
    Point,
    color,
    wrap,
)
from cidm_core.pictures.canvas import text_width as width_of

_EXPLAINED = (
    "Right: more like the photos. Up: closer to the prompt in class words. A curve joins one "
    "system at several strengths. Higher than perfect pictures means that less of the concept is "
    "seen, not that the prompt is followed better."
)
_SIZE, _TEXT, _GAP = (920, 640), 13, 17
_OURS = "ours"

_Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class _Mark:
    """A point in pixels with its name."""

    at: Point
    label: str
    ink: Color
    radius: float
    left: bool = False


def likeness_picture(results: Mapping[str, Any]) -> Image.Image:
    """Systems, and where there are any perfect pictures and a curve of strengths.

    Args:
        results: As in `results.json`, with "main".
    """
    main, perfect = results["main"], results.get("perfect") or {}
    curves: Mapping[str, Any] = results.get("strengths") or {}
    points = {name: [_spot(each) for each in curve] for name, curve in curves.items()}
    everything = [_spot(row["scores"]) for row in main.values()]
    everything += [spot for curve in points.values() for spot in curve]
    everything += [_spot(perfect["scores"])] if perfect else []
    canvas = Canvas(*_SIZE)
    canvas.text(24, 14, "Likeness against obedience", 20, bold=True)
    canvas.lines(24, 44, wrap(_EXPLAINED, _TEXT, canvas.width - 48, 3), _TEXT, MUTED)
    ranges = _range([x for x, _ in everything], 0.25), _range([y for _, y in everything], 0.1)
    frame = Frame(70, 124, canvas.width - 30, canvas.height - 60, *ranges)
    frame.draw(canvas, "IA x 100", "TA x 100")
    marks: list[_Mark] = []
    for name, curve in points.items():
        canvas.line([frame.at(*spot) for spot in curve], _ink(name), 3)
        marks += [
            _Mark(frame.at(*spot), f"x {each['strength']:g}", _ink(name), 4, left=name != _OURS)
            for spot, each in zip(curve, curves[name], strict=True)
            if each["strength"] != 1
        ]
    for name, row in main.items():
        if name != "oracle" or _OURS not in main:  # where ours is, to the pixel
            spot, left = frame.at(*_spot(row["scores"])), name != _OURS
            marks.append(_Mark(spot, row["label"], _ink(name), 6, left))
    if perfect:
        marks.append(_Mark(frame.at(*_spot(perfect["scores"])), "Perfect pictures", color(2), 7))
    _mark(canvas, marks)
    return canvas.finish()


def _ink(name: str) -> Color:
    return color(0) if name == _OURS else color(7)


def _spot(scores: Mapping[str, Any]) -> Point:
    return 100 * scores["ia"]["mean"], 100 * scores["ta"]["mean"]


def _range(values: Sequence[float], share: float) -> tuple[float, float]:
    """With room for labels."""
    margin = share * (max(values) - min(values)) + 1
    return min(values) - margin, max(values) + margin


def _mark(canvas: Canvas, marks: Sequence[_Mark]) -> None:
    """Dots, and names that run neither into each other nor over a dot."""
    taken = [_around(mark) for mark in marks]
    for mark in sorted(marks, key=lambda mark: mark.at[1]):
        x, y = mark.at
        box, left = _free(mark, taken)
        taken.append(box)
        start, top, stop, bottom = box
        height = (top + bottom) / 2
        if abs(height - y) > 4:
            canvas.line([(x, y), (stop + 2 if left else start - 2, height)], MUTED)
        canvas.text(start, height, mark.label, _TEXT, INK, anchor="lm")
    for mark in marks:
        canvas.dot(*mark.at, mark.radius + 1.5, PAPER)
        canvas.dot(*mark.at, mark.radius, mark.ink)


def _around(mark: _Mark) -> _Box:
    x, y = mark.at
    return x - mark.radius, y - mark.radius, x + mark.radius, y + mark.radius


def _free(mark: _Mark, taken: Sequence[_Box]) -> tuple[_Box, bool]:
    """The nearest free place for a name, and whether that is left of its dot."""
    (x, y), width = mark.at, width_of(mark.label, _TEXT)
    places: list[tuple[_Box, bool]] = []
    for step in range(len(taken) + 1):
        for left in (mark.left, not mark.left):
            start, height = (x - 12 - width if left else x + 12), y + step * _GAP
            places.append(((start, height - _GAP / 2, start + width, height + _GAP / 2), left))
    return next((place for place in places if not _hits(place[0], taken)), places[0])


def _hits(box: _Box, taken: Sequence[_Box]) -> bool:
    left, top, right, bottom = box
    return any(x0 < right and left < x1 and y0 < bottom and top < y1 for x0, y0, x1, y1 in taken)
