"""Several renames within a folder, all of them or none, whatever ends the program meanwhile.

They are written down first, in `.moving`; the next writer finishes what a dead one began.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import BankError
from .atomic import explain, make_folder, sync_folder, write_atomic

JOURNAL = ".moving"
Move = tuple[Path, Path]


def move_all(folder: Path, moves: Sequence[Move], doing: str) -> None:
    """Rename files and folders below a folder that its only writer holds.

    Args:
        folder: Where all of them are, and stay.
        moves: From and to; nothing may be at the second.
        doing: What it is for, in an error's words: "remove 'dog'".

    Raises:
        BankError: If the system refuses; then all is where it was.
    """
    written = json.dumps([[_below(folder, path) for path in move] for move in moves])
    write_atomic(folder / JOURNAL, written.encode(), error=BankError)
    done: list[Move] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
            done.append((source, target))
    except OSError as caught:
        # If even going back is refused, the next writer goes on instead.
        with contextlib.suppress(OSError):
            for source, target in reversed(done):
                os.rename(target, source)
            _strike(folder, moves)
        raise BankError(explain(caught, doing)) from caught
    with contextlib.suppress(OSError):
        _strike(folder, moves)


def finish_moves(folder: Path) -> None:
    """Do what a writer that is gone had still to move.

    Raises:
        BankError: If the system refuses.
    """
    journal = folder / JOURNAL
    if not os.path.lexists(journal):
        return
    try:
        moves = _read(folder, journal)
        for source, target in moves:
            if os.path.lexists(source) and not os.path.lexists(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(source, target)
        _strike(folder, moves)
    except OSError as caught:
        raise BankError(explain(caught, f"finish what '{journal}' began")) from caught


def own_folder(folder: Path, *parts: str) -> Path:
    """A folder of ours below another, made if it is not there.

    Raises:
        BankError: If it leads elsewhere, is a file, or the system refuses.
    """
    target = folder.joinpath(*parts)
    if not is_inside(folder, target):
        raise BankError(
            f"'{target}' leads out of '{folder}'. Take that link away, then try again; nothing "
            "was changed."
        )
    return make_folder(target, error=BankError)


def is_inside(folder: Path, path: Path) -> bool:
    """Whether a path lies below a folder with no link on the way to it."""
    below = os.path.relpath(path, folder)
    return os.path.realpath(path) == os.path.join(os.path.realpath(folder), below)


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _read(folder: Path, journal: Path) -> list[Move]:
    """The moves of a journal; those of one that we have not written are none."""
    with contextlib.suppress(ValueError, TypeError):
        rows = json.loads(journal.read_text("utf-8"))
        found = [(folder / source, folder / target) for source, target in rows]
        if all(_may(folder, path) for move in found for path in move):
            return found
    return []


def _may(folder: Path, path: Path) -> bool:
    return ".." not in path.parts and path.parent.is_relative_to(folder) and _leads_in(folder, path)


def _leads_in(folder: Path, path: Path) -> bool:
    return path.parent == folder or is_inside(folder, path.parent)


def _strike(folder: Path, moves: Sequence[Move]) -> None:
    """Forget the moves, once the disk holds them."""
    for changed in {path.parent for move in moves for path in move}:
        sync_folder(changed)
    (folder / JOURNAL).unlink()
