"""Pictures on disk: whole or not at all, with what made them inside."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, PngImagePlugin

from ..as_text import jsonable
from ..errors import CidmError
from ..paths import user_path
from ..storage.atomic import make_folder, write_atomic

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_IMAGE_DESCRIPTION = 0x010E  # EXIF


def picture_path(text: str) -> Path:
    """A path for a picture whose folder exists (it is made), checked before any long work.

    Raises:
        CidmError: If the ending names no known format or the folder cannot be made.
    """
    path = user_path(text)
    if path.suffix.lower() not in _FORMATS:
        raise CidmError(
            f"'{path}' does not end in a picture format. Use one of: {' '.join(_FORMATS)}."
        )
    make_folder(path.parent)
    return path


def numbered(path: Path, count: int) -> list[Path]:
    """The path itself for one picture, else name-1.png, name-2.png ..."""
    if count == 1:
        return [path]
    width = len(str(count))
    return [path.with_stem(f"{path.stem}-{i:0{width}}") for i in range(1, count + 1)]


def save_picture(
    picture: Image.Image, path: Path, facts: Mapping[str, object] | None = None
) -> None:
    """Write a picture, with facts as JSON under "cidm" (PNG) or as EXIF description.

    Raises:
        CidmError: If it cannot be written.
    """
    kind = _FORMATS[path.suffix.lower()]
    buffer = io.BytesIO()
    text = json.dumps(jsonable(facts or {}), ensure_ascii=False)
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        if facts:
            info.add_itxt("cidm", text)
            info.add_itxt("Description", str(facts.get("prompt", "")))
            info.add_text("Software", "cidm")
        picture.save(buffer, kind, pnginfo=info)
    else:
        exif = Image.Exif()
        if facts:
            exif[_IMAGE_DESCRIPTION] = json.dumps(jsonable(facts))
        picture.convert("RGB").save(buffer, kind, quality=95, exif=exif)
    write_atomic(path, buffer.getvalue())
