"""Banks as they are not in their folders, to draw with: another version in a concept's place."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

from ..bank import Bank
from ..concept import Concept
from ..errors import BankError
from ..storage.compatibility import check_new
from ..storage.record import Entry
from .fitting import check_returns
from .versions import read_version, version_entry


class BankView(Bank):
    """A bank seen differently; what is written goes to its folder as that is.

    Attributes:
        seen: The bank that this is a view of; it may be one itself.
    """

    def __init__(self, seen: Bank) -> None:
        super().__init__(seen.path)
        self._listing = seen._listing  # headers that are read already
        self.seen = seen

    def entries(self) -> tuple[Entry, ...]:
        return self.seen.entries()

    def __getitem__(self, name: str) -> Concept:
        return self.seen[name]

    def add(self, *given: Any, **more: Any) -> Concept:
        """Store a concept in the folder; see `Bank.add`."""
        return self.stored.add(*given, **more)

    @property
    def stored(self) -> Bank:
        """The bank as it is in its folder."""
        return self.seen.stored


class BankAtVersion(BankView):
    """A bank in which one concept is a former version of itself.

    Attributes:
        versions: Its number by the concept's name, and those of views that this is a view of.
    """

    def __init__(self, seen: Bank, now: Entry, number: int, former: Entry) -> None:
        super().__init__(seen)
        self.versions: Mapping[str, int] = {**versions_seen(seen), now.name: number}
        self._now = now
        self._former = replace(former, name=now.name, index=now.index)

    def entries(self) -> tuple[Entry, ...]:
        """The headers, that of the version in its concept's place."""
        name = self._now.name
        return tuple(self._former if e.name == name else e for e in self.seen.entries())

    def __getitem__(self, name: str) -> Concept:
        """A concept; the version under its present name, at the strength that the concept has."""
        if name != self._now.name:
            return self.seen[name]
        concept = read_version(self.stored, name, self.versions[name])
        # A view below may draw it at a strength.
        strength = self.seen[name].strength if isinstance(self.seen, BankView) else 1.0
        return replace(concept, name=name, index=self._now.index, strength=strength)


def at_version(bank: Bank, name: str, number: int) -> Bank:
    """A bank in which a concept is a former version of itself; nothing in its folder changes.

    Args:
        bank: The bank, perhaps a view of one.
        name: The concept's name.
        number: The version's; 0 for the concept as it is.

    Raises:
        BankError: If there is no such version, or one of its words was given to another concept.
        FamilyError: If it fits the bank no longer.
    """
    if not number:
        return bank
    former = version_entry(bank.stored, name, number)
    entries = bank.entries()
    now = next((entry for entry in entries if entry.name == name), None)
    if now is None:
        raise BankError(
            f"The file of {name!r} is damaged, so that nothing is known of its place. Go back to "
            f"version {number} first (cidm bank versions {name!r} --back {number})."
        )
    check_new(replace(former, name=name), [entry for entry in entries if entry is not now])
    check_returns(entries, former)
    return BankAtVersion(bank, now, number, former)


def views_of(bank: Mapping[str, Concept]) -> Generator[BankView]:
    """A view, the view that it is of, and so on."""
    while isinstance(bank, BankView):
        yield bank
        bank = bank.seen


def versions_seen(bank: Mapping[str, Concept]) -> Mapping[str, int]:
    """The numbers of the versions that are seen in concepts' places, by name."""
    return next((v.versions for v in views_of(bank) if isinstance(v, BankAtVersion)), {})
