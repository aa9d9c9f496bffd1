"""The listing of a bank folder: headers only, each read once until its file changes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import BankError
from .atomic import explain
from .names import file_stem, same_key
from .record import Entry, read_entry
from .tensor_file import SUFFIX

_Stamp = tuple[int, int, int]
_Headers = Mapping[str, tuple[_Stamp, Entry | BankError]]


class Listed(NamedTuple):
    """Sound concepts in learning order, and files that are not, each with the reason."""

    entries: tuple[Entry, ...]
    broken: tuple[tuple[Path, BankError], ...]


class Listing:
    """What a folder holds, always as it is now; unchanged files are not opened again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._headers: _Headers = {}
        self._listed = Listed((), ())

    def read(self) -> Listed:
        """List the folder; a missing one is empty.

        Raises:
            BankError: If the folder cannot be listed at all.
        """
        known = self._headers
        headers: dict[str, tuple[_Stamp, Entry | BankError]] = {}
        for name, stamp in _stamps(self._folder).items():
            if name in known and known[name][0] == stamp:
                headers[name] = known[name]
            elif (header := _header(self._folder / name)) is not None:
                headers[name] = stamp, header
        if headers != known:
            self._listed = _sorted(self._folder, headers)
            self._headers = headers
        return self._listed


def _stamps(folder: Path) -> dict[str, _Stamp]:
    """Concept files by name, with what tells a changed file from an unchanged one."""
    try:
        with os.scandir(folder) as found:
            return {
                item.name: _stamp(item)
                for item in found
                if item.name.endswith(SUFFIX) and not item.name.startswith(".")
            }
    except FileNotFoundError:
        return {}
    except OSError as caught:
        raise BankError(explain(caught, f"list bank '{folder}'")) from caught


def _stamp(item: os.DirEntry[str]) -> _Stamp:
    try:
        facts = item.stat()
    except OSError:  # gone meanwhile, or a link to nowhere: reading it will tell
        return 0, 0, 0
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def _header(path: Path) -> Entry | BankError | None:
    """What a file tells, or why it cannot; nothing of one that is gone meanwhile."""
    try:
        return read_entry(path)
    except BankError as error:
        return error if os.path.lexists(path) else None


def _sorted(folder: Path, headers: _Headers) -> Listed:
    """Sound entries in learning order; broken files, and those that repeat a name or word."""
    found = [header for _, header in headers.values() if isinstance(header, Entry)]
    broken = [(folder / n, h) for n, (_, h) in headers.items() if isinstance(h, BankError)]
    entries: list[Entry] = []
    taken: dict[str, Entry] = {}
    for entry in sorted(found, key=_place):
        marks = [f"name {same_key(entry.name)!r}", *(f"word {word!r}" for word in entry.triggers)]
        if clash := next((mark for mark in marks if mark in taken), None):
            error = BankError(
                f"{entry.path.name}: its {clash} is also that of '{taken[clash].path.name}'. "
                "Keep one of the two files in the bank."
            )
            broken.append((entry.path, error))
            continue
        taken.update(dict.fromkeys(marks, entry))
        entries.append(entry)
    return Listed(tuple(entries), tuple(sorted(broken, key=lambda pair: pair[0].name)))


def _place(entry: Entry) -> tuple[int, str, bool, str]:
    # A file under its own name comes before a copy such as 'dog (1).safetensors'.
    renamed = entry.path.stem != file_stem(entry.name)
    return entry.index, entry.created, renamed, entry.path.name
