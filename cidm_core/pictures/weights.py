"""Which concept got which weight, as bars and as a strip over the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .canvas import INK, LINE, MUTED, Canvas, Color, color, fit, shade, text_width

_SHOWN = 24  # concepts; of more, those with the largest weights
_BAR = 180  # where bars begin
_ROW = 30


def weights_picture(
    concepts: Sequence[str],
    layers: Sequence[str],
    weights: Sequence[Sequence[float]] | NDArray[np.float64],
    title: str = "",
    width: int = 760,
) -> Image.Image:
    """Draw which concept got which weight: a bar for the mean, a strip for all layers.

    Args:
        concepts: Names of the concepts.
        layers: Paths of the cross-attention layers in execution order.
        weights: (layers, concepts), psi(M) of Eq. 3.
        title: Printed on top, for example the prompt.
        width: In pixels, 480 or more.
    """
    table = np.asarray(weights, dtype=np.float64).reshape(len(layers), len(concepts))
    table = np.nan_to_num(table)
    means = table.mean(axis=0) if len(layers) else np.zeros(len(concepts))
    order = list(range(len(concepts)))
    if len(order) > _SHOWN:
        order = sorted(order, key=lambda i: -means[i])[:_SHOWN]
    canvas = Canvas(width, 142 + _ROW * max(1, len(order)))
    canvas.text(20, 16, title or "Aggregation weights", 17, width=width - 40, bold=True)
    if not len(concepts):
        text = "No concept takes part: the base model draws alone."
        canvas.text(20, 70, text, 14, MUTED, width=width - 40)
        return canvas.finish()
    chart = _Chart(canvas, max(1e-9, float(table.max(initial=0.0))), len(layers))
    chart.heads()
    for row, i in enumerate(order):
        chart.row(76 + _ROW * row, concepts[i], table[:, i], float(means[i]), color(i))
    bottom = 76 + _ROW * len(order)
    chart.layer_names(bottom + 2, layers)
    chart.color_scale(bottom + 22)
    if hidden := len(concepts) - len(order):
        canvas.text(20, bottom + 8, f"and {hidden} smaller ones", 12, MUTED, width=150)
    return canvas.finish()


@dataclass(frozen=True)
class _Chart:
    """Columns of the picture: name, bar, mean, strip. `top` is the largest weight."""

    canvas: Canvas
    top: float
    layers: int

    @property
    def bar(self) -> float:
        """Length of a full bar."""
        return (self.canvas.width - _BAR) * 0.29

    @property
    def strip(self) -> float:
        """Where the strip begins."""
        return _BAR + self.bar + 80

    @property
    def cell(self) -> float:
        """Width of a layer in the strip."""
        return (self.canvas.width - 24 - self.strip) / max(1, self.layers)

    def heads(self) -> None:
        self.canvas.text(_BAR, 52, "mean", 13, MUTED)
        room = self.canvas.width - 20 - self.strip
        self.canvas.text(self.strip, 52, fit("in each layer", 13, room), 13, MUTED)

    def row(
        self, y: float, name: str, values: NDArray[np.float64], mean: float, ink: Color
    ) -> None:
        self.canvas.text(20, y + 12, name, 14, anchor="lm", width=150)
        self.canvas.bar(_BAR, y + 2, self.bar, mean / self.top, ink)
        self.canvas.text(_BAR + self.bar + 10, y + 12, f"{mean:.2f}", 13, INK, anchor="lm")
        for j, value in enumerate(values):
            left = self.strip + j * self.cell
            cell = left, y + 2, left + self.cell, y + 22
            self.canvas.box(cell, shade(float(value) / self.top))

    def layer_names(self, y: float, layers: Sequence[str]) -> None:
        """Name runs of layers by their block: down 0, down 1, mid, up 0 ... or d0, d1, m, u0."""
        runs = [(block, len(list(members))) for block, members in groupby(layers, key=_block)]
        if any(text_width(block, 12) > count * self.cell - 3 for block, count in runs):
            runs = [(block[:1] + block.partition(" ")[2], count) for block, count in runs]
        start = 0
        for label, count in runs:
            left = self.strip + start * self.cell
            right = left + count * self.cell
            self.canvas.line([(left + 1, y + 2), (right - 2, y + 2)], MUTED)
            middle = (left + right) / 2
            self.canvas.text(middle, y + 7, label, 12, MUTED, anchor="ma", width=right - left)
            start += count

    def color_scale(self, y: float) -> None:
        step = self.bar / 100
        for i in range(100):
            self.canvas.box((_BAR + i * step, y, _BAR + (i + 1) * step, y + 8), shade(i / 99))
        self.canvas.box((_BAR, y, _BAR + self.bar, y + 8), None, LINE)
        self.canvas.text(_BAR, y + 12, "0", 12, MUTED)
        self.canvas.text(_BAR + self.bar, y + 12, f"{self.top:.2f}", 12, MUTED, anchor="ra")


def _block(layer: str) -> str:
    parts = layer.split(".")
    side = parts[0].removesuffix("_blocks").removesuffix("_block")
    return f"{side} {parts[1]}" if parts[0].endswith("_blocks") and len(parts) > 1 else side
