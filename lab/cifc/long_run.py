"""Many concepts in one bank: what its size does to each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from .bench import Bench
from .cells import Cell, each_once
from .systems import RECIPES, SYSTEMS, System
from .worklist import draw_cell, draw_key

OWN = replace(SYSTEMS["oracle"], name="own", label="Own weights of the bank", recipe="ours")
"""What the bank's concepts are by themselves: no other concept takes part in drawing."""
FROM_ONE_BANK: tuple[System, ...] = (
    SYSTEMS["ours"],
    replace(SYSTEMS["paper"], name="paper-weights", label="Weights of the paper", recipe="ours"),
    # Encoded one by one: a joint prompt has no room for the words of so many concepts.
    replace(
        SYSTEMS["released"],
        name="released-weights",
        label="Weights as released",
        recipe="ours",
        sampling={"weights": "released"},
    ),
    OWN,
)
ORACLE = SYSTEMS["oracle"]  # each concept learned without any other


class Point(NamedTuple):
    """One concept at one bank size."""

    size: int
    position: int


def long_points(bench: Bench) -> list[Point]:
    """Which concepts are drawn at which size, evenly spread from the first to the last."""
    long, count = bench.sizes.long, len(bench.suite.tasks)
    points: list[Point] = []
    for size in (size for size in long.banks if size <= count):
        last = max(1, min(size, long.probes) - 1)
        chosen = {round(k * (size - 1) / last) for k in range(last + 1)}
        points += [Point(size, position) for position in sorted(chosen)]
    return points


def long_cells(bench: Bench) -> list[Cell]:
    """Everything behind the plot of quality against bank size."""
    order, long = bench.suite.orders[0], bench.sizes.long
    points = long_points(bench)
    alone = [bench.train_cells(RECIPES["plain"], [order[k]]) for k in probed(points)]
    banks = [
        draw_cell(bench, system, order, size, order[k], long.prompts, long.images)
        for system in FROM_ONE_BANK
        for size, k in points
    ]
    oracle = [
        draw_cell(bench, ORACLE, [order[k]], 1, order[k], long.prompts, long.images)
        for k in probed(points)
    ]
    return each_once(bench.train_cells(RECIPES["ours"], order), *alone, banks, oracle)


def probed(points: list[Point]) -> list[int]:
    """Positions that are drawn at any size."""
    return sorted({point.position for point in points})


def long_key(bench: Bench, system: System, point: Point) -> str:
    """Of the cell of a system at a point; the oracle's does not depend on the size."""
    order = bench.suite.orders[0]
    index = order[point.position]
    if system is ORACLE:
        return draw_key(bench, ORACLE, [index], 1, index)
    return draw_key(bench, system, order, point.size, index)
