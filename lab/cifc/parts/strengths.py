"""Likeness against obedience: what systems give at other strengths of the concepts.

A system that shows less of a concept follows the prompt more easily. Curves over the strength tell
a better system from one that merely stands elsewhere on the same curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..bench import Bench
from ..cells import Cell
from ..draw_cells import draw_cell, draw_key
from ..scoring import intervals
from ..systems import System


def strength_cells(bench: Bench, systems: Sequence[System]) -> list[Cell]:
    """After the last task of the first order, as many pictures as in the main run."""
    order, sizes = bench.suite.orders[0], bench.sizes
    return [
        draw_cell(bench, weighed, order, len(order), index, sizes.prompts, sizes.images)
        for system in systems
        for _, weighed in _others(bench, system)
        for index in order
    ]


def strength_results(bench: Bench, systems: Sequence[System]) -> dict[str, list[dict[str, Any]]]:
    """For each system that has a curve its points, weakest first, strength 1 among them."""
    order, tasks = bench.suite.orders[0], bench.suite.tasks
    found: dict[str, list[dict[str, Any]]] = {}
    for system in systems:
        if not (others := _others(bench, system)):
            continue
        points: list[dict[str, Any]] = []
        for strength, weighed in sorted([*others, (1.0, system)], key=lambda each: each[0]):
            keys = [draw_key(bench, weighed, order, len(order), k) for k in range(len(tasks))]
            scores = intervals([bench.scores(key) for key in keys], tasks)
            points.append({"strength": strength, **scores})
        found[system.name] = points
    return found


def _others(bench: Bench, system: System) -> list[tuple[float, System]]:
    return [
        (
            strength,
            replace(
                system,
                name=f"{system.name} at {strength:g}",
                sampling={**system.sampling, "strength": strength},
            ),
        )
        for strength in bench.sizes.strengths.get(system.name, ())
    ]
