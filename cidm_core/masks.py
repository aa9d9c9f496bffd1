"""Masks from files or memory: white on black, labels, paint on nothing, photos with a hole."""

from __future__ import annotations

import logging
import os

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .as_text import warn_once
from .errors import PhotoError
from .images import (
    Pixels,
    as_array,
    decode_file,
    deep_greys,
    from_pixels,
    is_deep,
    white_of,
    with_alpha,
)

logger = logging.getLogger(__name__)

Mask = NDArray[np.float32]  # (height, width) in 0..1

VISIBLE = "what is visible counts as white"
HOLES = "its holes count as white"
_WHITE = np.float32(255)
_LABELS = 16  # more than so many greys are no labels
_SPECK = 0.001  # of a photo; four cells of a picture of 512 px
_TINT = 32  # two channels of a colour differ by more than this


def read_mask(path: str | os.PathLike[str], of_photo: str | None = None) -> Mask:
    """Read a mask file; see `mask_of`."""
    return _values(*decode_file(path, "Mask"), of_photo)


def mask_of(pixels: Pixels, where: str, of_photo: str | None = None) -> Mask:
    """Upright (height, width) in 0..1 of a mask; transparency counts as black.

    Integers are 0..255 (uint16 to 65535 where they go beyond), but labels, two values of which the
    larger is below a quarter of white (0 and 1 of 255, say), are 0 and 1: as greys they would all
    but switch the mask off. One colour painted on transparency, or on black, is white.

    Args:
        pixels: PIL picture, or array or tensor of shape (height, width), with a leading axis of
            length 1 if you like, or of a picture.
        where: Opens the error message, e.g. "Mask 'dog.png'".
        of_photo: What to make of a photo with transparent parts: `VISIBLE`, `HOLES`, or None to
            refuse it.

    Raises:
        PhotoError: If shape or range do not fit, it has labels of several things, or is a photo
            with transparent parts and nothing is to be made of them.
    """
    if not isinstance(pixels, Image.Image):
        values = as_array(pixels, where)
        if values.ndim == 2:
            white = white_of(values, where)
            scaled = (values.astype(np.float32) / white).clip(0, 1)
            return scaled if values.dtype.kind == "f" else _unlabelled(scaled, where)
    return _values(from_pixels(pixels, where), where, of_photo)


def same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether a picture of one size can be a scaled one of the other, give or take a pixel."""
    across, down = first[0] * second[1], first[1] * second[0]
    return abs(across - down) <= max(0.02 * max(across, down), *first, *second)


def fitted(mask: Mask, size: tuple[int, int], where: str) -> Mask:
    """A mask at the size (width, height) of its photo, with something white in it.

    Raises:
        PhotoError: If it is black everywhere, or of another shape.
    """
    height, width = mask.shape
    if not mask.any():
        raise PhotoError(
            f"{where} is black everywhere. Paint the concept white, or remove the mask."
        )
    if told := told_of_speck(mask, where):
        warn_once(logger, told)
    if not same_shape((width, height), size):
        raise PhotoError(
            f"{where} is {width} x {height} px, its photo {size[0]} x {size[1]} px: another shape. "
            "Make the mask from the photo itself."
        )
    if (width, height) == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)


def told_of_speck(mask: Mask, where: str) -> str:
    """What to tell of a mask that is all but black; "" of others."""
    if mask.mean() >= _SPECK:
        return ""
    return (
        f"{where} leaves {100 * mask.mean():.3f} % of its photo: next to nothing is learned from "
        "it. Is it the right mask?"
    )


def _values(image: Image.Image, where: str, of_photo: str | None) -> Mask:
    if is_deep(image):
        return _unlabelled(deep_greys(image, where), where)
    rgba = with_alpha(image, where)
    pixels = np.asarray(rgba)
    alpha, paint = pixels[..., 3], pixels[..., :3].any(axis=2)
    seen = pixels[..., :3][(alpha > 0) & paint]
    has_holes = bool((alpha < 255).any())
    is_photo = _is_photo(seen, has_holes)
    if is_photo and (seen == seen[0]).all():
        return _share(np.where(paint, alpha, 0))
    if is_photo and has_holes:
        return _from_photo(alpha, where, of_photo)
    if is_photo:
        warn_once(logger, f"{where} is a picture in colours; its brightness is taken as the mask.")
    black = Image.new("RGBA", image.size, "black")
    grey = Image.alpha_composite(black, rgba).convert("RGB").convert("L")
    return _unlabelled(_share(np.asarray(grey)), where)


def _is_photo(seen: NDArray[np.uint8], has_holes: bool) -> bool:
    """Whether what is not black is coloured, or, around holes, mostly of many middle greys."""
    if not seen.size:
        return False
    low, high = seen.min(axis=1), seen.max(axis=1)
    if (high - low > _TINT).mean() > 0.02:
        return True
    middle = low[(low > _TINT) & (low < 255 - _TINT)]
    return has_holes and len(middle) > len(low) / 2 and len(np.unique(middle)) > _LABELS


def _from_photo(alpha: NDArray[np.uint8], where: str, of_photo: str | None) -> Mask:
    if of_photo is None:
        raise PhotoError(
            f"{where} is a photo with transparent parts. Paint white where it applies, and black "
            "elsewhere."
        )
    warn_once(logger, f"{where} is a photo with transparent parts: {of_photo}.")
    wanted = 255 - alpha if of_photo == HOLES else alpha
    return _share(wanted)


def _share(greys: NDArray[np.uint8]) -> Mask:
    """Greys of 0 to 255 as 0 to 1."""
    return np.divide(greys, _WHITE, dtype=np.float32)


def _unlabelled(values: Mask, where: str) -> Mask:
    """Greys as they are, labels as 0 and 1."""
    peak = float(values.max())
    if not 0 < peak < 0.25:
        return values
    greys = np.unique(values)
    labels = len(greys) - bool(greys[0] == 0)
    if labels == 1:
        return (values > 0).astype(np.float32)
    if labels <= _LABELS:
        raise PhotoError(
            f"{where} is nearly black, with {len(greys)} values up to {peak * 255:.0f} of 255: "
            "labels of several things? Make the wanted one 255 and the rest 0."
        )
    return values
