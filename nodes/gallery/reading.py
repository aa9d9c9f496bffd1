"""Banks and concepts as the page shows them; nothing here writes but thumbnails.

No path is made of what a request holds: a bank, a concept, a version is looked up by its name
among those that are there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...cidm_core.as_text import jsonable
from ...cidm_core.bank import Bank, MissingConceptError
from ...cidm_core.catalogue import UNTOLD, as_words
from ...cidm_core.errors import BankError, CidmError
from ...cidm_core.storage.record import Entry, preview_path
from ..bank.folders import bank_folders

Fields = Mapping[str, Any]


class NotThereError(BankError):
    """There is no bank or picture of that name."""


def banks(_fields: Fields) -> dict[str, Any]:
    """The names of all banks."""
    return {"banks": sorted(bank_folders())}


def concepts(fields: Fields) -> dict[str, Any]:
    """All concepts of a bank in learning order, its unusable files, and the names of all banks."""
    bank = bank_of(fields)
    files = _stamps(bank.path)
    entries = bank.entries()
    _pictures[bank.path] = {entry.name: entry.preview for entry in entries}
    return banks(fields) | {
        "bank": bank.path.name,
        "concepts": [_card(entry, files) for entry in entries],
        "broken": [
            {"name": path.stem, "error": str(error), "stamp": _stamp(path, files)}
            for path, error in bank.broken()
        ],
    }


def concept(fields: Fields) -> dict[str, Any]:
    """All that is known of one concept, and its versions."""
    from ...cidm_core.upkeep.versions import broken_versions, versions

    bank = bank_of(fields)
    entry = entry_of(bank, text(fields, "name"))
    told = {key: as_words(v) for key, v in entry.facts.items() if key not in (*UNTOLD, "steps")}
    return _card(entry, _stamps(bank.path)) | {
        "versions": [
            _card(version.entry, _stamps(version.entry.path.parent)) | {"number": version.number}
            for version in versions(bank, entry.name)
        ],
        "broken_versions": [str(error) for _, error in broken_versions(bank, entry.name)],
        "file": entry.path.name,
        "model": str(entry.facts.get("base_name") or ""),
        "layers": len(entry.layers),
        "rank": entry.rank,
        "facts": told,
        "settings": {key: as_words(v) for key, v in entry.config.items() if v not in ("", None)},
        "losses": _losses(entry.facts.get("losses")),
    }


def removed(fields: Fields) -> dict[str, Any]:
    """What lies in the trash of a bank, the last one first."""
    from ...cidm_core.upkeep.trash import trash

    bank = bank_of(fields)
    return {
        "removed": [
            {
                "number": each.number,
                "name": each.name,
                "removed": each.removed,
                "what": each.what,
                "picture": _facts(preview_path(each.files[0])) or None,
            }
            for each in reversed(trash(bank))
        ]
    }


def picture(fields: Fields) -> bytes:
    """A small picture of a concept, one of its versions or a removed one; larger on request."""
    from ...cidm_core.pictures.thumbnails import LARGE_PX, SMALL_PX, thumbnail

    bank = bank_of(fields)
    path = _picture_path(bank, fields)
    try:
        return thumbnail(path, bank.path, LARGE_PX if fields.get("large") else SMALL_PX)
    except CidmError as error:
        raise NotThereError(str(error)) from error


def _picture_path(bank: Bank, fields: Fields) -> Path:
    from ...cidm_core.upkeep.trash import trash
    from ...cidm_core.upkeep.versions import versions

    if number := fields.get("removed"):
        found = {str(each.number): preview_path(each.files[0]) for each in trash(bank)}
    elif number := fields.get("version"):
        every = versions(bank, text(fields, "name"))
        found = {str(each.number): each.entry.preview for each in every}
    else:
        name = text(fields, "name")
        return _pictures.get(bank.path, {}).get(name) or entry_of(bank, name).preview
    if number not in found:
        raise NotThereError(f"There is nothing of number {str(number)[:20]!r}.")
    return found[number]


def file_of(fields: Fields) -> Path | bytes:
    """A concept for another program: its file, or with as=lora the weights as a plain LoRA."""
    from ...cidm_core.exporters.export import contents
    from ...cidm_core.exporters.formats import LORA

    bank = bank_of(fields)
    entry = entry_of(bank, text(fields, "name"))
    if fields.get("as") != LORA:
        return entry.path
    (data,) = contents(bank[entry.name], LORA, entry.path.stem).values()
    return data


def bank_of(fields: Fields) -> Bank:
    """The bank that a request is about.

    Raises:
        NotThereError: If there is none of that name.
    """
    name, known = text(fields, "bank"), bank_folders()
    if name not in known:
        there = f"There are {', '.join(sorted(known))}." if known else "There is none yet."
        raise NotThereError(f"There is no bank {name[:100]!r}. {there} Look at the list again.")
    return _opened(known[name])


def entry_of(bank: Bank, name: str) -> Entry:
    """A sound concept by its very name.

    Raises:
        MissingConceptError: If there is none.
    """
    for entry in bank.entries():
        if entry.name == name:
            return entry
    raise MissingConceptError(
        f"Bank '{bank.name}' has no concept {name[:100]!r} (any more). Look at the list again."
    )


def stamp_of(path: Path) -> str:
    """What tells a concept from itself after a change: of its file and of its picture."""
    return _stamp(path, {each.name: _facts(each) for each in (path, preview_path(path))})


def text(fields: Fields, key: str) -> str:
    """A text of a request.

    Raises:
        BankError: If it is not there.
    """
    value = fields.get(key)
    if not isinstance(value, str) or not value:
        raise BankError(f"The request lacks the text {key!r}.")
    return value


# Where the pictures of listed concepts lie: a page asks for a thousand of them.
_pictures: dict[Path, dict[str, Path]] = {}


@lru_cache(maxsize=100)
def _opened(folder: Path) -> Bank:
    return Bank(folder)  # it remembers headers, and sees what has changed since


def _card(entry: Entry, files: Mapping[str, str]) -> dict[str, Any]:
    """What a card shows, what is searched, and what is sorted by."""
    return {
        "name": entry.name,
        "words": [subject.phrase for subject in entry.subjects],
        "class_words": entry.class_words,
        "kind": entry.kind,
        "method": entry.method,
        "family": entry.family,
        "order": entry.index,
        "created": entry.created,
        "steps": jsonable(entry.facts.get("steps", entry.config.get("steps"))),
        "bytes": _size(files.get(entry.path.name)),
        "picture": files.get(entry.preview.name),
        "stamp": _stamp(entry.path, files),
    }


def _losses(told: object) -> list[list[float]]:
    """(step, loss) pairs of a concept's facts; a file may hold anything there."""
    rows = told if isinstance(told, list) else []
    numbers = [row for row in rows if isinstance(row, list) and len(row) == 2]
    return [row for row in numbers if all(_is_number(each) for each in row)]


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # JSON knows whole numbers that no float holds
        return False


def _stamps(folder: Path) -> dict[str, str]:
    """Time, size and number of all visible files, by name."""
    try:
        with os.scandir(folder) as found:
            return {each.name: _facts(each) for each in found if each.name[0] != "."}
    except OSError:  # listing it says why
        return {}


def _facts(file: Path | os.DirEntry[str]) -> str:
    try:
        facts = file.stat()
    except OSError:
        return ""
    return f"{facts.st_size}-{facts.st_mtime_ns:x}-{facts.st_ino:x}"


def _size(facts: str | None) -> int:
    return int(facts.partition("-")[0]) if facts else 0


def _stamp(path: Path, files: Mapping[str, str]) -> str:
    return f"{files.get(path.name, '')}+{files.get(preview_path(path).name, '')}"
