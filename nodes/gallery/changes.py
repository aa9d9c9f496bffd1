"""Changes to a bank that the page asks for: each of what the page has seen, and undoable.

A request says by its stamp which state of a concept it means. If another page or program has
changed the concept since, nothing is done.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...cidm_core.bank import Bank
from ...cidm_core.errors import BankError
from ...cidm_core.storage.record import Entry
from .reading import Fields, bank_of, entry_of, stamp_of, text

Change = Callable[[Fields], dict[str, Any]]


class ChangedError(BankError):
    """What a request is about is no longer as its page has seen it."""


def one_at_a_time(change: Change) -> Change:
    """A change that waits for the one before it, so that of two pages the second sees the first."""

    def work(*given: Any) -> dict[str, Any]:
        with _turn:
            return change(*given)

    return work


_turn = threading.Lock()


def rename(fields: Fields) -> dict[str, Any]:
    """Give a concept another name."""
    from ...cidm_core.upkeep import changes

    bank, entry = _seen(fields)
    return {"name": changes.rename(bank, entry.name, text(fields, "to")).name}


def remove(fields: Fields) -> dict[str, Any]:
    """Move a concept, or a damaged file, to the bank's trash."""
    bank, name = bank_of(fields), text(fields, "name")
    path, _ = bank.find(name)
    _check(path, name, fields)
    return {"removed": bank.remove(name).number}


def restore(fields: Fields) -> dict[str, Any]:
    """Bring back what was removed."""
    from ...cidm_core.upkeep import trash

    return {"name": trash.restore(bank_of(fields), _number(fields))}


def empty(fields: Fields) -> dict[str, Any]:
    """Delete for good what was removed."""
    from ...cidm_core.upkeep import trash

    return {"count": trash.empty_trash(bank_of(fields))}


def go_back(fields: Fields) -> dict[str, Any]:
    """Put a version in the place of the concept, which becomes a version."""
    from ...cidm_core.upkeep import versions

    bank, entry = _seen(fields)
    versions.go_back(bank, entry.name, _number(fields))
    return {"former": _last_version(bank, entry)}


def remove_version(fields: Fields) -> dict[str, Any]:
    """Move a version to the bank's trash."""
    from ...cidm_core.upkeep import versions

    bank, entry = _seen(fields)
    return {"removed": versions.remove_version(bank, entry.name, _number(fields)).number}


def new_preview(fields: Fields, data: bytes) -> dict[str, Any]:
    """Put another picture beside a concept."""
    from ...cidm_core.pictures.thumbnails import LARGE_PX, read_small
    from ...cidm_core.upkeep import changes

    bank, entry = _seen(fields)
    changes.set_preview(bank, entry.name, read_small(io.BytesIO(data), "The picture", LARGE_PX))
    return {}


def replace_concept(fields: Fields, data: bytes) -> dict[str, Any]:
    """Put the concept of a file in the place of another, which becomes a version."""
    from ...cidm_core.storage.concept_file import concept_from_bytes

    bank, entry = _seen(fields)
    given = concept_from_bytes(data, "The chosen file")
    bank.add(replace(given, name=entry.name), replaces=entry)
    return {"former": _last_version(bank, entry)}


def _last_version(bank: Bank, entry: Entry) -> int:
    from ...cidm_core.upkeep.versions import versions

    return versions(bank, entry.name)[-1].number


def _seen(fields: Fields) -> tuple[Bank, Entry]:
    """The concept that a request is about, as its page has seen it."""
    bank = bank_of(fields)
    entry = entry_of(bank, text(fields, "name"))
    _check(entry.path, entry.name, fields)
    return bank, entry


def _check(path: Path, name: str, fields: Fields) -> None:
    if stamp_of(path) != text(fields, "stamp"):
        raise ChangedError(
            f"{name!r} was changed meanwhile, by another page or program, and stays as it is now. "
            "Look at it; to do this all the same, do it again."
        )


def _number(fields: Fields) -> int:
    value = fields.get("number")
    if isinstance(value, bool) or not isinstance(value, int):
        raise BankError("The request lacks a whole 'number'.")
    return value
