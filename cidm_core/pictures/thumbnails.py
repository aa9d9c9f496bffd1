"""Small pictures of previews, made once and kept in a hidden folder of the bank.

The folder can be deleted at any time; where it cannot be written, thumbnails are kept in memory
alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import warnings
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import CidmError
from ..images import picture_of

FOLDER = ".thumbs"
SMALL_PX, LARGE_PX = 256, 512
MOST_PIXELS = 128_000_000
_MOST_KEPT = 4000
_SHARP_PX = 128  # up to here a picture is kept without loss: JPEG would be all one sees of it
_FORMATS = ("PNG", "JPEG", "WEBP")
_SHRINKS_WELL = ("L", "LA", "RGB", "RGBA")
_WHOLE = (b"\xff\xd9", b"IEND\xaeB`\x82")  # how a JPEG and a PNG end


def thumbnail(picture: Path, bank_folder: Path, side_px: int = SMALL_PX) -> bytes:
    """A JPEG or PNG of a picture whose longer side is `side_px` at most.

    Args:
        picture: The file.
        bank_folder: Where thumbnails are kept, in `FOLDER`.
        side_px: `SMALL_PX` or `LARGE_PX`.

    Raises:
        CidmError: If there is no such picture, it is damaged or has more than `MOST_PIXELS`.
    """
    try:
        facts = picture.stat()
    except OSError as caught:
        raise CidmError(f"There is no picture '{picture.name}'.") from caught
    made = _thumbnail(picture, bank_folder / FOLDER, side_px, facts.st_mtime_ns, facts.st_size)
    if isinstance(made, str):
        raise CidmError(made)
    return made


@lru_cache(maxsize=512)
def _thumbnail(picture: Path, folder: Path, side_px: int, time_ns: int, size: int) -> bytes | str:
    """The thumbnail, or why there is none; the last ones are in memory."""
    told = f"{picture.name} {side_px} {time_ns} {size}".encode(errors="surrogateescape")
    kept = folder / f"{hashlib.sha256(told).hexdigest()[:32]}.jpg"
    with contextlib.suppress(OSError):
        data = kept.read_bytes()
        if data.endswith(_WHOLE):  # a crash may leave less
            return data
    try:
        data = _encoded(read_small(picture, f"'{picture.name}'", side_px))
    except CidmError as error:
        return str(error)
    with contextlib.suppress(OSError):
        _keep(kept, data)
    return data


def read_small(source: Path | io.BytesIO, name: str, side_px: int) -> Image.Image:
    """A picture as upright RGB whose longer side is `side_px` at most.

    Args:
        source: A file or its bytes.
        name: What error texts call it.
        side_px: In pixels; a smaller picture stays as it is.

    Raises:
        CidmError: If it is no picture, is damaged or has more than `MOST_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see MOST_PIXELS
            with Image.open(source, formats=_FORMATS) as opened:
                return _shrunk(opened, name, side_px)
    except CidmError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except MemoryError as error:
        raise CidmError(f"{name} does not fit into memory. Choose a smaller picture.") from error
    except UnidentifiedImageError as error:
        raise CidmError(f"{name} is no PNG, JPEG or WebP. Choose such a picture.") from error
    except Exception as error:  # Pillow's decoders have no common base for damaged files
        raise CidmError(f"{name} is damaged ({error}). Choose another picture.") from error


def _shrunk(opened: Image.Image, name: str, side_px: int) -> Image.Image:
    if opened.width * opened.height > MOST_PIXELS:
        raise _too_large(name)
    small = opened if opened.mode in _SHRINKS_WELL else picture_of(opened, name)
    small.thumbnail((side_px, side_px), reducing_gap=2.0)  # a large one is never whole in RGB
    return picture_of(ImageOps.exif_transpose(small), name)


def _too_large(name: str) -> CidmError:
    return CidmError(
        f"{name} has more than {MOST_PIXELS / 1e6:.0f} megapixels. Choose a smaller picture."
    )


def _encoded(small: Image.Image) -> bytes:
    buffer = io.BytesIO()
    if max(small.size) <= _SHARP_PX:
        small.save(buffer, "PNG")
    else:
        small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _keep(path: Path, data: bytes) -> None:
    """Write a thumbnail in one step, not flushed to the disk; the oldest of very many go."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(f".{secrets.token_hex(4)}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
    with os.scandir(path.parent) as found:
        kept = list(found)
    if len(kept) > _MOST_KEPT:
        kept.sort(key=lambda each: each.stat().st_mtime_ns)
        for each in kept[: len(kept) // 2]:
            os.unlink(each.path)
