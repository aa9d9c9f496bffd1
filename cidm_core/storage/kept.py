"""Former files of a concept, kept by number in the bank's `.versions/<file stem>/`.

They end in `.kept` and not as concepts do, for programs that list a bank's folders for LoRAs.
A former file is kept by a hard link where that is possible, so it costs no room, and before its
successor is put in place, so a crash at any moment leaves all there was.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
from collections.abc import Generator
from pathlib import Path

from ..errors import BankError
from .atomic import explain, sweep, sync_folder, write_atomic
from .moves import Move, own_folder
from .record import preview_path

VERSIONS = ".versions"
KEPT = ".kept"
LAST = "last"  # the highest number that was given
_MOST = 10**9
_NUMBER = re.compile(r"([1-9][0-9]{0,14})(?:\..*)?")


def versions_folder(path: Path) -> Path:
    """Where the versions of a concept's file are."""
    return path.parent / VERSIONS / path.stem


def moves_of(path: Path, target: Path) -> list[Move]:
    """The moves of a concept's file, or a version's, with all that belongs to it; itself first."""
    pairs = [(path, target), (preview_path(path), preview_path(target))]
    pairs.append((versions_folder(path), versions_folder(target)))
    return [pair for pair in pairs if os.path.lexists(pair[0])]


def numbered(path: Path) -> dict[int, Path]:
    """The kept files of a concept's file by their numbers, in order.

    Raises:
        BankError: If their folder cannot be listed.
    """
    folder = versions_folder(path)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return {}
    except OSError as caught:
        raise BankError(explain(caught, f"list '{folder}'")) from caught
    numbers = sorted({_number_of(name) for name in names if name.endswith(KEPT)})
    # Others may put anything there.
    return {n: folder / f"{n}{KEPT}" for n in numbers if n and f"{n}{KEPT}" in names}


@contextlib.contextmanager
def former_kept(path: Path) -> Generator[None]:
    """Keep a concept's file and picture as a version while others take their places.

    Raises:
        BankError: If they cannot be kept; nothing has changed then.
    """
    made = _keep(path)
    try:
        yield
    except BaseException:
        if made and same_content(path, made[-1]):  # nothing has taken its place
            _forget(made)
        raise


def adopt(path: Path, new: Path) -> None:
    """Keep the versions of a concept's file as versions of another file, under numbers of its own.

    Raises:
        BankError: If the system refuses.
    """
    for file in numbered(path).values():
        if not same_content(path, file):
            _keep_as(file, new)


def same_content(path: Path, other: Path) -> bool:
    """Whether two files hold the same, byte for byte."""
    try:
        return os.path.samefile(path, other) or filecmp.cmp(path, other, shallow=False)
    except OSError:
        return False


def next_number(folder: Path) -> int:
    """A number that nothing in the folder has, or ever had.

    Raises:
        BankError: If the system refuses to note it.
    """
    try:
        numbers = [_number_of(name) for name in os.listdir(folder)]
    except OSError as caught:
        raise BankError(explain(caught, f"list '{folder}'")) from caught
    with contextlib.suppress(OSError, ValueError):
        numbers.append(_number_of((folder / LAST).read_text("ascii").strip()))
    # Others may have left a number near the end of all that can be read.
    number = max((number for number in numbers if number < _MOST), default=0) + 1
    while number in numbers:
        number += 1
    write_atomic(folder / LAST, str(number).encode(), error=BankError)
    return number


def _number_of(name: str) -> int:
    """The number that a file's name begins with; 0 if there is none."""
    match = _NUMBER.fullmatch(name)
    return int(match[1]) if match else 0


def _keep(path: Path) -> tuple[Path, ...]:
    """What was made: the picture, if there is one, and then the file; nothing if it is kept."""
    if any(same_content(path, each) for each in numbered(path).values()):  # since a crash
        return ()
    return _keep_as(path, path)


def _keep_as(source: Path, path: Path) -> tuple[Path, ...]:
    """Keep a file and its picture as a version of a concept's file."""
    folder = own_folder(path.parent, VERSIONS, path.stem)
    with contextlib.suppress(OSError):
        sweep(folder)
    target = folder / f"{next_number(folder)}{KEPT}"
    made: list[Path] = []
    try:
        for each, copy in ((preview_path(source), preview_path(target)), (source, target)):
            if each.is_file():
                made.append(copy)
                _link(each, copy)
    except BaseException as caught:
        _forget(made)
        if isinstance(caught, OSError):
            raise BankError(explain(caught, f"keep '{source}' as a version")) from caught
        raise
    for changed in (folder, folder.parent, path.parent):
        sync_folder(changed)
    return tuple(made)


def _link(source: Path, target: Path) -> None:
    # A link that leads elsewhere is not ours to link to, and may lead nowhere from another folder.
    if not source.is_symlink():
        with contextlib.suppress(OSError):  # not every disk has hard links
            os.link(source, target)
            return
    write_atomic(target, source.read_bytes(), error=BankError)


def _forget(paths: list[Path] | tuple[Path, ...]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
