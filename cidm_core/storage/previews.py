"""The picture beside a concept: small, and only decoration."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BankError, CidmError, PhotoError
from ..images import picture_of
from .atomic import write_atomic
from .record import preview_path

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_PX = 512


def as_preview(picture: Image) -> bytes:
    """A picture of any size and kind as a small PNG, upright, transparency over white.

    Raises:
        BankError: If it cannot be read.
    """
    try:
        small = picture_of(picture, "The picture")
    except PhotoError as caught:
        raise BankError(f"{caught} Choose another picture.") from caught
    small.thumbnail((PREVIEW_PX, PREVIEW_PX))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def write_preview(path: Path, picture: bytes) -> None:
    """Put a picture beside a concept file; one that cannot be written is warned of."""
    try:
        write_atomic(preview_path(path), picture)
    except CidmError as error:  # The concept is safe; its picture is only decoration.
        warnings.warn(str(error), stacklevel=3)
