"""Sizes of training pictures: the square, or the shape of each photo at about its area.

The convention of kohya-ss/sd-scripts: sides in steps of 64 px, areas up to the square's, and each
photo gets the size whose shape is nearest to its own.
"""

from __future__ import annotations

import math

_STEP_PX = 64
_NARROWEST = 4  # the longer side is at most this many times as long as the shorter


def bucket_sizes(side_px: int, cell_px: int) -> list[tuple[int, int]]:
    """Every size (width, height) that stands for a square of this side.

    Args:
        side_px: Of the square.
        cell_px: Of a latent cell; sides are whole numbers of cells.
    """
    step = max(cell_px, min(_STEP_PX, side_px // 4) // cell_px * cell_px)
    widths = range(step, 2 * side_px + 1, step)
    sizes = [(width, side_px**2 // width // step * step) for width in widths]
    sizes = [(w, h) for w, h in sizes if h and max(w, h) <= _NARROWEST * min(w, h)]
    return sorted({*sizes, *((h, w) for w, h in sizes), (side_px, side_px)})


def bucket_of(size: tuple[int, int], side_px: int, cell_px: int) -> tuple[int, int]:
    """The size (width, height) to learn a photo at; of two that fit alike the larger."""
    shape = math.log(size[0] / size[1])
    found = bucket_sizes(side_px, cell_px)
    return min(found, key=lambda s: (round(abs(math.log(s[0] / s[1]) - shape), 6), -s[0] * s[1]))
