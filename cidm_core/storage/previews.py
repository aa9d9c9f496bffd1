"""The picture beside a concept: small, and only decoration."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BankError, CidmError
from .atomic import write_atomic
from .record import preview_path

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_PX = 512


def as_preview(picture: Image) -> bytes:
    """A picture of any size as a small PNG.

    Raises:
        BankError: If it cannot be read.
    """
    try:
        small = picture.convert("RGB")
        small.thumbnail((PREVIEW_PX, PREVIEW_PX))
    except (OSError, ValueError, SyntaxError) as caught:  # what Pillow says of damaged files
        raise BankError(f"The picture cannot be read ({caught}). Choose another.") from caught
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def write_preview(path: Path, picture: bytes) -> None:
    """Put a picture beside a concept file; one that cannot be written is warned of."""
    try:
        write_atomic(preview_path(path), picture)
    except CidmError as error:  # The concept is safe; its picture is only decoration.
        warnings.warn(str(error), stacklevel=3)
