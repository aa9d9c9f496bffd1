"""Composites of a folder: those made here, or a user's own in the layout of image folders."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...as_text import listed
from ...calls import find_calls
from ...errors import PhotoError
from ...images import read_image
from ...paths import user_path
from ..caption_files import clean, read_text
from ..data import TrainingSubject
from .captions import SIDES, named_sides, sides_of
from .cutouts import PART
from .folder import METADATA, Composite
from .scenes import KINDS, is_held_out

logger = logging.getLogger(__name__)

_MAX_BYTES = 16_000_000
_BLANK = 8  # a half whose greys differ by no more shows nothing
_EXAMPLE = (
    '{"file_name": "1.png", "text": "a photo of <x1> <x2> on the left and chef on the right"}'
)


def read_composites(
    folder: str | os.PathLike[str], subjects: Sequence[TrainingSubject] = ()
) -> list[Composite]:
    """The composites that a folder's `metadata.jsonl` names.

    Lines need `file_name` and `text`, as the layout of CLIF's data has them (Lin et al. 2024,
    https://arxiv.org/abs/2405.06914). Where kind, subjects and held-out share are not said, the
    captions say which subjects a picture shows and on which side, and every tenth of each kind is
    held out.

    Args:
        folder: As `composites` writes it, or of your own.
        subjects: Those to be learned, to find in captions.

    Raises:
        PhotoError: If a line or its picture cannot be used, a caption names a side on which there
            is nothing, or no caption names a subject. Lines are named by number.
    """
    folder = user_path(folder)
    found: list[Composite] = []
    paths, seen = set[Path](), Counter[str]()
    for number, row in _rows(folder / METADATA):
        where = f"Line {number} of '{folder / METADATA}'"
        path, text = _picture(folder, row, where), _text(row, where)
        if path in paths:
            raise PhotoError(f"{where} names '{path.name}' a second time. Keep one of the lines.")
        composite = _own(path, text, row, where, subjects) if "kind" in row else None
        if composite is None:
            _check_sides(path, text, where)
            shown = _shown(text, subjects)
            kind = _kind(text, len(shown))
            composite = Composite(path, text, kind, shown, is_held_out(seen[kind]))
        paths.add(path)
        seen[composite.kind] += 1
        found.append(composite)
    if not found:
        raise PhotoError(f"'{folder / METADATA}' names no composite. Add lines such as {_EXAMPLE}.")
    if subjects:
        _check_subjects(found, subjects, folder)
    return found


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    if not path.is_file():
        raise PhotoError(
            f"There is no '{path}', which says what composites show. Write one with a line for "
            f"each picture, {_EXAMPLE}, or leave the folder out to have composites made."
        )
    lines = read_text(path, _MAX_BYTES, "Metadata").replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PhotoError(
                f"Line {number} of '{path}' is damaged ({error}). Correct or remove it; a whole "
                f"line is {_EXAMPLE}."
            ) from error
        if not isinstance(row, dict):
            raise PhotoError(f"Line {number} of '{path}' is no object. Write {_EXAMPLE}.")
        yield number, row


def _picture(folder: Path, row: Mapping[str, object], where: str) -> Path:
    name = row.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise PhotoError(f"{where} lacks a text 'file_name'. Write {_EXAMPLE}.")
    parts = Path(name.replace("\\", "/")).parts
    if Path(name).is_absolute() or ".." in parts:
        raise PhotoError(f"{where} names '{name}', which lies elsewhere. Put it into '{folder}'.")
    path = folder.joinpath(*parts)
    if not path.is_file():
        raise PhotoError(f"{where} names '{name}', and there is no such file in '{folder}'.")
    return path


def _text(row: Mapping[str, object], where: str) -> str:
    text = row.get("text", row.get("caption"))
    cleaned = clean(text, f"The text of {where}") if isinstance(text, str) else ""
    if not cleaned:
        raise PhotoError(f"{where} lacks a caption as 'text'. Write {_EXAMPLE}.")
    return cleaned


def _own(
    path: Path,
    text: str,
    row: Mapping[str, object],
    where: str,
    subjects: Sequence[TrainingSubject],
) -> Composite:
    """A composite whose line says what `composites` writes."""
    kind, numbers, held_out = row["kind"], row.get("subjects"), row.get("held_out")
    is_list = isinstance(numbers, list)
    shown = tuple(each for each in numbers if type(each) is int) if is_list else ()
    whole = is_list and len(shown) == len(numbers) and isinstance(held_out, bool)
    if not isinstance(kind, str) or kind not in KINDS or not whole:
        raise PhotoError(
            f"{where} has a kind, subjects or held_out that mean nothing here. Kinds are "
            f"{', '.join(KINDS)}, subjects a list of numbers, held_out true or false; or leave all "
            "three out."
        )
    named = _shown(text, subjects) if subjects else shown
    if len(named) < len(shown):
        names = " or ".join(repr(each.subject.phrase) for each in subjects)
        raise PhotoError(
            f"{where} is of other subjects: of the {len(shown)} it shows, '{text[:120]}' names "
            f"{len(named)} as they are to be taught, {names}. Have composites made anew, or teach "
            "the words that these have."
        )
    # Subjects may be given in another order than composites were made in.
    return Composite(path, text, kind, named, bool(held_out))


def _check_sides(path: Path, text: str, where: str) -> None:
    """Refuse a caption with one side twice, or one that its picture has nothing on."""
    named = named_sides(text)
    if len(set(named)) < len(named):
        raise PhotoError(f"{where} names one side twice: '{text[:120]}'. Name each side once.")
    halves = _halves(read_image(path))
    for side in named:
        if np.ptp(np.asarray(halves[side].convert("L"), dtype=np.int16)) <= _BLANK:
            raise PhotoError(
                f"{where} says what is on the {side}, and '{path.name}' shows nothing there: "
                f"'{text[:120]}'. Correct the caption."
            )


def _halves(picture: Image.Image) -> dict[str, Image.Image]:
    middle, height = picture.width // 2, picture.height
    boxes = (0, 0, middle, height), (picture.width - middle, 0, picture.width, height)
    return {side: picture.crop(box) for side, box in zip(SIDES, boxes, strict=True)}


def _shown(text: str, subjects: Sequence[TrainingSubject]) -> tuple[int, ...]:
    """The subjects that a caption names, left to right."""
    sides = sides_of(text) or (text,)
    names = [each.subject.triggers for each in subjects]
    called = [call.name for side in sides for call in find_calls(side, names)]
    return tuple(dict.fromkeys(names.index(name) for name in called))


def _kind(text: str, shown: int) -> str:
    if shown > 1:
        return "meeting"
    sides = sides_of(text)
    if sides is None:
        return "single"
    is_part = any("'s " in side or side.startswith(f"{PART} of ") for side in sides)
    return "region" if is_part else "global"


def _check_subjects(
    found: Sequence[Composite], subjects: Sequence[TrainingSubject], folder: Path
) -> None:
    bare = [each for each in found if not each.subjects]
    if len(bare) == len(found):
        names = " or ".join(repr(each.subject.phrase) for each in subjects)
        raise PhotoError(
            f"No caption in '{folder / METADATA}' names {names}. Write the words as they are to be "
            "taught."
        )
    shown = {number for each in found for number in each.subjects}
    for subject in (each for k, each in enumerate(subjects) if k not in shown and each.words):
        logger.warning(
            "No composite shows %r: its words are not told apart.", subject.subject.phrase
        )
    if bare:
        names = listed([each.path.name for each in bare])
        logger.warning("Composites whose captions name no subject teach nothing: %s.", names)
