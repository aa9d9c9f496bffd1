"""Which files of a folder are photos, and which captions and masks belong to them.

Nothing is passed over in silence: what is not read is said, in one line for each kind of thing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..as_text import listed
from ..errors import PhotoError
from ..images import SUFFIXES
from ..paths import user_path
from .caption_files import clean, read_caption, read_captions

logger = logging.getLogger(__name__)

CAPTION_FILES = (
    *("captions.txt", "captions.json", "captions.jsonl"),
    *("metadata.jsonl", "metadata.json"),
)
_CAPTION = (".txt", ".caption")
_TEXTS = (*_CAPTION, ".json", ".jsonl")
# dog1_mask, dog1.mask, dog1-masklabel (OneTrainer), dog1.png_mask, mask_dog1
_MASK = re.compile(r"(.+?)[ ._(-]+masks?(?:label)?\)?|masks?[ ._-]+(.+)", re.IGNORECASE)
# dog1_mask_hair, dog1.mask.left_eye: of one part of what the photo shows
_PART = re.compile(r"(.+?)[ ._-]+mask[ ._-]+(.+)", re.IGNORECASE)

_Thing = TypeVar("_Thing", Path, str)
Parts = dict[Path, dict[str, Path]]
"""Masks of named parts: by photo, and by the part's name."""


class Listing(NamedTuple):
    """Photos in natural order, their masks, and the masks of their named parts."""

    pictures: list[Path]
    masks: dict[Path, Path]
    parts: Parts


def list_photos(folder: Path, *, nested: bool = False) -> Listing:
    """The photos of a folder and the masks that lie beside them.

    Args:
        folder: Hidden files and files that are no pictures are passed over.
        nested: Whether the caller looks into its subfolders.

    Raises:
        PhotoError: If there is no photo.
    """
    files = files_in(folder)
    found = sorted((f for f in files if f.suffix.lower() in SUFFIXES), key=_natural)
    owners = owners_of(found)
    named = {f: match[1] or match[2] for f in found if (match := _MASK.fullmatch(f.stem))}
    masks = {f: name for f, name in named.items() if owners(name)}
    of_parts = {f: match for f in found if f not in masks and (match := _part(f))}
    masked = masks.keys() | of_parts.keys()
    parts, left = _parts(of_parts, [f for f in found if f not in masked])
    pictures = [f for f in found if f not in masked or f in left]
    inside = [f for f in files if f.suffix.lower() not in SUFFIXES and f.is_dir()]
    if not pictures:
        names = listed([f.name for f in inside])
        searched = f" Its subfolders are not searched: {names}." if inside else ""
        raise PhotoError(
            f"Folder '{folder}' holds no photo.{searched} Put pictures there that end in one of: "
            f"{' '.join(SUFFIXES)}."
        )
    known = (*SUFFIXES, *_TEXTS)
    others = [f.name for f in files if f.suffix.lower() not in known and f.is_file()]
    _tell(f"Not read in '{folder}', no pictures of a known kind", others)
    unseen = [] if nested else [f.name for f in inside if _holds_files(f)]
    _tell(f"Not searched, subfolders of '{folder}'", unseen)
    strays = [f.name for f in (*named, *left) if f not in masks]
    _tell("Taken as photos, because there is no photo they could be masks of", strays)
    return Listing(pictures, _by_owner(pictures, masks, "Masks"), parts)


def parts_in(folder: Path, pictures: Sequence[Path]) -> Parts:
    """The masks of named parts in a folder, such as `dog1_mask_left_ear.png`."""
    files = (f for f in files_in(folder) if f.suffix.lower() in SUFFIXES and f not in pictures)
    return _parts({f: match for f in files if (match := _part(f))}, pictures)[0]


def masks_in(folder: Path, pictures: Sequence[Path]) -> dict[Path, Path]:
    """The masks of a folder, by the photo they belong to.

    Raises:
        PhotoError: If there is none.
    """
    owners = owners_of(pictures)
    of_parts = {f for each in parts_in(folder, pictures).values() for f in each.values()}
    files = sorted(set(files_in(folder)) - set(pictures) - of_parts)
    named: dict[Path, str] = {}
    for file in (f for f in files if f.suffix.lower() in SUFFIXES):
        match = None if owners(file.stem) else _MASK.fullmatch(file.stem)
        named[file] = (match[1] or match[2]) if match else file.stem
    found = _by_owner(pictures, named, "Masks")
    if not found:
        raise PhotoError(
            f"Mask folder '{folder}' has a mask for none of the {len(pictures)} photos. Name masks "
            f"as the photos, such as '{pictures[0].stem}.png'."
        )
    return found


class Captions(NamedTuple):
    """The caption of each picture, "" where there is none, and the file that it stands in."""

    texts: list[str]
    files: list[Path | None]


def match_captions(
    pictures: Sequence[Path], captions: str | os.PathLike[str] | Mapping[str, str]
) -> list[str]:
    """The caption of each picture, "" where there is none; see `find_captions`."""
    if isinstance(captions, Mapping):
        return by_name(pictures, {k: clean(v, f"Caption of '{k}'") for k, v in captions.items()})
    return find_captions(pictures, captions).texts


def find_captions(pictures: Sequence[Path], captions: str | os.PathLike[str]) -> Captions:
    """The captions of pictures, and where they stand.

    Args:
        pictures: Files; only their names count.
        captions: A folder or a captions file. In a folder a same-named .txt or .caption goes before
            one of `CAPTION_FILES`.

    Raises:
        PhotoError: If a caption cannot be read.
    """
    source = user_path(captions)
    if not source.exists():
        raise PhotoError(
            f"Captions '{source}' are not there. Give a folder of .txt files or a file."
        )
    if not source.is_dir():
        texts = by_name(pictures, read_captions(source))
        return Captions(texts, [source if text else None for text in texts])
    files = [f for f in files_in(source) if f.suffix.lower() in _TEXTS and f.is_file()]
    stems = {picture.stem for picture in pictures}
    commons = {f.name.lower(): f for f in files if f.stem not in stems}  # not "captions.jpg"'s own
    common = next((commons[name] for name in CAPTION_FILES if name in commons), None)
    texts = by_name(pictures, _common(common) if common else {})
    others = [f for f in files if f != common]
    _tell(f"Not read in '{source}'", [f.name for f in others if f.suffix.lower() not in _CAPTION])
    own = [f for f in others if f.suffix.lower() in _CAPTION]
    own.sort(key=lambda f: [*_CAPTION, f.suffix].index(f.suffix))
    found = _by_owner(pictures, {f: f.stem for f in own}, "Captions")
    pairs = list(zip(pictures, texts, strict=True))
    return Captions(
        [read_caption(found[picture]) if picture in found else text for picture, text in pairs],
        [found.get(picture, common if text else None) for picture, text in pairs],
    )


def _part(file: Path) -> tuple[str, str] | None:
    """Which photo a mask's name says it is of, and which part."""
    match = _PART.fullmatch(file.stem)
    name = clean(re.sub("[_,]+", " ", match[2]), f"Mask '{file}'") if match else ""
    return (match[1], name.lower()) if match and name else None


def _parts(
    named: Mapping[Path, tuple[str, str]], pictures: Sequence[Path]
) -> tuple[Parts, set[Path]]:
    """The masks of parts by photo and name, and those that belong to no photo."""
    owners, found, left = owners_of(pictures), Parts(), set[Path]()
    twice: list[str] = []
    for file, (of, name) in named.items():
        if not owners(of):
            left.add(file)
        for owner in owners(of):
            if found.setdefault(owner, {}).setdefault(name, file) != file:
                twice.append(file.name)
    _tell("Not read, second masks of the same part", twice)
    return found, left


def _common(path: Path) -> dict[str, str]:
    """Captions of a file found in the folder; only its name says that it holds any."""
    try:
        return read_captions(path)
    except PhotoError as error:
        if path.name.lower() != "metadata.json":
            raise
        logger.warning("'%s' is not read as captions. %s", path, error)
        return {}


def by_name(pictures: Sequence[Path], captions: Mapping[str, str]) -> list[str]:
    """The caption of each picture from those of a file, "" where there is none."""
    # Captions files differ in whether they name folders.
    named = {name: last_part(name) for name in captions}
    found = _by_owner(pictures, named, "Captions")
    return [captions[found[picture]] if picture in found else "" for picture in pictures]


def last_part(name: str) -> str:
    """A file's own name, whatever system's folders stand before it."""
    return re.split(r"[/\\]", name)[-1]


def _by_owner(
    pictures: Sequence[Path], named: Mapping[_Thing, str], what: str
) -> dict[Path, _Thing]:
    """For each photo the thing that is nearest to it in name; what is left over is told of."""
    owners = owners_of(pictures)
    found: dict[Path, list[tuple[int, _Thing]]] = {}
    for thing, name in named.items():
        for owner in owners(name):
            near = [_composed(owner.stem), _composed(owner.name), _composed(name)]
            found.setdefault(owner, []).append((near.index(_composed(name)), thing))
    nearest = {owner: min(each, key=lambda pair: pair[0])[1] for owner, each in found.items()}
    left = [(_name(thing), owners(of)) for thing, of in named.items()]
    used = {_name(thing) for thing in nearest.values()}
    _tell(f"{what} without a photo", [name for name, owned in left if not owned])
    nearer = [name for name, owned in left if owned and name not in used]
    _tell(f"{what} of photos that have nearer ones", nearer)
    return nearest


def owners_of(pictures: Sequence[Path]) -> Callable[[str], list[Path]]:
    """Finds the photos that a name belongs to: "dog1" or "dog1.jpg", if need be "Dog1".

    File systems differ in how they compose accents and in whether case counts, and a photo may have
    become another format after its captions were written.
    """
    exact: dict[str, list[Path]] = {}
    near: dict[str, list[Path]] = {}
    for picture in pictures:
        for name in (_composed(picture.name), _composed(picture.stem)):
            exact.setdefault(name, []).append(picture)
            near.setdefault(name.casefold(), []).append(picture)

    def owners(name: str) -> list[Path]:
        name = _composed(name)
        stem, suffix = os.path.splitext(name)
        other = owners(stem) if suffix.lower() in SUFFIXES else []
        return exact.get(name) or near.get(name.casefold()) or other

    return owners


def _tell(what: str, names: Sequence[str]) -> None:
    if names:
        logger.warning("%s: %s.", what, listed(sorted(names)))


def _name(thing: Path | str) -> str:
    return thing.name if isinstance(thing, Path) else thing


def _holds_files(path: Path) -> bool:
    """Whether a folder has something visible in it."""
    with contextlib.suppress(OSError):
        return any(not inside.name.startswith(".") for inside in path.iterdir())
    return False


def files_in(folder: Path) -> list[Path]:
    """What lies in a folder, but for hidden files."""
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
