"""The one way in for pictures, from files or memory: orientation, transparency, depth, limits.

Pillow's own switches (`MAX_IMAGE_PIXELS`, `LOAD_TRUNCATED_IMAGES`) belong to the process and stay
as they are; the limits here are checked from the file's header, before a pixel is decoded.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .as_text import warn_once
from .errors import PhotoError
from .paths import user_path

logger = logging.getLogger(__name__)

Pixels = Image.Image | NDArray[np.generic] | Tensor

MAX_PIXELS = 64_000_000
MIN_SIDE_PX = 16
MAX_ASPECT = 32

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
}


def _has_avif() -> bool:
    try:
        from PIL import AvifImagePlugin
    except ImportError:  # Pillow before 11.3
        return False
    return AvifImagePlugin.SUPPORTED


_FORMATS = tuple(name for name in _SUFFIXES if name != "AVIF" or _has_avif())
SUFFIXES = tuple(suffix for name in _FORMATS for suffix in _SUFFIXES[name])


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture as upright RGB: the first frame, transparency over white.

    The content decides the format, not the suffix. 16-bit and float greys are scaled to 8 bits.

    Raises:
        PhotoError: If the file is missing, damaged, of another format, too large, or too small.
    """
    return _rgb(*decode_file(path, "Photo"))


def picture_of(pixels: Pixels, where: str) -> Image.Image:
    """Upright RGB of a picture in memory, as `read_image` makes it of a file.

    Args:
        pixels: PIL picture, or (height, width[, 1, 3 or 4]) array or tensor: integers count
            0..255, uint16 to 65535 where they go beyond, floats 0..1. A leading axis of length 1
            is dropped.
        where: Opens the error message, e.g. "Photo 'dog.png'".

    Raises:
        PhotoError: If shape or range do not fit, or values are not finite.
    """
    return _rgb(from_pixels(pixels, where), where)


def _rgb(image: Image.Image, where: str) -> Image.Image:
    if is_deep(image):
        image = Image.fromarray(np.rint(deep_greys(image, where) * 255).astype(np.uint8))
    if not image.has_transparency_data:
        return _converted(image, "RGB", where)
    canvas = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(canvas, with_alpha(image, where)).convert("RGB")


def with_alpha(image: Image.Image, where: str) -> Image.Image:
    """RGBA of any mode but the deep greys."""
    if not image.has_transparency_data:
        return _converted(image, "RGB", where).convert("RGBA")
    return _converted(image.convert("LA") if image.mode == "La" else image, "RGBA", where)


def _converted(image: Image.Image, mode: str, where: str) -> Image.Image:
    try:
        return image.convert(mode)
    except ValueError as error:
        raise PhotoError(
            f"{where} has colours of kind {image.mode}, which cannot become RGB. Save it as RGB."
        ) from error


def from_pixels(pixels: Pixels, where: str) -> Image.Image:
    """An upright PIL picture of whatever holds one; see `picture_of`."""
    if isinstance(pixels, Image.Image):
        try:
            pixels.load()
        except Exception as error:  # as in `decode_file`
            raise PhotoError(f"{where} is damaged or cut off ({error}).") from error
        return _upright(pixels, where)
    return Image.fromarray(_bytes(as_array(pixels, where), where))


def as_array(pixels: NDArray[np.generic] | Tensor, where: str) -> NDArray[np.generic]:
    """Values (height, width) or (height, width, 3 or 4) of an array or tensor.

    Raises:
        PhotoError: If the shape is another one, or they are no numbers.
    """
    if isinstance(pixels, Tensor):  # numpy knows no bfloat16
        held = pixels.detach().cpu()
        pixels = (held.float() if held.is_floating_point() else held).numpy()
    values = np.asarray(pixels)
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    is_colour = values.ndim == 3 and values.shape[2] in (3, 4) and min(values.shape) > 2
    if not (values.ndim == 2 or is_colour) or not values.size:
        raise PhotoError(
            f"{where} has shape {np.shape(pixels)}; expected (height, width) or (height, width, "
            "3 or 4), with at least one pixel."
        )
    if values.dtype.kind not in "buif":
        raise PhotoError(f"{where} holds no numbers but {values.dtype}.")
    return values


def white_of(values: NDArray[np.generic], where: str) -> int:
    """The value that means white: 1 of floats and truth, 255 of integers, 65535 of deep uint16.

    Raises:
        PhotoError: If values lie outside of black to white, or are not finite.
    """
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "bf":
        white, slack = 1, 0.01  # resizing may overshoot a little
    else:
        white, slack = (65535 if values.dtype == np.uint16 and high > 255 else 255), 0
    if not np.isfinite((low, high)).all():
        raise PhotoError(f"{where} holds NaN or infinite values.")
    if low < -slack or high > white + slack:
        raise PhotoError(
            f"{where} has values from {low:g} to {high:g}; expected 0 to {white} for "
            f"{values.dtype}. Scale it."
        )
    return white


def check_size(size: tuple[int, int], where: str) -> None:
    """Refuse (width, height) that cannot become a training picture.

    Raises:
        PhotoError: If there are too many pixels, or a side is too short or far too long.
    """
    width, height = size
    if width * height > MAX_PIXELS:
        raise PhotoError(_too_large(where, width * height, f"{width} x {height} px, "))
    if min(size) < MIN_SIDE_PX:
        raise PhotoError(
            f"{where} is {width} x {height} px; both sides need at least {MIN_SIDE_PX} px. "
            "Use a larger picture, or remove it."
        )
    if max(size) > MAX_ASPECT * min(size):
        raise PhotoError(
            f"{where} is {width} x {height} px; one side may be at most {MAX_ASPECT} times the "
            "other. Crop it."
        )


def decode_file(path: str | os.PathLike[str], what: str) -> tuple[Image.Image, str]:
    """The first frame of a picture file as it is stored, upright, and its name for messages."""
    path = user_path(path)
    where = f"{what} '{path}'"
    try:
        if path.is_dir():
            raise PhotoError(f"{where} is a folder. Remove it, or rename it without a suffix.")
        if path.exists() and not path.is_file():
            raise PhotoError(f"{where} is no regular file. Replace it by a picture file.")
        with path.open("rb") as file:
            return _first_frame(file, where), where
    except PhotoError:
        raise
    except FileNotFoundError as error:
        raise PhotoError(
            f"{where} is not there (any more). Put it back, or start again."
        ) from error
    except PermissionError as error:
        raise PhotoError(f"{where} may not be read. Give yourself read permission.") from error
    except MemoryError as error:
        raise PhotoError(f"{where} does not fit into memory. Shrink it first.") from error
    except Exception as error:  # what Pillow's decoders raise on damaged data has no common base
        raise PhotoError(
            f"{where} is damaged or cut off ({error}). Copy it again from its source, or remove it."
        ) from error


def _first_frame(file: BinaryIO, where: str) -> Image.Image:
    with _open(file, where) as image:
        check_size(image.size, where)
        image.load()
        upright = _upright(image, where)
        if image.format != "MPO" and _is_animated(image):  # an MPO's second picture is a preview
            warn_once(logger, f"{where} has several frames; only the first one is used.")
        return upright


def _open(file: BinaryIO, where: str) -> Image.Image:
    if not file.read(1):
        raise PhotoError(
            f"{where} is empty (0 bytes). Copy it again from its source, or remove it."
        )
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # check_size is stricter
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        raise PhotoError(_too_large(where, int(found.group()) if found else None)) from error
    except UnidentifiedImageError as error:
        raise PhotoError(
            f"{where} holds no picture of a kind read here ({', '.join(_FORMATS)}). "
            "Save it as JPEG or PNG, or remove it."
        ) from error


def _too_large(where: str, pixels: int | None, sides: str = "") -> str:
    found = f"{pixels / 1e6:.0f} megapixels" if pixels else "too many pixels"
    return f"{where} has {sides}{found}; the limit is {MAX_PIXELS / 1e6:.0f}. Shrink it first."


def _upright(image: Image.Image, where: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception as error:  # a broken EXIF block says nothing about the pixels
        warn_once(logger, f"{where} has unreadable EXIF data ({error}); taken as upright.")
        return image.copy()


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # damage behind the first frame does not matter here
        return True


def is_deep(image: Image.Image) -> bool:
    """Whether its greys have more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def deep_greys(image: Image.Image, where: str) -> NDArray[np.float32]:
    """Greys of more than 8 bits as float32 in 0..1: scaled, never saturated.

    Modes I and F do not say their range: it is the smallest usual one that holds the values.
    """
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise PhotoError(f"{where} holds NaN or infinite values. Save it with 8 or 16 bits.")
    peak = float(values.max())
    usual = (65535.0,) if image.mode.startswith("I") else (1.0, 255.0, 65535.0)
    white = next((limit for limit in usual if peak <= limit), peak)
    return (values / white).clip(0, 1).astype(np.float32)


def _bytes(values: NDArray[np.generic], where: str) -> NDArray[np.uint8]:
    white = white_of(values, where)
    floats = values.astype(np.float32)
    return np.rint(floats.clip(0, white) * (255 / white)).astype(np.uint8)
