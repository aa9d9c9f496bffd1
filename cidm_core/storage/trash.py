"""Removed files of a bank, in its `.trash/<number>/` under the paths that they had in the bank.

Concepts end in `.kept` there, for programs that list a bank's folders for LoRAs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..errors import BankError
from .atomic import explain
from .kept import KEPT, moves_of, next_number
from .moves import is_inside, move_all, own_folder
from .record import read_entry
from .tensor_file import SUFFIX

TRASH = ".trash"
_EMPTIED = "emptied-"
CONCEPT, VERSION = "concept", "version"


@dataclass(frozen=True)
class Removed:
    """What was removed from a bank at once.

    Attributes:
        number: What it is called by in the trash.
        name: Of the concept that it is or was a version of; of a damaged one that of its file.
        removed: ISO time.
        what: "concept" or "version".
        files: Where they are now; first the concept itself, or the version.
    """

    number: int
    name: str
    removed: str
    what: str
    files: tuple[Path, ...]


def discard(folder: Path, path: Path) -> Removed:
    """Put a concept's file with all that belongs to it into the trash, or one of its versions.

    Raises:
        BankError: If the system refuses; nothing has changed then.
    """
    top = own_folder(folder, TRASH)
    number = next_number(top)
    place = own_folder(top, str(number))
    target = place / path.relative_to(folder).with_suffix(KEPT)
    try:
        move_all(folder, moves_of(path, target), f"remove '{path}'")
    except BankError:
        _clear(place)
        raise
    removed = _read(place)
    assert removed is not None, "it was just put there"
    return removed


def bring_back(folder: Path, removed: Removed) -> None:
    """Put removed files back to where they were.

    Raises:
        BankError: If something has their place, or the system refuses; nothing has changed then.
    """
    moves = moves_of(removed.files[0], origin(folder, removed))
    for _, target in moves:
        if os.path.lexists(target):
            raise BankError(
                f"'{target}' is in the way of {removed.name!r}, which was removed. Move that away "
                "or give it another name, then try again; nothing was changed."
            )
        if target.parent != folder:
            own_folder(folder, *target.parent.relative_to(folder).parts)
    # A concept is there with all that belongs to it, or not yet.
    move_all(folder, moves[::-1], f"restore {removed.name!r}")
    _clear(_place(folder, removed.number))


def origin(folder: Path, removed: Removed) -> Path:
    """The path that the removed concept or version had in the bank."""
    path = folder / removed.files[0].relative_to(_place(folder, removed.number))
    return path.with_suffix(SUFFIX) if removed.what == CONCEPT else path


def in_trash(folder: Path) -> tuple[Removed, ...]:
    """All that was removed, oldest first; what we have not put there is passed over.

    Raises:
        BankError: If the trash cannot be listed.
    """
    try:
        names = os.listdir(folder / TRASH)
    except FileNotFoundError:
        return ()
    except OSError as caught:
        raise BankError(explain(caught, f"list '{folder / TRASH}'")) from caught
    numbers = sorted(int(n) for n in names if n.isascii() and n.isdecimal() and n[0] != "0")
    found = (_read(_place(folder, number)) for number in numbers)
    return tuple(each for each in found if each is not None)


def empty(folder: Path) -> int:
    """Delete all that was removed, for good; returns how many there were.

    Raises:
        BankError: If the system refuses; what is left can be emptied again.
    """
    found = in_trash(folder)
    try:
        for removed in found:
            place = _place(folder, removed.number)
            # In one step, so that nothing is ever half there.
            os.rename(place, place.with_name(f"{_EMPTIED}{removed.number}"))
        for half in (folder / TRASH).glob(f"{_EMPTIED}[0-9]*"):
            shutil.rmtree(half)
    except OSError as caught:
        raise BankError(explain(caught, f"empty '{folder / TRASH}'")) from caught
    return len(found)


def _place(folder: Path, number: int) -> Path:
    return folder / TRASH / str(number)


def _read(place: Path) -> Removed | None:
    """What a numbered folder of the trash holds, if anything of ours."""
    if not is_inside(place.parent.parent, place):
        return None
    concepts, versions = (sorted(place.glob(f"{p}*{KEPT}")) for p in ("", ".versions/*/"))
    if not (mains := concepts or versions):
        return None
    with contextlib.suppress(OSError):
        when = datetime.fromtimestamp(place.stat().st_mtime, timezone.utc)
        what = CONCEPT if concepts else VERSION
        name = mains[0].stem if concepts else mains[0].parent.name
        with contextlib.suppress(BankError):
            name = read_entry(mains[0]).name
        rest = sorted(each for each in place.rglob("*") if each.is_file() and each != mains[0])
        text = when.isoformat(timespec="seconds")
        return Removed(int(place.name), name, text, what, (mains[0], *rest))
    return None


def _clear(place: Path) -> None:
    """Take away the folders that are empty now."""
    for each in (*place.glob(".versions/*"), place / ".versions", place):
        with contextlib.suppress(OSError):
            os.rmdir(each)
