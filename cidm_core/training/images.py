"""Reading picture files safely: formats, sizes, orientation, transparency, bit depth.

Pillow's own switches (`MAX_IMAGE_PIXELS`, `LOAD_TRUNCATED_IMAGES`) belong to the process and stay
as they are; the limits here are checked from the file's header, before a pixel is decoded.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import PhotoError
from ..paths import user_path

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
    path = user_path(path)
    return to_rgb(_decode(path, "Photo"), f"Photo '{path}'")


def read_mask(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a mask as upright (height, width) in 0..1; transparency counts as outside.

    A label mask, two values of which the larger is below a quarter of the range (0 and 1 of 255,
    say), is read as 0 and 1: taken as grey values it would all but switch the loss off.

    Raises:
        PhotoError: As `read_image`.
    """
    path = user_path(path)
    return to_mask(_decode(path, "Mask"), f"Mask '{path}'")


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """Any mode to RGB. `where` opens the error message, e.g. "Photo 'dog.png'"."""
    if _is_deep(image):
        image = Image.fromarray(np.rint(_grey(image, where) * 255).astype(np.uint8))
    return _flat(image, "white", where)


def to_mask(image: Image.Image, where: str) -> NDArray[np.float32]:
    """Any mode to grey values in 0..1, (height, width)."""
    if _is_deep(image):
        values = _grey(image, where)
    else:
        grey = _flat(image, "black", where).convert("L")
        values = np.asarray(grey, dtype=np.float32) / 255
    peak = float(values.max())
    is_label = 0 < peak < 0.25 and bool(((values == 0) | (values == values.max())).all())
    return (values > 0 if is_label else values).astype(np.float32)


def from_pixels(pixels: Pixels, where: str) -> Image.Image:
    """A PIL picture of an array or tensor: (height, width) or (height, width, 1, 3 or 4).

    Integers count 0..255, floats 0..1; a leading axis of length 1 is dropped.

    Raises:
        PhotoError: If the shape is another one, or values are out of that range or not finite.
    """
    if isinstance(pixels, Image.Image):
        return pixels
    if isinstance(pixels, Tensor):  # numpy knows no bfloat16
        held = pixels.detach().cpu()
        pixels = (held.float() if held.is_floating_point() else held).numpy()
    values = pixels
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    is_picture = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
    if not is_picture or not values.size:
        raise PhotoError(
            f"{where} has shape {pixels.shape}; expected (height, width) or (height, width, 3 or 4)"
            ", with at least one pixel."
        )
    return Image.fromarray(_bytes(values, where))


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


def _decode(path: Path, what: str) -> Image.Image:
    where = f"{what} '{path}'"
    try:
        if path.is_dir():
            raise PhotoError(f"{where} is a folder. Remove it, or rename it without a suffix.")
        if path.exists() and not path.is_file():
            raise PhotoError(f"{where} is no regular file. Replace it by a picture file.")
        with path.open("rb") as file:
            return _first_frame(file, where)
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
            logger.warning("%s has several frames; only the first one is used.", where)
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
        logger.warning("%s has unreadable EXIF data (%s); taken as upright.", where, error)
        return image.copy()


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # damage behind the first frame does not matter here
        return True


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _grey(image: Image.Image, where: str) -> NDArray[np.float32]:
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


def _flat(image: Image.Image, background: str, where: str) -> Image.Image:
    try:
        if not image.has_transparency_data:
            return image.convert("RGB")
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        canvas = Image.new("RGBA", image.size, background)
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    except ValueError as error:
        raise PhotoError(
            f"{where} has colours of kind {image.mode}, which cannot become RGB. Save it as RGB."
        ) from error


def _bytes(values: NDArray[np.generic], where: str) -> NDArray[np.uint8]:
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    is_float = np.issubdtype(values.dtype, np.floating)
    high, slack = (1, 0.01) if is_float else (255, 0)  # resizing may overshoot a little
    floats = values.astype(np.float32)
    if not np.isfinite(floats).all() or floats.min() < -slack or floats.max() > high + slack:
        raise PhotoError(
            f"{where} has values from {floats.min():g} to {floats.max():g}; expected 0 to "
            f"{high} for {values.dtype}."
        )
    return np.rint(floats.clip(0, high) * (255 / high)).astype(np.uint8)
