"""Versions of a concept: files that stood in its place before, each with a number of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..as_text import listed
from ..bank import Bank
from ..concept import Concept
from ..errors import BankError
from ..storage.compatibility import check_new
from ..storage.concept_file import concept_to_bytes, read_concept
from ..storage.kept import numbered, same_content
from ..storage.placing import place
from ..storage.record import Entry, preview_path, read_entry
from ..storage.trash import Removed, discard
from .fitting import check_returns


@dataclass(frozen=True)
class Version:
    """A file that stood in a concept's place.

    Attributes:
        number: What it is called by; no other version of the concept ever has it.
        entry: What its header tells, as it was then; `entry.path` is the version's file.
    """

    number: int
    entry: Entry


def versions(bank: Bank, name: str) -> tuple[Version, ...]:
    """The versions of a concept, oldest first, without those that are broken.

    Raises:
        BankError: If the bank has no such concept, or the versions cannot be listed.
    """
    return _listed(bank, name)[0]


def broken_versions(bank: Bank, name: str) -> tuple[tuple[Path, BankError], ...]:
    """Files of versions that cannot be used, each with the reason.

    Raises:
        BankError: As `versions`.
    """
    return _listed(bank, name)[1]


def read_version(bank: Bank, name: str, number: int) -> Concept:
    """Read and verify a version; it is called as it was when it stood in the concept's place.

    Raises:
        BankError: If there is none of that number, or its file is damaged.
    """
    path, _ = bank.find(name)
    return read_concept(_file_of(path, name, number))


def version_entry(bank: Bank, name: str, number: int) -> Entry:
    """What a version's header tells.

    Raises:
        BankError: As `read_version`.
    """
    path, _ = bank.find(name)
    return read_entry(_file_of(path, name, number))


def go_back(bank: Bank, name: str, number: int) -> Concept:
    """Put a version in the concept's place, under its present name and in its place in the order.

    What stood there becomes a version, so this can be undone in the same way.

    Returns:
        The concept as it is now, with the time when the version was learned.

    Raises:
        BankError: If there is no such version, it is damaged, one of its words was given to another
            concept meanwhile, or the system refuses; nothing has changed then.
        FamilyError: If it fits the bank no longer.
    """
    with bank.writing():
        path, _ = bank.find(name)
        former = _file_of(path, name, number)
        concept = read_concept(former)
        entries = bank.stored.entries()
        # None, if what stands there now is damaged: then the version tells name and place.
        now = next((entry for entry in entries if entry.path == path), None)
        others = [entry for entry in entries if entry is not now]
        stays = now is None or (now.name, now.index) == (concept.name, concept.index)
        if now is not None:
            concept = replace(concept, name=now.name, index=now.index)
        check_new(concept, others)
        check_returns(others if now is None else entries, concept)
        place(former.read_bytes() if stays else concept_to_bytes(concept), path)
        _take_picture(former, path)
        # Last, because until here a crash must leave it.
        with contextlib.suppress(OSError):
            former.unlink()
            preview_path(former).unlink(missing_ok=True)
    return concept


def remove_version(bank: Bank, name: str, number: int) -> Removed:
    """Put a version into the bank's trash.

    Raises:
        BankError: If there is none of that number, or the system refuses.
    """
    with bank.writing():
        path, _ = bank.find(name)
        return discard(bank.path, _file_of(path, name, number))


def _listed(
    bank: Bank, name: str
) -> tuple[tuple[Version, ...], tuple[tuple[Path, BankError], ...]]:
    path, _ = bank.find(name)
    sound: list[Version] = []
    broken: list[tuple[Path, BankError]] = []
    for number, file in numbered(path).items():
        if same_content(path, file):  # kept before a replacement that was cut short
            continue
        try:
            sound.append(Version(number, read_entry(file)))
        except BankError as error:
            broken.append((file, error))
    return tuple(sound), tuple(broken)


def _file_of(path: Path, name: str, number: int) -> Path:
    found = numbered(path)
    if number in found:
        return found[number]
    raise BankError(f"Concept {name!r} has no version {number}. {_known(found)}")


def _known(numbers: Iterable[int]) -> str:
    known = listed(list(map(str, numbers)), most=20)
    return f"There are {known}." if known else "It has none: it was never replaced."


def _take_picture(former: Path, path: Path) -> None:
    """The version's picture, or none; that of what stood there is kept with it."""
    with contextlib.suppress(OSError):
        if preview_path(former).is_file():
            preview_path(former).replace(preview_path(path))
        else:
            preview_path(path).unlink(missing_ok=True)
