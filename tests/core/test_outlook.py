"""How long a run will take: by stages, with previews, told once."""

import re

import pytest
import torch

from cidm_core.methods.base import Stage
from cidm_core.training import outlook as module
from cidm_core.training.outlook import Outlook, in_words

CPU = torch.device("cpu")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def stages(**steps):
    return [Stage(name, count, {}, lambda batch: {}) for name, count in steps.items()]


def steps(outlook, clock, stage, first, count, seconds):
    """The events of some steps of one length each."""
    for step in range(first, first + count):
        clock.now += seconds
        row = {"step": step, "stage": stage, "stage_step": step, "loss": 0.5}
        yield outlook.event(row, 0)


def test_the_first_step_is_no_measure():
    clock = Clock()
    outlook = Outlook(stages(only=801), 0, CPU, clock)
    (slow,) = steps(outlook, clock, "only", 1, 1, 20.0)
    assert slow.remaining_seconds == 800 * 20.0  # nothing else is known yet
    *_, told = steps(outlook, clock, "only", 2, 5, 0.9)
    assert told.remaining_seconds == pytest.approx(795 * 0.9)
    assert told.outlook.startswith("About 12 min in all (0.9 s/step, 801 steps), until ")
    assert re.search(r"until (\d\d \w+ )?\d\d:\d\d\.$", told.outlook)
    (after,) = steps(outlook, clock, "only", 7, 1, 0.9)
    assert after.outlook == ""


def test_stages_cost_what_they_cost():
    """One that has not begun is as slow as the present one; then it shows its own speed."""
    clock = Clock()
    outlook = Outlook(stages(words=10, weights=100), 0, CPU, clock)
    *_, sixth = steps(outlook, clock, "words", 1, 6, 1.0)
    assert sixth.remaining_seconds == pytest.approx(104.0)
    assert "100 steps of later stages taken to be as slow" in sixth.outlook
    list(steps(outlook, clock, "words", 7, 4, 1.0))
    *_, later = steps(outlook, clock, "weights", 11, 10, 3.0)
    assert later.remaining_seconds == pytest.approx(90 * 3.0)
    assert not later.outlook  # told once


def test_previews_are_no_steps():
    clock = Clock()
    outlook = Outlook(stages(only=100), 4, CPU, clock)
    *_, fourth = steps(outlook, clock, "only", 1, 4, 1.0)
    assert fourth.remaining_seconds == pytest.approx(96.0)
    with outlook.drawing():
        clock.now += 5.0
    *_, sixth = steps(outlook, clock, "only", 5, 2, 1.0)
    assert sixth.steps_per_second == pytest.approx(1.0)
    assert sixth.remaining_seconds == pytest.approx(94.0 + 24 * 5.0)
    assert "previews 2 min" in sixth.outlook


def test_previews_that_are_not_known_are_said():
    clock = Clock()
    outlook = Outlook(stages(only=800), 100, CPU, clock)
    *_, told = steps(outlook, clock, "only", 1, 6, 1.0)
    assert "without 8 previews" in told.outlook


def test_a_preview_that_failed_costs_no_step():
    clock = Clock()
    outlook = Outlook(stages(only=800), 4, CPU, clock)
    list(steps(outlook, clock, "only", 1, 4, 1.0))

    def fail():
        with outlook.drawing():
            clock.now += 50.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    (event,) = steps(outlook, clock, "only", 5, 1, 1.0)
    assert event.remaining_seconds == pytest.approx(795.0)


def test_short_runs_are_not_told_of():
    clock = Clock()
    outlook = Outlook(stages(only=50), 0, CPU, clock)
    assert not any(event.outlook for event in steps(outlook, clock, "only", 1, 50, 1.0))


def test_resumed_runs_are_told_from_here_on():
    clock = Clock()
    outlook = Outlook(stages(only=800), 0, CPU, clock)
    *_, told = steps(outlook, clock, "only", 401, 6, 1.0)
    assert told.outlook.startswith("About 7 min from here on (1 s/step, 800 steps)")


def test_memory_stands_beside_it_where_it_is_counted(monkeypatch):
    monkeypatch.setattr(module, "most_held", lambda device: int(5.9 * 2**30))
    monkeypatch.setattr(module, "memory_of", lambda device: (8 * 2**30, 2**30))
    clock = Clock()
    outlook = Outlook(stages(only=800), 0, CPU, clock)
    *_, told = steps(outlook, clock, "only", 1, 6, 1.0)
    assert told.outlook.endswith("; memory 5.9 of 8.0 GB at its peak so far.")


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (840, "14 min"), (7500, "2 h 5 min"), (0, "1 s")]
)
def test_lengths_of_time(seconds, words):
    assert in_words(seconds) == words
