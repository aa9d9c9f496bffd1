"""Prior pictures of a class from whatever folder they lie in, each with its caption.

Beside folders as photos have them (`Photo.from_folder`), three layouts of Custom Diffusion (Kumari
et al. 2023, https://arxiv.org/abs/2212.04488) are read: that of its retrieval script, `dog/0.jpg`
with `caption.txt` and `images.txt`, in which line n of one belongs to line n of the other; that of
the diffusers scripts, `images/0.jpg`, with both files or none; and `caption.txt` alone.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..as_text import listed
from ..errors import PhotoError
from ..images import SUFFIXES
from ..paths import user_path
from .caption_files import clean, read_text
from .data import Photo
from .folders import CAPTION_FILES, list_photos, match_captions

CAPTIONS, IMAGES = "caption.txt", "images.txt"
_MAX_BYTES = 16_000_000


@dataclass(frozen=True)
class _Line:
    """A picture that `images.txt` names, wherever it was when that was written."""

    folder: str
    name: str
    caption: str


def prior_photos(
    folder: str | os.PathLike[str], class_words: str = "", kind: str = "object"
) -> list[Photo]:
    """All prior pictures of a folder in natural order.

    Args:
        folder: Any of the layouts above. Paths in `images.txt` may be of another machine: only
            their last two parts count.
        class_words: What the pictures show; caption of those that have none.
        kind: "object", "style" or "human": templates for these captions. Written captions stay as
            they are.

    Raises:
        PhotoError: If there is no picture, one or its caption cannot be used, or the captions do
            not fit the pictures; it says which.
    """
    folder = user_path(folder)
    instead = clean(class_words, "Class words")
    found: list[Photo] = []
    for place, lines in _places(folder):
        pictures = list_photos(place).pictures
        texts = _texts(folder, place, pictures, lines)
        for path, text in zip(pictures, texts, strict=True):
            photo = Photo(path, text or instead, kind="" if text else kind)
            photo.loaded()
            found.append(photo)
    return found


def _places(folder: Path) -> list[tuple[Path, list[_Line] | None]]:
    """The folders that the pictures lie in, each with its lines of `images.txt` if there is one."""
    lines, home = _lines(folder), folder
    if lines is None and (above := _lines_above(folder)):
        lines, home = above, folder.parent
    inside = [folder] if home != folder else [folder, *_folders(folder)]
    places = [place for place in inside if _pictures(place)]
    if lines is None:
        return [(_only(folder, places), None)]
    named = [(place, [line for line in lines if line.folder == place.name]) for place in places]
    if found := [(place, own) for place, own in named if _names_any(place, own)]:
        return list(found)
    if found := [place for place in places if _names_any(place, lines)]:
        return [(_only(folder, found), lines)]
    raise PhotoError(
        f"'{home / IMAGES}' names {len(lines)} pictures, such as '{lines[0].name}', and none of "
        f"them is in '{folder}'. Put the pictures there, in a folder named as in {IMAGES}."
    )


def _only(folder: Path, places: Sequence[Path]) -> Path:
    """The folder itself if it holds pictures, or the one inside it that does, `images` first."""
    if folder in places or not places:
        return folder  # without pictures: `list_photos` says so
    if len(places) > 1 and folder / "images" not in places:
        raise PhotoError(
            f"'{folder}' holds several folders of pictures: "
            f"{listed([place.name for place in places])}. Give the one with the class's pictures."
        )
    return folder / "images" if folder / "images" in places else places[0]


def _texts(
    folder: Path, place: Path, pictures: Sequence[Path], lines: Sequence[_Line] | None
) -> list[str]:
    """The caption of each picture, "" where nobody wrote one."""
    if lines is not None:
        return _by_lines(place, pictures, lines)
    for home in (place, folder):
        source = home / CAPTIONS
        if source.is_file() and not any(path.stem == source.stem for path in pictures):
            return _in_order(source, pictures)
    has_captions = any((folder / name).is_file() for name in CAPTION_FILES)
    return match_captions(pictures, folder if has_captions else place)


def _by_lines(place: Path, pictures: Sequence[Path], lines: Sequence[_Line]) -> list[str]:
    counts = Counter(line.name for line in lines)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise PhotoError(
            f"{IMAGES} of the pictures in '{place}' names {listed(twice)} twice. Keep one line of "
            f"each, here and in {CAPTIONS}."
        )
    numbers = match_captions(pictures, {line.name: str(i) for i, line in enumerate(lines)})
    if bare := [path.name for path, number in zip(pictures, numbers, strict=True) if not number]:
        raise PhotoError(
            f"{len(bare)} of {len(pictures)} pictures in '{place}' have no line in {IMAGES}: "
            f"{listed(bare)}. Add their names there and their captions to {CAPTIONS}, or move them "
            "elsewhere."
        )
    return [lines[int(number)].caption for number in numbers]


def _in_order(source: Path, pictures: Sequence[Path]) -> list[str]:
    """Line n belongs to picture n in natural order."""
    texts = _read(source)
    if len(texts) != len(pictures):
        raise PhotoError(
            f"'{source}' has {len(texts)} captions, and there are {len(pictures)} pictures. Give "
            f"one line per picture in the order of their names, or name the pictures line by line "
            f"in {IMAGES}."
        )
    return texts


def _lines(folder: Path) -> list[_Line] | None:
    """What both files of a folder say; None if they are not there.

    Raises:
        PhotoError: If one has other lines than the other.
    """
    captions, images = folder / CAPTIONS, folder / IMAGES
    if not (captions.is_file() and images.is_file()):
        return None
    texts, paths = _read(captions), _read(images)
    if len(texts) != len(paths) or not paths or not all(paths):
        raise PhotoError(
            f"'{captions}' has {len(texts)} lines and {IMAGES} beside it "
            f"{sum(map(bool, paths))} names: line n of one belongs to line n of the other. A "
            "caption with a line break of its own is the usual reason; join its lines."
        )
    parts = [[part for part in re.split(r"[/\\]", path) if part] for path in paths]
    named = [(["", *each][-2], each[-1]) for each in parts]
    return [_Line(*name, text) for name, text in zip(named, texts, strict=True)]


def _lines_above(folder: Path) -> list[_Line]:
    """What the files of the folder above say of a folder such as `images` or `dog`, if anything."""
    if (folder / CAPTIONS).exists() or not (folder.parent / IMAGES).exists():
        return []
    return [line for line in _lines(folder.parent) or () if line.folder == folder.name]


def _read(path: Path) -> list[str]:
    """The lines of a file; empty ones at its end do not count."""
    # Not `splitlines`, which ends lines at characters that web captions have inside.
    text = read_text(path, _MAX_BYTES).replace("\r\n", "\n").rstrip("\n")
    rows = text.split("\n") if text.strip() else []
    return [clean(row, f"Line {i} of '{path}'") for i, row in enumerate(rows, 1)]


def _names_any(place: Path, lines: Sequence[_Line]) -> bool:
    stems = {os.path.splitext(path.name)[0] for path in _pictures(place)}
    return any(os.path.splitext(line.name)[0] in stems for line in lines)


def _pictures(place: Path) -> list[Path]:
    return [path for path in _inside(place) if path.suffix.lower() in SUFFIXES]


def _folders(folder: Path) -> list[Path]:
    return [path for path in _inside(folder) if path.is_dir()]


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder, but for hidden files; nothing if it cannot be read."""
    with contextlib.suppress(OSError):  # `list_photos` says why
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return []
