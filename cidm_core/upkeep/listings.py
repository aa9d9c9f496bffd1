"""Versions and trash as people are shown them."""

from __future__ import annotations

import os

from ..as_text import minute, table
from ..bank import Bank
from ..storage.record import Entry
from ..storage.trash import VERSION, Removed
from .trash import trash
from .versions import broken_versions, versions

_MB = 1e6


def versions_listing(bank: Bank, name: str) -> str:
    """A concept as it is and its versions as a table, the oldest first, and what is broken.

    Raises:
        BankError: If the bank has no such concept, or they cannot be listed.
    """
    now = [entry for entry in bank.stored.entries() if entry.name == name]
    rows = [_row(str(each.number), each.entry) for each in versions(bank, name)]
    rows += [_row("now", entry) for entry in now]
    head = ("version", "learned", "words", "steps", "method", "MB")
    lines = [table(head, rows)] if rows else []
    broken = [bank.find(name)[1], *(error for _, error in broken_versions(bank, name))]
    lines += [f"Not usable: {error}" for error in broken if error is not None]
    return "\n".join(lines)


def trash_listing(bank: Bank) -> str:
    """What was removed as a table, the oldest first.

    Raises:
        BankError: If it cannot be listed.
    """
    rows = [(each.number, each.name, _what(each), minute(each.removed)) for each in trash(bank)]
    if not rows:
        return f"The trash of bank '{bank.name}' is empty."
    return table(("number", "name", "what", "removed"), rows)


def told(removed: Removed) -> str:
    """What was removed, in words: "'dog'", or "Version 2 of 'dog'"."""
    whose = f"Version {removed.files[0].stem} of " if removed.what == VERSION else ""
    return f"{whose}{removed.name!r}"


def _what(removed: Removed) -> str:
    """A concept, or which version."""
    which = f" {removed.files[0].stem}" if removed.what == VERSION else ""
    return f"{removed.what}{which}"


def when_and_how(entry: Entry) -> str:
    """When and how a concept was learned, in few words: "2026-11-30 12:10, cidm, 800 steps"."""
    steps = entry.facts.get("steps")
    return ", ".join([minute(entry.created), entry.method, *([f"{steps} steps"] if steps else [])])


def _row(number: str, entry: Entry) -> tuple[object, ...]:
    steps = entry.facts.get("steps")
    size = os.stat(entry.path).st_size / _MB if entry.path.exists() else 0.0
    return number, minute(entry.created), entry.phrase, str(steps or "-"), entry.method, size
