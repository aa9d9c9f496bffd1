"""Training and aggregation as pictures: loss curves, and which concept got which weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .axes import Frame, legend
from .canvas import (
    INK,
    LINE,
    MUTED,
    SHADE,
    Canvas,
    Color,
    Point,
    color,
    fit,
    mix,
    text_width,
)

Values = NDArray[np.float64]
# The first name that the rows carry is the main curve.
_MAIN_TERMS = ("denoise", "denoising", "diffusion", "loss")
_TITLES = {"denoise": "denoising loss", "denoising": "denoising loss", "loss": "loss"}
_NO_TERMS = frozenset({
    "step", "steps", "loss", "lr", "lr_tokens", "lr_lora", "seconds", "time", "skipped", "epoch",
    "steps_per_second", "remaining_seconds", "token_norm", "grad_norm", "norm", "t",
})  # fmt: skip
_WIDTH = 760
_FULL: Color = (28, 80, 158)
_SHOWN_CONCEPTS = 24


def loss_picture(rows: Sequence[Mapping[str, float]], title: str = "") -> Image.Image:
    """Draw how the loss fell.

    Above the denoising loss, raw and smoothed; below, on a logarithmic axis, every other
    positive term found in the rows, such as R1 and R2 of Eq. 2.

    Args:
        rows: One mapping per step with "step", "denoise" (or "loss") and further terms. Values
            that are missing or not finite leave a gap.
        title: Printed on top.
    """
    main = next((key for key in _MAIN_TERMS if any(key in row for row in rows)), "loss")
    steps = np.array([float(row.get("step", i + 1)) for i, row in enumerate(rows)])
    names = dict.fromkeys(key for row in rows for key in row)
    found = {n: _column(rows, n) for n in names if n not in _NO_TERMS and n not in _MAIN_TERMS}
    terms = {name: values for name, values in found.items() if np.any(_positive(values))}
    canvas = Canvas(_WIDTH, 388 + (238 if terms else 0))
    canvas.text(20, 16, title or "Training", 17, width=_WIDTH - 40, bold=True)
    x_range = (float(steps.min()), float(steps.max())) if rows else (0.0, 1.0)
    _main_panel(canvas, steps, _column(rows, main), x_range, _TITLES.get(main, main))
    if terms:
        _term_panel(canvas, steps, terms, x_range)
    return canvas.finish()


def _column(rows: Sequence[Mapping[str, float]], key: str) -> Values:
    """One term as an array; anything that is no finite number becomes NaN."""

    def number(value: object) -> float:
        return float(value) if isinstance(value, int | float) else math.nan

    values = np.array([number(row.get(key)) for row in rows], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _positive(values: Values) -> NDArray[np.bool_]:
    return np.isfinite(values) & (values > 0)


def smooth(values: Values, reach: int) -> Values:
    """Mean over the `reach` neighbours on either side, fewer at the ends; NaN are left out."""
    good = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    index = np.arange(len(values))
    low, high = np.maximum(0, index - reach), np.minimum(len(values), index + reach + 1)
    number = counts[high] - counts[low]
    return np.where(number > 0, (sums[high] - sums[low]) / np.maximum(1, number), np.nan)


def _curve(
    canvas: Canvas, frame: Frame, steps: Values, values: Values, ink: Color, width: float
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


def _main_panel(
    canvas: Canvas, steps: Values, values: Values, x_range: tuple[float, float], name: str
) -> None:
    good = values[np.isfinite(values)]
    if not good.size:
        canvas.text(_WIDTH / 2, 200, "No finite loss was recorded.", 15, MUTED, anchor="mm")
        return
    # A lone spike must not flatten the curve: it is drawn on the upper edge instead.
    top = min(float(good.max()), 2 * float(np.quantile(good, 0.98)))
    frame = Frame(76, 82, _WIDTH - 24, 330, x_range, (0.0, top * 1.04 or 1.0))
    frame.draw(canvas, "step", name)
    reach = max(1, len(values) // 25)
    _curve(canvas, frame, steps, values, mix(color(0), (255, 255, 255), 0.68), 1)
    _curve(canvas, frame, steps, smooth(np.minimum(values, top), reach), color(0), 2.5)
    entries = [("each step", mix(color(0), (255, 255, 255), 0.68))]
    legend(canvas, _WIDTH - 24, 54, [*entries, (f"mean of {2 * reach + 1} steps", color(0))])


def _term_panel(
    canvas: Canvas, steps: Values, terms: Mapping[str, Values], x_range: tuple[float, float]
) -> None:
    positive = np.concatenate([values[_positive(values)] for values in terms.values()])
    low, high = float(positive.min()), float(positive.max())
    low = max(low, high * 1e-8)
    exponents = math.floor(math.log10(low)), math.ceil(math.log10(high))
    limits = (10.0 ** exponents[0], 10.0 ** max(exponents[1], exponents[0] + 1))
    frame = Frame(76, 432, _WIDTH - 24, 568, x_range, limits, log=True)
    frame.draw(canvas, "step", "regularisers (log)")
    for i, values in enumerate(terms.values(), start=1):
        shown = np.where(_positive(values), np.maximum(values, limits[0]), np.nan)
        _curve(canvas, frame, steps, shown, color(i), 2)
    labels = {"r1": "R1 orthogonality", "r2": "R2 common subspace"}
    entries = [
        (fit(labels.get(name.lower(), name), 13, 150), color(i)) for i, name in enumerate(terms, 1)
    ]
    legend(canvas, _WIDTH - 24, 404, entries[:3])


def weights_picture(
    concepts: Sequence[str],
    layers: Sequence[str],
    weights: Sequence[Sequence[float]] | Values,
    title: str = "",
) -> Image.Image:
    """Draw which concept got which weight: a bar for the mean, a strip for all layers.

    Args:
        concepts: Names of the concepts.
        layers: Paths of the cross-attention layers in execution order.
        weights: (layers, concepts), psi(M) of Eq. 3.
        title: Printed on top, for example the prompt.
    """
    table = np.asarray(weights, dtype=np.float64).reshape(len(layers), len(concepts))
    table = np.nan_to_num(table)
    means = table.mean(axis=0) if len(layers) else np.zeros(len(concepts))
    order = list(range(len(concepts)))
    if len(order) > _SHOWN_CONCEPTS:
        order = sorted(order, key=lambda i: -means[i])[:_SHOWN_CONCEPTS]
    top = max(1e-9, float(table.max(initial=0.0)))
    canvas = Canvas(_WIDTH, 142 + 30 * max(1, len(order)))
    canvas.text(20, 16, title or "Aggregation weights", 17, width=_WIDTH - 40, bold=True)
    if not len(concepts):
        canvas.text(20, 70, "No concept takes part: the base model draws alone.", 14, MUTED)
        return canvas.finish()
    canvas.text(180, 52, "mean", 13, MUTED)
    canvas.text(430, 52, "in each cross-attention layer", 13, MUTED)
    for row, i in enumerate(order):
        _weight_row(canvas, 76 + 30 * row, concepts[i], table[:, i], float(means[i]), top, color(i))
    bottom = 76 + 30 * len(order)
    _layer_names(canvas, bottom + 2, layers)
    _color_scale(canvas, 180, bottom + 22, top)
    if hidden := len(concepts) - len(order):
        canvas.text(20, bottom + 8, f"and {hidden} smaller ones", 12, MUTED, width=150)
    return canvas.finish()


def _weight_row(
    canvas: Canvas, y: float, name: str, values: Values, mean: float, top: float, ink: Color
) -> None:
    canvas.text(20, y + 12, name, 14, anchor="lm", width=150)
    canvas.box((180, y + 3, 350, y + 21), SHADE)
    length = 170 * max(0.0, mean) / top
    if length >= 1:
        canvas.box((180, y + 3, 180 + length, y + 21), ink)
    canvas.text(360, y + 12, f"{mean:.2f}", 13, INK, anchor="lm")
    cell = (_WIDTH - 24 - 430) / max(1, len(values))
    for j, value in enumerate(values):
        shade = mix((240, 243, 248), _FULL, min(1.0, max(0.0, float(value) / top)))
        canvas.box((430 + j * cell, y + 3, 430 + (j + 1) * cell, y + 21), shade)


def _layer_names(canvas: Canvas, y: float, layers: Sequence[str]) -> None:
    """Name runs of layers by their block: down 0, down 1, mid, up 0 ... or d0, d1, m, u0."""
    cell = (_WIDTH - 24 - 430) / max(1, len(layers))
    runs = [(block, len(list(members))) for block, members in groupby(layers, key=_block)]
    if any(text_width(block, 12) > count * cell - 3 for block, count in runs):
        runs = [(block[:1] + block.partition(" ")[2], count) for block, count in runs]
    start = 0
    for label, count in runs:
        left, right = 430 + start * cell, 430 + (start + count) * cell
        canvas.line([(left + 1, y + 2), (right - 2, y + 2)], MUTED)
        canvas.text((left + right) / 2, y + 7, label, 12, MUTED, anchor="ma", width=right - left)
        start += count


def _block(layer: str) -> str:
    parts = layer.split(".")
    side = parts[0].removesuffix("_blocks").removesuffix("_block")
    return f"{side} {parts[1]}" if parts[0].endswith("_blocks") and len(parts) > 1 else side


def _color_scale(canvas: Canvas, x: float, y: float, top: float) -> None:
    for i in range(100):
        shade = mix((240, 243, 248), _FULL, i / 99)
        canvas.box((x + i * 1.7, y, x + (i + 1) * 1.7, y + 8), shade)
    canvas.box((x, y, x + 170, y + 8), None, LINE)
    canvas.text(x, y + 12, "0", 12, MUTED)
    canvas.text(x + 170, y + 12, f"{top:.2f}", 12, MUTED, anchor="ra")
