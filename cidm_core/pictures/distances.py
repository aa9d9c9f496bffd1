"""How alike words are to CLIP, before and after they were told apart, as two squares of cosines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .canvas import INK, MUTED, PAPER, Canvas, fit, shade

_MOST = 16  # names; of more, the first
_NAMES = 190
_GAP = 26
_TOP = 96


def distances_picture(
    names: Sequence[str],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    title: str = "",
    lines: Sequence[str] = ("", ""),
) -> Image.Image:
    """Draw the cosines of every two names, before and after.

    Args:
        names: What texts say.
        before: (names, names), -1..1.
        after: The same later.
        title: Printed on top.
        lines: Said below each square.
    """
    names = names[:_MOST]
    count = len(names)
    cell = max(26, min(64, 420 // max(1, count)))
    side = cell * count
    canvas = Canvas(_NAMES + 2 * side + 2 * _GAP + 20, _TOP + side + 60)
    canvas.text(20, 16, title or "How alike the words are to CLIP", 17, bold=True)
    canvas.text(
        20, 42, "Cosine of the texts' features: 1 is the same, 0 has nothing in common.", 12
    )
    for row, name in enumerate(names):
        y = _TOP + cell * row + cell / 2 - 8
        canvas.text(20, y, fit(name, 13, _NAMES - 30), 13, INK)
    low = min(float(np.min(each[:count, :count], initial=1.0)) for each in (before, after))
    for place, (label, square, line) in enumerate(
        zip(("before", "after"), (before, after), lines, strict=True)
    ):
        left = _NAMES + place * (side + _GAP)
        canvas.text(left, _TOP - 26, label, 13, MUTED)
        _square(canvas, left, np.asarray(square)[:count, :count], cell, low)
        canvas.text(left, _TOP + side + 14, fit(line, 12, side + _GAP), 12, MUTED)
    return canvas.finish()


def _square(
    canvas: Canvas, left: float, square: NDArray[np.float64], cell: int, low: float
) -> None:
    """One square; its lightest colour is the least alike pair of both."""
    for row, values in enumerate(square):
        for column, value in enumerate(values):
            share = (float(value) - low) / max(1e-9, 1 - low)
            x, y = left + cell * column, _TOP + cell * row
            canvas.box((x, y, x + cell - 2, y + cell - 2), shade(share))
            ink = PAPER if share > 0.55 else INK
            canvas.text(x + 4, y + cell / 2 - 8, f"{value:.2f}", 11, ink, width=cell - 6)
