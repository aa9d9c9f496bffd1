"""What was removed from a bank: looked at, put back, or deleted for good."""

from __future__ import annotations

import os

from ..bank import Bank
from ..errors import BankError
from ..storage.compatibility import check_new
from ..storage.record import read_entry
from ..storage.tensor_file import SUFFIX
from ..storage.trash import CONCEPT, Removed, bring_back, empty, in_trash, origin
from .fitting import check_returns


def trash(bank: Bank) -> tuple[Removed, ...]:
    """All that was removed from a bank and can be restored, oldest first.

    Raises:
        BankError: If it cannot be listed.
    """
    return in_trash(bank.path)


def restore(bank: Bank, number: int) -> str:
    """Put removed files back to where they were.

    Returns:
        The name of the concept.

    Raises:
        BankError: If nothing of that number is there, name or words are taken, the concept of a
            version is not in the bank, or the system refuses; nothing has changed then.
        FamilyError: If it fits the bank no longer.
    """
    with bank.writing():
        found = {each.number: each for each in in_trash(bank.path)}
        if number not in found:
            raise BankError(
                f"The trash of bank '{bank.name}' has nothing of number {number}. It holds "
                f"{', '.join(map(str, found)) or 'nothing'}."
            )
        removed = found[number]
        if removed.what == CONCEPT:
            _check_concept(bank, removed)
        else:
            _check_version(bank, removed)
        bring_back(bank.path, removed)
    return removed.name


def empty_trash(bank: Bank) -> int:
    """Delete all that was removed, for good.

    Returns:
        How many removals there were.

    Raises:
        BankError: If the system refuses; what is left can be emptied again.
    """
    if not bank.path.is_dir():
        return 0
    with bank.writing():
        return empty(bank.path)


def _check_concept(bank: Bank, removed: Removed) -> None:
    try:
        entry = read_entry(removed.files[0])
    except BankError:  # as damaged as it was: that its file is free is enough
        return
    try:
        check_new(entry, bank.stored.entries())
    except BankError as caught:
        raise BankError(
            f"{caught} What was removed stays in the trash. To restore it, remove or rename the "
            "concept that is there now."
        ) from caught
    check_returns(bank.stored.entries(), entry)


def _check_version(bank: Bank, removed: Removed) -> None:
    stem = origin(bank.path, removed).parent.name
    if not os.path.lexists(bank.path / f"{stem}{SUFFIX}"):
        raise BankError(
            f"This is a version of '{stem}{SUFFIX}', which is not in the bank any more. Restore "
            "or rename that concept first, then its version."
        )
