"""Lock files: one program at a time, and the next one as soon as that one is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import BankError
from .atomic import explain


@contextlib.contextmanager
def locked(path: Path, busy: Exception, *, seconds: float = 0.0) -> Generator[None]:
    """Be the only program that holds a lock file, for as long as the block runs.

    Args:
        path: The lock file, in a folder that exists. The system frees it when its holder dies,
            however it dies.
        busy: Raised if another program holds it all the time.
        seconds: How long to wait for it.

    Raises:
        BankError: If the system refuses to make the file.
    """
    lock = FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except Timeout as caught:
        raise busy from caught
    except OSError as caught:
        raise BankError(explain(caught, f"write '{path}'")) from caught
    try:
        yield
    finally:
        lock.release()
