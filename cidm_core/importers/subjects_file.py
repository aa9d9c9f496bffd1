"""Subjects that are learned together, from a JSON file: our own rows or diffusers' concepts_list.

Rows of our own are `{"photos": "cats", "words": "<new1>", "class_words": "cat"}`, each with an
optional "kind", "captions", "masks" and "prior". Those of the diffusers scripts have
`instance_data_dir`, `instance_prompt` ("photo of a <new1> cat"), `class_data_dir` and
`class_prompt`. Folders are looked for beside the file, then where the program runs, as those
scripts do.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..concept import KINDS
from ..errors import PhotoError
from ..paths import user_path
from ..training.caption_files import read_text
from ..training.data import Photo, TrainingSubject
from ..training.prior_folders import prior_photos

logger = logging.getLogger(__name__)

_MAX_BYTES = 1_000_000
_OWN = {"photos", "words", "class_words", "kind", "captions", "masks", "prior"}
_THEIRS = {"instance_data_dir", "instance_prompt", "class_data_dir", "class_prompt"}
_TAGGED = re.compile(r"((?:<[^<>\s]+>\s*)+)(.*)")


def read_subjects(path: Path) -> list[TrainingSubject]:
    """The subjects of a file with their photos, captions, masks and prior pictures.

    Raises:
        PhotoError: If the file, one of its rows or a folder cannot be used; it says which.
    """
    path = user_path(path)
    text = read_text(path, _MAX_BYTES, "Subjects file")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PhotoError(f"'{path}' is not JSON ({error}). Correct it at that place.") from error
    if not isinstance(rows, list) or not rows:
        raise PhotoError(
            f"'{path}' is no list of subjects. Write "
            '[{"photos": "cats", "words": "<new1>", "class_words": "cat"}, ...].'
        )
    return [_subject(row, f"Subject {i} of '{path}'", path) for i, row in enumerate(rows, 1)]


def _subject(row: Any, where: str, path: Path) -> TrainingSubject:
    if not isinstance(row, Mapping):
        raise PhotoError(f"{where} is {row!r:.40}; it should be an object with photos and words.")
    if unknown := sorted(set(row) - _OWN - _THEIRS):
        names = ", ".join(sorted(_OWN))
        raise PhotoError(f"{where} has an unknown {unknown[0]!r}. Known are: {names}.")
    if wrong := [key for key, value in row.items() if not isinstance(value, str | None)]:
        raise PhotoError(f"{where}: {wrong[0]!r} is {row[wrong[0]]!r:.40}; give a text.")
    found = _named(row, where)
    if (kind := found.get("kind") or "object") not in KINDS:
        raise PhotoError(f"{where}: kind {kind[:40]!r} is none of {', '.join(KINDS)}.")

    def folder(key: str) -> Path | None:
        return _found(path.parent, user_path(found[key])) if found.get(key) else None

    words, class_words = found.get("words") or "", found["class_words"]
    photos = Photo.from_folder(folder("photos") or "", folder("captions"), folder("masks"))
    prior = folder("prior")
    if prior is not None and "prior" not in row and not prior.exists():  # their scripts make it
        logger.warning("%s: '%s' is not there, so the model draws prior pictures.", where, prior)
        prior = None
    pictures = prior_photos(prior, class_words, kind) if prior is not None else ()
    return TrainingSubject(photos, words, class_words, kind, prior=pictures)


def _found(home: Path, named: Path) -> Path:
    """A folder or file beside the subjects file, or else where the program runs."""
    beside = home / named
    return named if not beside.exists() and named.exists() else beside


def _named(row: Mapping[str, Any], where: str) -> dict[str, str]:
    """A row by our own names.

    Raises:
        PhotoError: If it does not say where the photos are, or what they show.
    """
    found = {key: value for key, value in row.items() if key in _OWN and value}
    prompt = str(row.get("instance_prompt") or "")
    tagged = _TAGGED.search(prompt)
    theirs = {
        "photos": row.get("instance_data_dir"),
        "prior": row.get("class_data_dir"),
        "words": " ".join(tagged[1].split()) if tagged else None,
        "class_words": (tagged[2].strip() if tagged else "") or row.get("class_prompt"),
    }
    found = {key: value for key, value in theirs.items() if value} | found
    for key in ("photos", "class_words"):
        if key not in found:
            raise PhotoError(f"{where} has no {key!r}. Say where its photos are and what it is.")
    return found
