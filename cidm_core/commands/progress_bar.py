"""Progress on standard error: a live bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from tqdm import tqdm

from ..training.progress import Progress, details

_LINE_SECONDS = 10.0  # between two plain lines
_VERBS = {
    "drawing": "Drawing prior pictures",
    "composing": "Making composites",
    "preparing": "Encoding photos",
    "learning": "Learning",
}


class ProgressBar:
    """Shows counted work; `update` with the count, or call it with training's `Progress`."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._live = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._phase = ""
        self._printed = -math.inf

    def __call__(self, event: Progress) -> None:
        if event.outlook and self.enabled:
            tqdm.write(event.outlook, file=sys.stderr)  # above a running bar
        verb = _VERBS.get(event.phase, event.phase)
        if event.stage_steps not in (0, event.steps):
            verb = f"{verb} ({event.stage})"
        self.update(event.step, event.steps, details(event), verb)

    def update(self, step: int, steps: int, details: str = "", verb: str = "") -> None:
        """Work done so far.

        Args:
            step: Units done.
            steps: Units in all.
            details: Shown behind the count.
            verb: What is being done; a new one starts a new bar.
        """
        if not self.enabled or not steps:
            return
        now = time.monotonic()
        if self._live:
            self._show(verb, step, steps, details)
        elif verb != self._phase or step >= steps or now - self._printed > _LINE_SECONDS:
            self._phase, self._printed = verb, now
            sys.stderr.write(f"{verb} {step}/{steps}  {details}".rstrip() + "\n")
            sys.stderr.flush()

    def _show(self, verb: str, step: int, steps: int, details: str) -> None:
        if self._bar is None or verb != self._phase or step < self._bar.n:
            self.close()
            self._phase = verb
            shape = "{desc} {n_fmt}/{total_fmt} |{bar:24}| {postfix}"
            self._bar = tqdm(total=steps, desc=verb, bar_format=shape, leave=True, mininterval=0.2)
        self._bar.set_postfix_str(details, refresh=False)
        self._bar.update(step - self._bar.n)
        if step >= steps:
            self._bar.refresh()

    def close(self) -> None:
        """End the present bar; the next update starts another."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
