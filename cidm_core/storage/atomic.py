"""Whole files or no files: a reader, a crash or a full disk never sees half of one.

Data goes to a temporary file in the target's own folder, is flushed to the disk, and then takes
the target's name in one step. Until that step the old file is untouched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from pathlib import Path

from ..errors import CidmError

_TEMPORARY = re.compile(r"\.cidm-(\d+)-[0-9a-f]+\.tmp")
_STALE_SECONDS = 3600.0
_ADVICE = {
    errno.ENOSPC: "The disk is full. Free some space",
    errno.EDQUOT: "Your disk quota is used up. Free some space",
    errno.EFBIG: "The file is larger than this disk or account allows. Raise the limit",
    errno.EROFS: "The folder is read-only. Choose a writable folder",
    errno.EACCES: "No permission for that. Change the folder's permissions or choose another",
    errno.EPERM: "No permission for that. Change the folder's permissions or choose another",
    errno.ENOENT: "The folder does not exist. Create it",
    errno.ENOTDIR: "Part of the path is a file, not a folder. Choose another path",
    errno.EISDIR: "That path is a folder. Choose a file name",
    errno.ENAMETOOLONG: "The path is too long. Choose a shorter name",
}


def explain(error: OSError, doing: str) -> str:
    """What could not be done ("write 'pets/dog.safetensors'"), why, and what to do."""
    advice = _ADVICE.get(error.errno or 0, f"The system said: {error.strerror or error}. Check it")
    return f"Could not {doing}. {advice}, then try again; nothing was changed."


def write_atomic(
    path: str | os.PathLike[str], data: bytes | memoryview, *, error: type[CidmError] = CidmError
) -> None:
    """Write a file completely or not at all, replacing an older one in a single step.

    The folder must exist. The new file has the permissions that the umask asks for. A symbolic
    link at `path` is replaced, never followed.

    Raises:
        CidmError: (or `error`) If the system refuses; the old content is then still there.
    """
    target = Path(path)
    try:
        _replace(target, data)
    except OSError as caught:
        raise error(explain(caught, f"write '{target}'")) from caught


def _replace(target: Path, data: bytes | memoryview) -> None:
    # Beside the target, because a rename is only atomic within one file system.
    temporary = target.parent / f".cidm-{os.getpid()}-{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    # 0o666 lets the umask decide, as for any other file (`tempfile` would force 0o600).
    handle = os.open(temporary, flags, 0o666)
    try:
        try:
            _write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(target.parent)


def _write_all(handle: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def make_folder(folder: Path, *, error: type[CidmError] = CidmError) -> Path:
    """The folder, made with its parents if it is not there.

    Raises:
        CidmError: (or `error`) If the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as caught:
        raise error(f"'{folder}' is a file. Give a folder.") from caught
    except OSError as caught:
        raise error(explain(caught, f"make the folder '{folder}'")) from caught
    return folder


def sync_folder(folder: Path) -> None:
    """Make a rename or removal in the folder survive a power cut, where the system can."""
    # The file itself is complete and in place: not every system can sync a folder (Windows,
    # some network disks), and failing here must not report a loss that did not happen.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path) -> int:
    """Delete temporary files whose writer is gone; returns how many.

    Call it where no other writer is at work in the folder, for example under its lock.
    """
    swept = 0
    for entry in os.scandir(folder):
        match = _TEMPORARY.fullmatch(entry.name)
        if match and _is_abandoned(entry, int(match[1])):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
                swept += 1
    return swept


def _is_abandoned(entry: os.DirEntry[str], pid: int) -> bool:
    try:
        age = time.time() - entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return False
    return age > _STALE_SECONDS or not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # On Windows `os.kill(pid, 0)` is not a question; wait for the age.
        return True
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
