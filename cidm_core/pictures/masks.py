"""Photos with their masks, and what of each is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .canvas import PAPER
from .sheets import Row, contact_sheet

_TILE = 150


class MaskedPhoto(NamedTuple):
    """A photo, what it is called, and its mask: (height, width) in 0..1, None for all of it."""

    name: str
    image: Image.Image
    mask: NDArray[np.float32] | None


def masks_picture(photos: Sequence[MaskedPhoto], title: str = "") -> Image.Image:
    """A sheet with a row for each photo: the photo, its mask, and what the mask leaves of it.

    Args:
        photos: At least one.
        title: Printed on top.
    """
    return contact_sheet(
        [_row(photo) for photo in photos],
        ("Photo", "Mask", "Learned from"),
        title or "Photos and masks",
        "White counts in full, grey in part, black not at all.",
        _TILE,
    )


def _row(photo: MaskedPhoto) -> Row:
    image = photo.image.copy()
    image.thumbnail((2 * _TILE, 2 * _TILE))
    if photo.mask is None:
        white = Image.new("L", image.size, "white")
        return Row(photo.name, "No mask: all of it counts.", [[image], [white], [image]])
    grey = Image.fromarray(np.rint(photo.mask * 255).astype(np.uint8))
    grey = grey.resize(image.size, Image.Resampling.BILINEAR)
    left = Image.composite(image, Image.new("RGB", image.size, PAPER), grey)
    share = f"{100 * photo.mask.mean():.0f} % of it counts."
    return Row(photo.name, share, [[image], [grey], [left]])
