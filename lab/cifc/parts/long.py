"""Many concepts in one bank: what its size does to each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..bench import Bench
from ..cells import Cell, each_once
from ..draw_cells import draw_cell, draw_key
from ..intervals import ScoreRows, bootstrap_difference
from ..learners import LEARNERS
from ..scoring import Scores, by_prompt, intervals
from ..systems import SYSTEMS, System

OWN = replace(SYSTEMS["oracle"], name="own", label="Own weights of the bank", learner="ours")
"""What the bank's concepts are by themselves: no other concept takes part in drawing."""
FROM_ONE_BANK: tuple[System, ...] = (
    SYSTEMS["ours"],
    replace(SYSTEMS["paper"], name="paper-weights", label="Weights of the paper", learner="ours"),
    # Encoded one by one: a joint prompt has no room for the words of so many concepts.
    replace(
        SYSTEMS["released"],
        name="released-weights",
        label="Weights as released",
        learner="ours",
        sampling={"weights": "released"},
    ),
    OWN,
)
ORACLE = SYSTEMS["oracle"]  # each concept learned without any other


class BankPoint(NamedTuple):
    """One concept at one bank size."""

    size: int
    position: int


def long_points(bench: Bench) -> list[BankPoint]:
    """Which concepts are drawn at which size, evenly spread from the first to the last."""
    long, count = bench.sizes.long, len(bench.suite.tasks)
    points: list[BankPoint] = []
    for size in (size for size in long.banks if size <= count):
        last = max(1, min(size, long.probes) - 1)
        chosen = {round(k * (size - 1) / last) for k in range(last + 1)}
        points += [BankPoint(size, position) for position in sorted(chosen)]
    return points


def long_cells(bench: Bench) -> list[Cell]:
    """Everything behind the plot of quality against bank size."""
    order, long = bench.suite.orders[0], bench.sizes.long
    points = long_points(bench)
    alone = [bench.train_cells(LEARNERS["plain"], [order[k]]) for k in probed(points)]
    banks = [
        draw_cell(bench, system, order, size, order[k], long.prompts, long.images)
        for system in FROM_ONE_BANK
        for size, k in points
    ]
    oracle = [
        draw_cell(bench, ORACLE, [order[k]], 1, order[k], long.prompts, long.images)
        for k in probed(points)
    ]
    return each_once(bench.train_cells(LEARNERS["ours"], order), *alone, banks, oracle)


def probed(points: list[BankPoint]) -> list[int]:
    """Positions that are drawn at any size."""
    return sorted({point.position for point in points})


def long_key(bench: Bench, system: System, point: BankPoint) -> str:
    """Of the cell of a system at a point; the oracle's does not depend on the size."""
    order = bench.suite.orders[0]
    index = order[point.position]
    if system is ORACLE:
        return draw_key(bench, ORACLE, [index], 1, index)
    return draw_key(bench, system, order, point.size, index)


def long_results(bench: Bench) -> dict[str, Any]:
    """IA and TA at each bank size, and the distance from the oracles, over the same concepts."""
    points = long_points(bench)
    sizes = sorted({point.size for point in points})
    systems = (*FROM_ONE_BANK, ORACLE)
    found: dict[str, Any] = {"sizes": sizes, "systems": {}}
    for system in systems:
        rows = [_at_size(bench, system, [p for p in points if p.size == s]) for s in sizes]
        found["systems"][system.name] = {"label": system.label, "sizes": rows}
    return found


def _at_size(bench: Bench, system: System, points: Sequence[BankPoint]) -> dict[str, Any]:
    order = bench.suite.orders[0]
    tasks = [bench.suite.tasks[order[point.position]] for point in points]
    categories = [task.prompts for task in tasks]

    def held(who: System) -> list[Scores]:
        return [bench.scores(long_key(bench, who, point)) for point in points]

    def likeness(who: System) -> ScoreRows:
        return [by_prompt(scores.ia) for scores in held(who)]

    result: dict[str, Any] = {**intervals(held(system), tasks)}
    for name, oracle in (("oracle_gap", ORACLE), ("bank_gap", FROM_ONE_BANK[-1])):
        gap = bootstrap_difference(likeness(oracle), likeness(system), categories)
        result[name] = gap.to_dict()
    result["concepts"] = [task.name for task in tasks]
    return result
