"""What a model is shown of each drawn picture, and what it is told of the picture's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .data import Pictures

SIDE = 32
SHARE = 6  # one view of each kind is added for every so many pictures
WHOLE = (SIDE, SIDE, 0, 0, SIDE, SIDE)
_TOLD_LARGER = 0.25


@dataclass(frozen=True)
class Views:
    """Views of pictures.

    Attributes:
        pixels: uint8 (M, 32, 32, 3).
        rows: Number of the picture each is of (M,); its captions hold for the view.
        sizes: Original size, crop corner and target size of each in pixels (M, 6), height or
            top first, as `cidm_core.diffusers_host.sizes` orders them.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    sizes: NDArray[np.float32]


def whole_pictures(drawn: Pictures, seed: int) -> Views:
    """Return the pictures as they are."""
    del seed
    count = len(drawn.pixels)
    return Views(drawn.pixels, np.arange(count), np.full((count, 6), WHOLE, np.float32))


def sized_pictures(drawn: Pictures, seed: int) -> Views:
    """Return all pictures as they are, and beside them some blurred and some cropped views.

    Blurred ones come from a smaller original of 12 to 31 px, cropped ones are cut from a picture
    enlarged to 36 to 64 px. A quarter of the whole ones is told to be larger, up to 128 px a side:
    wide pictures are drawn too, and no such number may come as a surprise.
    """
    rng = np.random.default_rng((seed, 6))
    count = len(drawn.pixels)
    whole = np.full((count, 6), WHOLE, np.float32)
    larger = np.flatnonzero(rng.random(count) < _TOLD_LARGER)
    sides = 4 * rng.integers(SIDE // 4, 128 // 4 + 1, (len(larger), 2))
    whole[larger] = np.concatenate([sides, 0 * sides, sides], 1)
    blurred, cropped = rng.permutation(count)[: 2 * (count // SHARE)].reshape(2, -1)
    made = [_blurred(drawn.pixels[row], int(rng.integers(12, SIDE))) for row in blurred]
    for row in cropped:
        side = int(rng.integers(36, 65))
        top, left = (int(n) for n in rng.integers(0, side - SIDE + 1, 2))
        made.append(_cropped(drawn.pixels[row], side, top, left))
    return Views(
        np.concatenate([drawn.pixels, np.stack([pixels for pixels, _ in made])]),
        np.concatenate([np.arange(count), blurred, cropped]),
        np.concatenate([whole, np.array([sizes for _, sizes in made], np.float32)]),
    )


def _scaled(picture: Image.Image, side: int) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.BICUBIC)


def _blurred(pixels: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    picture = _scaled(_scaled(Image.fromarray(pixels), side), SIDE)
    return np.asarray(picture), (side, side, 0, 0, SIDE, SIDE)


def _cropped(
    pixels: NDArray[np.uint8], side: int, top: int, left: int
) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    picture = _scaled(Image.fromarray(pixels), side)
    part = picture.crop((left, top, left + SIDE, top + SIDE))
    return np.asarray(part), (SIDE, SIDE, top, left, SIDE, SIDE)
