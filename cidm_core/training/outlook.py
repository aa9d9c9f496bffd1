"""How long a run will take: told once its first steps have shown it, and after every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import torch

from ..devices import memory_of, most_held
from ..methods.base import Stage
from .estimate import gb
from .progress import Pace, Progress, event

_TELLING = 6  # steps: the first is slow, five show the speed
_SHORT = 60.0  # seconds: for less nobody makes plans


class Outlook:
    """Times the steps of each stage and the previews between them; the rest follows.

    A stage that has not begun is taken to be as slow as the one under way, and previews are left
    out until one was drawn; both are said.

    Args:
        stages: All of the run.
        preview_every: Steps between two previews; 0: none.
        device: Whose memory is told of.
        clock: In seconds.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        preview_every: int,
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages, self._every, self._device, self._clock = stages, preview_every, device, clock
        self._steps = sum(stage.steps for stage in stages)
        self._paces = {stage.name: Pace(clock) for stage in stages}
        self._drawn: list[float] = []
        self._taken, self._started = 0, clock()
        self._last = self._started

    def event(self, row: Mapping[str, Any], skipped: int) -> Progress:
        """What is told of a step, right after it; `row` is its row in the log."""
        now, name = self._clock(), str(row["stage"])
        speed = self._paces[name].add(now - self._last)
        self._last, self._taken = now, self._taken + 1
        steps = next(stage.steps for stage in self._stages if stage.name == name)
        found = event(row, self._steps, speed, skipped, steps)
        found = replace(found, remaining_seconds=self._remaining(found))
        whole = now - self._started + found.remaining_seconds
        told = self._taken == _TELLING and whole > _SHORT and found.step < found.steps
        return replace(found, outlook=self._told(found, whole)) if told else found

    @contextmanager
    def drawing(self) -> Generator[None]:
        """Meanwhile a preview is drawn, which is no step's time."""
        began = self._clock()
        try:
            yield
            self._drawn.append(self._clock() - began)
        finally:
            self._last = self._clock()

    def _remaining(self, now: Progress) -> float:
        """Seconds that are left, as far as can be known."""
        usual = self._paces[now.stage].seconds
        steps = self._left(now)
        paces = {name: self._paces[name].seconds for name in steps}
        known = {name: usual if math.isnan(each) else each for name, each in paces.items()}
        learning = sum(count * known[name] for name, count in steps.items())
        drawn = sum(self._drawn) / len(self._drawn) if self._drawn else 0.0
        return learning + drawn * self._previews(now)

    def _left(self, now: Progress) -> dict[str, int]:
        """Steps that are left of each stage."""
        found: dict[str, int] = {}
        first = 0
        for stage in self._stages:
            found[stage.name] = min(stage.steps, max(0, first + stage.steps - now.step))
            first += stage.steps
        return found

    def _previews(self, now: Progress) -> int:
        return now.steps // self._every - now.step // self._every if self._every else 0

    def _told(self, now: Progress, whole: float) -> str:
        """The whole run in a line or two."""
        ends = datetime.now() + timedelta(seconds=now.remaining_seconds)
        day = "" if ends.date() == datetime.now().date() else f"{ends:%d %b} "
        parts = [f"{self._paces[now.stage].seconds:.2g} s/step", f"{now.steps} steps"]
        count = self._previews(now)
        if count and self._drawn:
            parts.append(f"previews {in_words(count * sum(self._drawn) / len(self._drawn))}")
        elif count:
            parts.append(f"without {count} previews")
        later = sum(n for name, n in self._left(now).items() if name != now.stage)
        if later:
            parts.append(f"{later} steps of later stages taken to be as slow")
        span = "in all" if now.step == self._taken else "from here on"
        text = f"About {in_words(whole)} {span} ({', '.join(parts)}), until {day}{ends:%H:%M}"
        held = most_held(self._device)
        if held is not None:
            text += f"; memory {gb(held)} of {gb(memory_of(self._device)[0])} GB at its peak so far"
        return f"{text}."


def in_words(seconds: float) -> str:
    """A length of time as people say it: 40 s, 14 min, 2 h 5 min."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
