"""What a concept file tells of its concept: a record in the header, as JSON.

Format 2 has any number of subjects. Format 1, of one subject with its facts at the top, is read
as well.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..as_text import jsonable
from ..concept import Concept, Subject
from ..errors import BankError, ConceptError
from ..words import parse_words
from .names import clean_name
from .stock_lora import rank_and_alpha
from .tensor_file import parse_text, read_metadata

VERSION = 2
RECORD = "cidm"  # its key in the metadata
NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "subjects": list,
    "method": str,
    "family": str,
    "base": str,
    "layers": list,
    "rank": int,
    "alpha": (int, float),
    "config": dict,
    "index": int,
    "created": str,
    "facts": dict,
    "tensor_bytes": int,
}
_SAID_IF_TRUE = ("two_streams", "last_piece")
_SUBJECT: Mapping[str, type] = {"words": list, "class_words": str, "kind": str}


@dataclass(frozen=True)
class Entry:
    """What the header of a concept file tells. `rank` is the largest rank of its updates."""

    name: str
    subjects: tuple[Subject, ...]
    method: str
    family: str
    base: str
    layers: tuple[str, ...]
    rank: int
    alpha: float
    index: int
    created: str
    path: Path
    facts: Mapping[str, object] = field(repr=False)
    config: Mapping[str, object] = field(repr=False)
    two_streams: bool = False
    last_piece: bool = False

    # As those of a `Concept`, which these facts become when its tensors are read.
    words = Concept.words
    triggers = Concept.triggers
    names = Concept.names
    on_request = Concept.on_request
    trigger = Concept.trigger
    phrase = Concept.phrase
    class_words = Concept.class_words
    kind = Concept.kind

    @property
    def preview(self) -> Path:
        """Where its picture is, if it has one."""
        return preview_path(self.path)


def preview_path(path: Path) -> Path:
    """The picture beside a concept file."""
    return path.with_suffix(".png")


def read_entry(path: Path) -> Entry:
    """Read the header of a concept file, and no tensor.

    Raises:
        BankError: If the header is damaged or the file has not the size it tells of.
    """
    metadata, size = read_metadata(path)
    record = parse_record(metadata, path.name)
    expected = record.pop("tensor_bytes")
    if size != expected:
        raise unfit(path.name, f"{size} bytes of tensors, where {expected} were written.")
    return Entry(**record, path=path)


def concept_in(path: Path) -> str:
    """The name of the concept in a file; "" if there is none."""
    with contextlib.suppress(BankError):
        return read_entry(path).name
    return ""


def record_text(concept: Concept, tensor_bytes: int) -> str:
    """The record of a concept whose tensors take so many bytes."""
    rank, alpha = rank_and_alpha(concept)
    told = vars(concept) | {"rank": rank, "alpha": alpha, "tensor_bytes": tensor_bytes}
    record = {"version": VERSION} | {key: told[key] for key in _FIELDS}
    record |= {key: True for key in _SAID_IF_TRUE if told[key]}
    # A note that JSON cannot hold must not cost the training it is about.
    return json.dumps(jsonable(record), separators=(",", ":"), allow_nan=False)


def parse_record(metadata: Mapping[str, str], origin: str) -> dict[str, Any]:
    """The checked fields of the record in a file's metadata, as `Concept` takes them.

    Raises:
        BankError: If there is none, or it is malformed or of a newer format.
    """
    text = metadata.get(RECORD, "null")
    record = parse_text(text, origin)
    version = record.get("version") if isinstance(record, dict) else None
    if not isinstance(version, int) or version < 1:
        raise BankError(f"{origin}: holds no concept, perhaps a plain LoRA. Choose a concept file.")
    if version > VERSION:
        raise BankError(
            f"{origin}: written in format {version}; this version reads up to {VERSION}. "
            "Update the package."
        )
    if version == 1:
        record["subjects"] = [{key: record.get(key) for key in _SUBJECT}]
    for key, kind in _FIELDS.items():
        if not isinstance(record.get(key), kind):
            raise unfit(origin, f"{key!r} is missing or of a wrong type.")
    said = {key: record.get(key, False) for key in _SAID_IF_TRUE}
    record = {key: record[key] for key in _FIELDS} | said
    try:
        record["layers"] = tuple(record["layers"])
        record["subjects"] = tuple(_subject(row) for row in record["subjects"])
        _check_record(record)
    except (ConceptError, BankError) as caught:
        raise unfit(origin, caught) from caught
    return record


def _subject(row: Any) -> Subject:
    found: dict[str, Any] = row if isinstance(row, dict) else {}
    for key, kind in _SUBJECT.items():
        if not isinstance(found.get(key), kind):
            raise ConceptError(f"{key!r} of a subject is missing or of a wrong type.")
    words = found["words"]
    texts = all(isinstance(word, str) for word in words)
    if not texts or (words and parse_words(words) != tuple(words)):
        raise ConceptError("its words are malformed.")
    flags = {key: found.get(key, False) for key in ("modifier", "on_request")}
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise ConceptError(f"{key!r} of a subject is of a wrong type.")
    return Subject(tuple(words), found["class_words"], found["kind"], **flags)


def _check_record(record: Mapping[str, Any]) -> None:
    layers = record["layers"]
    if not all(isinstance(record[key], bool) for key in _SAID_IF_TRUE):
        raise ConceptError(f"{' or '.join(_SAID_IF_TRUE)} is of a wrong type.")
    if not record["subjects"]:
        raise ConceptError("it has no subject.")
    if not all(isinstance(path, str) and NAME.fullmatch(path) for path in layers):
        raise ConceptError("a layer's name is malformed.")
    if len(set(layers)) != len(layers) or record["index"] < -1:
        raise ConceptError("a layer repeats, or the place in the learning order is below zero.")
    if clean_name(record["name"]) != record["name"]:
        raise ConceptError("its name is malformed.")


def unfit(origin: str, reason: object) -> BankError:
    """What to raise about a file whose content does not fit together."""
    return BankError(
        f"{origin}: {reason} Restore the file from a copy, or remove it and train again."
    )
