"""What a run tells the outside while it works: one event per step, and the log's rows."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_WINDOW = 30  # steps over which the speed is averaged


@dataclass(frozen=True)
class Progress:
    """State of a run after a step.

    Attributes:
        step: Steps done, over all stages; in phase "drawing", prior pictures drawn; in phase
            "composing", composites made and then seen; in phase "preparing", photos encoded.
        steps: Steps, or pictures, in all.
        loss: Sum of the terms; NaN when the step was skipped or nothing was computed yet.
        terms: Loss terms by name, weighted as they enter the sum (Eq. 2).
        lr: The highest learning rate at work.
        steps_per_second: Over the last steps; 0 when not known yet.
        remaining_seconds: Estimate; NaN when not known yet.
        skipped: Steps left out because of numbers that were not finite.
        phase: "drawing", "composing", "preparing" or "learning".
        stage: Name of the method's stage the step belongs to.
        stage_step: Steps done in it.
        stage_steps: Its steps in all.
        outlook: What the first steps have shown of the whole run, in words; told once.
    """

    step: int
    steps: int
    loss: float = math.nan
    terms: Mapping[str, float] = field(default_factory=dict[str, float])
    lr: float = 0.0
    steps_per_second: float = 0.0
    remaining_seconds: float = math.nan
    skipped: int = 0
    phase: str = "learning"
    stage: str = ""
    stage_step: int = 0
    stage_steps: int = 0
    outlook: str = ""


def details(event: Progress) -> str:
    """Loss, speed and remaining time of a training step."""
    parts: list[str] = []
    if math.isfinite(event.loss):
        parts.append(f"loss {event.loss:.4f}")
    if event.steps_per_second > 0:
        slow = event.steps_per_second < 1
        parts.append(
            f"{1 / event.steps_per_second:.1f} s/step"
            if slow
            else f"{event.steps_per_second:.1f} steps/s"
        )
    if math.isfinite(event.remaining_seconds) and event.step < event.steps:
        parts.append(f"{duration(event.remaining_seconds)} left")
    if event.skipped:
        parts.append(f"{event.skipped} skipped")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """4 s, 1:05, 2:03:04."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


OnProgress = Callable[[Progress], None]
_NOT_TERMS = ("step", "loss", "grad_norm", "seconds", "skipped", "stage", "stage_step")


def event(
    row: Mapping[str, Any], steps: int, speed: float, skipped: int, stage_steps: int = 0
) -> Progress:
    """The event of a step from its row in the log."""
    rates = [value for key, value in row.items() if key.startswith("lr_")]
    left = steps - int(row["step"])
    return Progress(
        step=int(row["step"]),
        steps=steps,
        loss=float(row["loss"]),
        terms={k: v for k, v in row.items() if k not in _NOT_TERMS and not k.startswith("lr_")},
        lr=max(rates, default=0.0),
        steps_per_second=speed,
        remaining_seconds=left / speed if speed else math.nan,
        skipped=skipped,
        stage=str(row.get("stage", "")),
        stage_step=int(row.get("stage_step", 0)),
        stage_steps=stage_steps,
    )


@dataclass(frozen=True)
class Hooks:
    """What the caller wants to hear, see or say during a run; only the main process calls them."""

    on_progress: OnProgress | None = None
    should_stop: Callable[[], bool] | None = None
    preview: Callable[[int], None] | None = None


class Pace:
    """Speed over the last steps. The first one, which warms up, counts only until there are more.

    Args:
        clock: In seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last, self._taken = clock(), 0
        self._passed: deque[float] = deque(maxlen=_WINDOW)

    def tick(self) -> float:
        """Note that a step is done; returns steps per second."""
        now = self._clock()
        passed, self._last = now - self._last, now
        return self.add(passed)

    def add(self, seconds: float) -> float:
        """Note that a step took so long; returns steps per second."""
        if self._taken == 1:
            self._passed.clear()
        self._taken += 1
        self._passed.append(seconds)
        return 1 / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds(self) -> float:
        """Of one step; NaN before the first."""
        return sum(self._passed) / len(self._passed) if self._passed else math.nan
