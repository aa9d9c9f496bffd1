"""How the loss fell: one run with all its terms, or several runs in one frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .axes import Frame, legend
from .canvas import MUTED, PAPER, Canvas, Color, Point, color, fit, mix

LossRows = Sequence[Mapping[str, float]]
_Values = NDArray[np.float64]
_NO_TERMS = ("step", "denoise", "loss", "grad_norm", "seconds", "skipped", "stage", "stage_step")
_LABELS = {"r1": "R1 orthogonality", "r2": "R2 common subspace"}
_LEFT, _RIGHT = 76, 24


def loss_picture(rows: LossRows, title: str = "") -> Image.Image:
    """Draw how the loss of one run fell.

    Above the denoising loss, raw and smoothed; below, on a logarithmic axis, every other
    positive term found in the rows, such as R1 and R2 of Eq. 2.

    Args:
        rows: One mapping per step with "step", "denoise" (or "loss") and further terms. Values
            that are missing or not finite leave a gap.
        title: Printed on top.
    """
    main = _main_term(rows)
    steps = _steps(rows)
    names = dict.fromkeys(key for row in rows for key in row if key not in _NO_TERMS)
    terms = {name: _column(rows, name) for name in names if not name.startswith("lr")}
    terms = {name: values for name, values in terms.items() if np.any(values > 0)}
    canvas = _sheet(title, 760, 388 + (238 if terms else 0))
    values = _column(rows, main)
    label = "loss" if main == "loss" else "denoising loss"
    frame = _main_frame(canvas, [steps], [values], label)
    if frame is not None:
        faint = mix(color(0), PAPER, 0.68)
        reach = _reach(values)
        _curve(canvas, frame, steps, values, faint, 1)
        _smooth_curve(canvas, frame, steps, values, color(0))
        entries = [("each step", faint), (f"mean of {2 * reach + 1} steps", color(0))]
        legend(canvas, canvas.width - _RIGHT, 54, entries)
    if terms:
        _term_panel(canvas, steps, terms)
    return canvas.finish()


def losses_picture(runs: Mapping[str, LossRows], title: str = "", width: int = 760) -> Image.Image:
    """Draw the smoothed denoising losses of several runs in one frame.

    Args:
        runs: Rows as for `loss_picture`, by name.
        title: Printed on top.
        width: In pixels, 480 or more.
    """
    canvas = _sheet(title, width, 388)
    steps = [_steps(rows) for rows in runs.values()]
    values = [_column(rows, _main_term(rows)) for rows in runs.values()]
    smoothed = [smooth(each, _reach(each)) for each in values]
    frame = _main_frame(canvas, steps, smoothed, "denoising loss")
    if frame is not None:
        for i, (x, y) in enumerate(zip(steps, values, strict=True)):
            _smooth_curve(canvas, frame, x, y, color(i))
        room = (width - 200) / max(1, len(runs)) - 44
        entries = [(fit(name, 13, room), color(i)) for i, name in enumerate(runs)]
        legend(canvas, width - _RIGHT, 54, entries)
    return canvas.finish()


def smooth(values: _Values, reach: int) -> _Values:
    """Mean over the `reach` neighbours on either side, fewer at the ends; NaN are left out."""
    good = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    index = np.arange(len(values))
    low, high = np.maximum(0, index - reach), np.minimum(len(values), index + reach + 1)
    number = counts[high] - counts[low]
    return np.where(number > 0, (sums[high] - sums[low]) / np.maximum(1, number), np.nan)


def _main_term(rows: LossRows) -> str:
    return "denoise" if any("denoise" in row for row in rows) else "loss"


def _steps(rows: LossRows) -> _Values:
    return np.array([float(row.get("step", i + 1)) for i, row in enumerate(rows)])


def _column(rows: LossRows, key: str) -> _Values:
    """One term as an array; anything that is no finite number becomes NaN."""

    def number(value: object) -> float:
        return float(value) if isinstance(value, int | float) else math.nan

    values = np.array([number(row.get(key)) for row in rows], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _sheet(title: str, width: int, height: int) -> Canvas:
    canvas = Canvas(width, height)
    canvas.text(20, 16, title or "Training", 17, width=width - 40, bold=True)
    return canvas


def _reach(values: _Values) -> int:
    return max(1, len(values) // 25)


def _curve(
    canvas: Canvas, frame: Frame, steps: _Values, values: _Values, ink: Color, width: float
) -> None:
    points: list[Point] = []
    for step, value in zip(steps, values, strict=True):
        if math.isfinite(value):
            points.append(frame.at(float(step), float(value)))
            continue
        canvas.line(points, ink, width)
        points = []
    canvas.line(points, ink, width)
    if len(points) == 1:
        canvas.dot(*points[0], 3, ink)


def _smooth_curve(
    canvas: Canvas, frame: Frame, steps: _Values, values: _Values, ink: Color
) -> None:
    # A spike beyond the frame counts as the frame's edge, or it would lift its neighbours too.
    limited = np.minimum(values, frame.y_range[1])
    _curve(canvas, frame, steps, smooth(limited, _reach(values)), ink, 2.5)


def _main_frame(
    canvas: Canvas, steps: Sequence[_Values], values: Sequence[_Values], name: str
) -> Frame | None:
    """The frame that holds all the curves, drawn; None if there is nothing to show."""
    together = np.concatenate([*values, np.zeros(0)])
    good = together[np.isfinite(together)]
    if not good.size:
        text = "No finite loss was recorded."
        canvas.text(canvas.width / 2, 200, text, 15, MUTED, anchor="mm")
        return None
    # A lone spike must not flatten the curve: it is drawn on the upper edge instead.
    top = min(float(good.max()), 2 * float(np.quantile(good, 0.98)))
    all_steps = np.concatenate(steps)
    x_range = float(all_steps.min()), float(all_steps.max())
    frame = Frame(_LEFT, 82, canvas.width - _RIGHT, 330, x_range, (0.0, top * 1.04 or 1.0))
    frame.draw(canvas, "step", name)
    return frame


def _term_panel(canvas: Canvas, steps: _Values, terms: Mapping[str, _Values]) -> None:
    positive = np.concatenate([values[values > 0] for values in terms.values()])
    low, high = float(positive.min()), float(positive.max())
    low = max(low, high * 1e-8)
    exponents = math.floor(math.log10(low)), math.ceil(math.log10(high))
    limits = (10.0 ** exponents[0], 10.0 ** max(exponents[1], exponents[0] + 1))
    x_range = float(steps.min()), float(steps.max())
    right = canvas.width - _RIGHT
    frame = Frame(_LEFT, 432, right, 568, x_range, limits, log=True)
    frame.draw(canvas, "step", "other terms (log)")
    for i, values in enumerate(terms.values(), start=1):
        shown = np.where(values > 0, np.maximum(values, limits[0]), np.nan)
        _curve(canvas, frame, steps, shown, color(i), 2)
    entries = [
        (fit(_LABELS.get(name.lower(), name), 13, 130), color(i)) for i, name in enumerate(terms, 1)
    ]
    legend(canvas, right, 404, entries[:3])
