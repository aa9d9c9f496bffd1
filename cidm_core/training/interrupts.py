"""Ctrl-C that waits for a moment, so that an update of the weights is never torn."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # SIGINT last: from then on it may strike again


@contextmanager
def uninterrupted() -> Generator[None]:
    """Hold SIGINT and SIGTERM back until the block is done, then hand them on.

    Only the main thread is ever interrupted by a signal; in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    # A handler that was not set from Python is None, and could not be put back.
    handlers: dict[int, Any] = {
        number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))
    }
    try:
        for number in handlers:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in came:
            handlers[number](number, frame)
