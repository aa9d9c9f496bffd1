"""Likeness against obedience: what `ours` gives at lower strengths of the concepts.

A system that shows less of a concept follows the prompt more easily. A curve over the strength
tells a better system from one that merely stands elsewhere on it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..evaluation.intervals import bootstrap
from .bench import Bench
from .cells import Cell
from .scoring import by_prompt
from .systems import SYSTEMS, System
from .worklist import draw_cell, draw_key

_MEASURES = ("ia", "ta")


def strength_cells(bench: Bench) -> list[Cell]:
    """`ours` after the last task of the first order, as many pictures as in the main run."""
    order, sizes = bench.suite.orders[0], bench.sizes
    return [
        draw_cell(bench, system, order, len(order), index, sizes.prompts, sizes.images)
        for _, system in _systems(bench)
        for index in order
    ]


def strength_results(bench: Bench) -> list[dict[str, Any]]:
    """One entry per strength, weakest first, full strength last."""
    order, tasks = bench.suite.orders[0], bench.suite.tasks
    categories = [task.prompts for task in tasks]
    found: list[dict[str, Any]] = []
    for strength, system in _systems(bench):
        keys = [draw_key(bench, system, order, len(order), k) for k in range(len(tasks))]
        held = [bench.scores(key) for key in keys]
        rows = {m: [by_prompt(getattr(each, m)) for each in held] for m in _MEASURES}
        scores = {m: bootstrap(rows[m], categories).to_dict() for m in _MEASURES}
        found.append({"strength": strength, **scores})
    return found


def _systems(bench: Bench) -> list[tuple[float, System]]:
    ours = SYSTEMS["ours"]
    weaker = [
        (strength, replace(ours, name=f"ours at {strength}", sampling={"strength": strength}))
        for strength in sorted(bench.sizes.strengths)
    ]
    return [*weaker, (1.0, ours)] if weaker else []
