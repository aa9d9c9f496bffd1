"""Which files of a folder are photos, and which captions and masks belong to them."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..as_text import listed
from ..errors import PhotoError
from ..paths import user_path
from .caption_files import clean, read_caption, read_captions
from .images import SUFFIXES

logger = logging.getLogger(__name__)

CAPTION_FILES = ("captions.txt", "captions.json", "captions.jsonl", "metadata.jsonl")
_MASK_ENDINGS = ("_mask", ".mask")


def list_photos(folder: Path) -> tuple[list[Path], dict[Path, Path]]:
    """Photos in natural order, and the masks that lie beside them."""
    files = _files(folder)
    found = sorted((f for f in files if f.suffix.lower() in SUFFIXES), key=_natural)
    stems = {f.stem for f in found}
    owner = {f: f.stem[: -len(end)] for f in found for end in _MASK_ENDINGS if f.stem.endswith(end)}
    owner = {mask: stem for mask, stem in owner.items() if stem in stems}
    pictures = [f for f in found if f not in owner]
    if not pictures:
        inside = " Its subfolders are not searched." if any(f.is_dir() for f in files) else ""
        raise PhotoError(
            f"Folder '{folder}' holds no photo.{inside} Put pictures there that end in one of: "
            f"{' '.join(SUFFIXES)}."
        )
    known = (*SUFFIXES, ".txt", ".json", ".jsonl")
    others = [f.name for f in files if f.suffix.lower() not in known and f.is_file()]
    if others:
        logger.warning("Not read in '%s', no pictures of a known kind: %s.", folder, listed(others))
    by_stem = {stem: mask for mask, stem in owner.items()}
    return pictures, {p: by_stem[p.stem] for p in pictures if p.stem in by_stem}


def masks_in(folder: Path, pictures: Sequence[Path]) -> dict[Path, Path]:
    """The masks of a folder, by the photo they belong to.

    Raises:
        PhotoError: If there is none.
    """
    files = set(_files(folder)) - set(pictures)
    by_stem = {f.stem: f for f in sorted(files) if f.suffix.lower() in SUFFIXES}
    found = {p: by_stem[p.stem] for p in pictures if p.stem in by_stem}
    if not found:
        raise PhotoError(
            f"Mask folder '{folder}' has a mask for none of the {len(pictures)} photos. Name masks "
            f"as the photos, such as '{pictures[0].stem}.png'."
        )
    return found


def match_captions(
    pictures: Sequence[Path], captions: str | os.PathLike[str] | Mapping[str, str]
) -> list[str]:
    """The caption of each picture, "" where there is none.

    Args:
        pictures: Files; only their names count.
        captions: A folder, a captions file, or captions by file name or stem. In a folder a
            same-named .txt goes before one of `CAPTION_FILES`.

    Raises:
        PhotoError: If a caption cannot be read.
    """
    if isinstance(captions, Mapping):
        return _by_name(pictures, {k: clean(v, f"Caption of '{k}'") for k, v in captions.items()})
    source = user_path(captions)
    if not source.exists():
        raise PhotoError(
            f"Captions '{source}' are not there. Give a folder of .txt files or a file."
        )
    if not source.is_dir():
        return _by_name(pictures, read_captions(source))
    common = next((source / name for name in CAPTION_FILES if (source / name).is_file()), None)
    if common and any(common.with_suffix("").name == picture.stem for picture in pictures):
        common = None  # it is the caption of a photo named "captions.jpg"
    texts = _by_name(pictures, read_captions(common) if common else {})
    own = [source / f"{picture.stem}.txt" for picture in pictures]
    return [read_caption(o) if o.is_file() else text for o, text in zip(own, texts, strict=True)]


def _by_name(pictures: Sequence[Path], captions: Mapping[str, str]) -> list[str]:
    # File systems differ in how they compose accents, captions files in whether they name folders.
    known = {_composed(re.split(r"[/\\]", name)[-1]): text for name, text in captions.items()}
    texts = [known.get(_composed(p.name)) or known.get(_composed(p.stem), "") for p in pictures]
    used = {_composed(name) for p in pictures for name in (p.name, p.stem)}
    if strangers := sorted(set(known) - used):
        logger.warning("Captions without a photo: %s.", listed(strangers))
    return texts


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(f for f in folder.iterdir() if not f.name.startswith("."))
    except NotADirectoryError as error:
        raise PhotoError(f"'{folder}' is a file. Give the folder it lies in.") from error
    except OSError as error:
        raise PhotoError(f"Photo folder '{folder}' cannot be read ({error.strerror}).") from error


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip())
