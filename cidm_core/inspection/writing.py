"""Edited captions back to the files that they came from: all of them, or none.

A caption stays where it was, in a text file beside its photo or in a captions file for all; a new
one goes into a text file. Everything is worked out and read again in memory before a byte is
written. What the captions were before is kept in one hidden file, in the form of `editing`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import PhotoError
from ..paths import user_path
from ..storage.atomic import write_atomic
from ..training.caption_files import captions_in, clean
from ..training.folders import (
    CAPTION_FILES,
    by_name,
    find_captions,
    list_photos,
)
from .editing import Edit, Notes, as_lines, is_text
from .inspect import hearing
from .rewriting import encoded, rewritten

_ALONE = (".txt", ".caption")


@dataclass(frozen=True)
class Source:
    """A folder's photos with their captions, and where these stand.

    Attributes:
        folder: Of the photos.
        given: A folder or file of captions that was named; None: beside the photos.
        pictures: The photos in natural order.
        texts: Their captions, "" where there is none.
        files: The file of each caption; None where there is none.
    """

    folder: Path
    given: Path | None
    pictures: Sequence[Path]
    texts: Sequence[str]
    files: Sequence[Path | None]

    @classmethod
    def of(
        cls, folder: str | os.PathLike[str], captions: str | os.PathLike[str] | None = None
    ) -> Source:
        """Read the captions of a folder as training does.

        Raises:
            PhotoError: If there is no photo, or a caption cannot be read.
        """
        place, given = user_path(folder), user_path(captions) if captions else None
        pictures = list_photos(place).pictures
        found = find_captions(pictures, given or place)
        return cls(place, given, pictures, found.texts, found.files)

    @property
    def names(self) -> list[str]:
        return [picture.name for picture in self.pictures]

    @property
    def home(self) -> Path:
        """The folder of the captions."""
        if self.given is None:
            return self.folder
        return self.given if self.given.is_dir() else self.given.parent


def write_captions(source: Source, changed: Sequence[Edit]) -> tuple[list[Path], Path | None]:
    """Write captions that change.

    Args:
        source: Where they stood.
        changed: At least one, with other text than before.

    Returns:
        The files written, and the one that keeps what the captions were.

    Raises:
        PhotoError: If they cannot be written; then no file has changed.
    """
    if not changed:
        return [], None
    planned = _planned(source, {each.photo: clean(each.after, "A caption") for each in changed})
    before = {path: _bytes_of(path) for path in planned}
    kept = _keep(source)
    try:
        for path, data in planned.items():
            write_atomic(path, data, error=PhotoError)
    except BaseException:  # Ctrl-C, too
        _undo(before)
        with contextlib.suppress(OSError):
            kept.unlink()
        raise
    return list(planned), kept


def _planned(source: Source, wanted: Mapping[int, str]) -> dict[Path, bytes]:
    """The new content of every file."""
    after = {**dict(enumerate(source.texts)), **wanted}
    places = [source.files[n] or _new_place(source, n) for n in range(len(source.pictures))]
    held: dict[Path, list[int]] = {}
    for number, place in enumerate(places):
        held.setdefault(place, []).append(number)
    names, stems = source.names, {picture.stem for picture in source.pictures}
    planned: dict[Path, bytes] = {}
    for path in dict.fromkeys(places[number] for number in sorted(wanted)):
        inside = held[path]
        if path != source.given and _is_alone(path, stems):
            planned[path] = _one_for(path, inside, after, names).encode()
            continue
        changed = {source.pictures[number]: wanted[number] for number in inside if number in wanted}
        text = rewritten(path, changed, source.pictures)
        captions = captions_in(text, f"'{path}'", path.suffix.lower())
        found, _ = hearing(lambda c=captions: by_name(source.pictures, c))  # told already
        wrong = [names[n] for n in inside if after[n] and found[n] != after[n]]
        wrong += [name for name in names if not is_text(name) and name in text]
        if wrong:
            raise PhotoError(
                f"'{path}' has no line that is about the photo {wrong[0]!r} alone. Write whole "
                "file names there, or rename the photo."
            )
        planned[path] = encoded(text, path)
    return planned


def _new_place(source: Source, number: int) -> Path:
    if source.given is not None and not source.given.is_dir():
        return source.given
    return source.home / f"{source.pictures[number].stem}.txt"


def _is_alone(path: Path, stems: Container[str]) -> bool:
    """Whether a file of a folder holds one caption: it is named as a photo, and not for all."""
    is_common = path.name.lower() in CAPTION_FILES and path.stem not in stems
    return path.suffix.lower() in _ALONE and not is_common


def _one_for(
    path: Path, inside: Sequence[int], after: Mapping[int, str], names: Sequence[str]
) -> str:
    """The text of a file for one caption."""
    texts = list(dict.fromkeys(after[number] for number in inside))
    if len(texts) > 1:
        first, second = (names[number] for number in inside[:2])
        raise PhotoError(
            f"'{first}' and '{second}' have their caption in the same file, '{path.name}'. Give "
            "both the same one, or rename one of the photos."
        )
    return f"{texts[0]}\n"


def _keep(source: Source) -> Path:
    """Write what the captions are, into a file of their folder that nothing reads by itself."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number, path = 1, source.home / f".captions-{stamp}.txt"
    while path.exists():
        number += 1
        path = path.with_name(f".captions-{stamp}-{number}.txt")
    notes: Notes = {None: [f"Captions of '{source.folder}' before they were changed, {stamp}."]}
    text = as_lines(source.names, source.texts, notes)
    write_atomic(path, text.encode(), error=PhotoError)
    return path


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PhotoError(
            f"'{path}' cannot be read ({error.strerror}). Nothing was changed."
        ) from error


def _undo(before: Mapping[Path, bytes | None]) -> None:
    """Put back what the files were."""
    for path, data in before.items():
        if data is None:
            with contextlib.suppress(OSError):
                path.unlink()
        elif _bytes_of(path) != data:
            write_atomic(path, data, error=PhotoError)
