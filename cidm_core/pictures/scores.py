"""Alignment scores as bars, and what stands in which region as a table of shades."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from .canvas import INK, LINE, MUTED, PALETTE, PAPER, Canvas, color, shade

_WIDTH = 640
_NAME = 170
_ROW = 34
_GOOD, _BAD = PALETTE[2], PALETTE[4]


def scores_picture(rows: Sequence[tuple[str, float]]) -> Image.Image:
    """One bar per name and score, from 0 to 1; below 0 there is none."""
    canvas = Canvas(_WIDTH, 60 + _ROW * max(1, len(rows)))
    canvas.text(20, 16, "Alignment", 17, bold=True)
    full = _WIDTH - _NAME - 90
    for i, (name, score) in enumerate(rows):
        y = 54 + _ROW * i
        canvas.text(20, y + 11, name, 14, anchor="lm", width=_NAME - 30)
        canvas.bar(_NAME, y, full, score, color(i))
        canvas.text(_NAME + full + 10, y + 11, f"{score:.3f}", 14, INK, anchor="lm")
    return canvas.finish()


def presence_picture(
    regions: Sequence[str],
    concepts: Sequence[str],
    cosines: Sequence[Sequence[float]],
    shares: Sequence[float],
) -> Image.Image:
    """Shades of similarity, regions down and concepts across; each region's own one is framed.

    Args:
        regions: What each region should show.
        concepts: Names of the reference sets; the k-th belongs into the k-th region.
        cosines: (regions, concepts).
        shares: For each region, in what share of the pictures its own concept is the nearest.
    """
    cell = min(120.0, (_WIDTH - _NAME - 110) / max(1, len(concepts)))
    canvas = Canvas(_WIDTH, 110 + _ROW * max(1, len(regions)))
    canvas.text(20, 16, "Which concept is in which region", 17, bold=True)
    values = [value for row in cosines for value in row] or [0.0]
    low, span = min(values), max(1e-6, max(values) - min(values))
    for j, name in enumerate(concepts):
        canvas.text(_NAME + (j + 0.5) * cell, 62, name, 13, MUTED, anchor="ma", width=cell - 8)
    end = _NAME + len(concepts) * cell
    canvas.text(end + 14, 62, "present", 13, MUTED)
    for i, (name, row, share) in enumerate(zip(regions, cosines, shares, strict=True)):
        y, mark = 86 + _ROW * i, _GOOD if share >= 0.5 else _BAD
        canvas.text(20, y + _ROW / 2, name, 14, anchor="lm", width=_NAME - 30)
        for j, value in enumerate(row):
            depth = (value - low) / span
            corners = (_NAME + j * cell + 2, y + 2, _NAME + (j + 1) * cell - 2, y + _ROW - 2)
            edge, thickness = (mark, 3) if i == j else (LINE, 1)
            canvas.box(corners, shade(depth), edge, thickness)
            ink = PAPER if depth > 0.5 else INK
            canvas.text(
                _NAME + (j + 0.5) * cell, y + _ROW / 2, f"{value:.3f}", 13, ink, anchor="mm"
            )
        canvas.text(end + 14, y + _ROW / 2, f"{share:.0%}", 14, mark, anchor="lm", bold=True)
    return canvas.finish()
