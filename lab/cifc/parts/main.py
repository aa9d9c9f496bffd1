"""Single concepts after every task of every order: who forgets what, and how like they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..bench import Bench
from ..cells import Cell, each_once
from ..draw_cells import draw_cell, draw_key
from ..intervals import ScoreRows, average, bootstrap, bootstrap_difference
from ..learners import LEARNERS
from ..measures import confusion, forgetting_matrix
from ..scoring import Scores, by_prompt
from ..sizes import Sizes
from ..systems import System

MEASURES = ("ia", "ta", "dino")


def main_cells(bench: Bench, systems: Sequence[System]) -> list[Cell]:
    """Everything behind the table of single concepts and the forgetting matrices."""
    parts: list[list[Cell]] = []
    for order in bench.suite.orders:
        learners = dict.fromkeys(system.learner for system in systems)
        chains = [bench.train_cells(LEARNERS[name], order) for name in learners]
        # Chains side by side: a second process finds a free one at once.
        parts.append([cell for row in zip(*chains, strict=True) for cell in row])
        parts += [list(_triangle(bench, system, order)) for system in systems]
    return each_once(*parts)


def _triangle(bench: Bench, system: System, order: Sequence[int]) -> Iterator[Cell]:
    """The lower triangle: each concept after its own task and after every later one."""
    for count in range(len(order), 0, -1):  # the last row has the most pictures: others reuse them
        for position in range(count):
            if images := images_at(bench.sizes, system, count, position, len(order)):
                index = order[position]
                yield draw_cell(bench, system, order, count, index, bench.sizes.prompts, images)


def images_at(sizes: Sizes, system: System, count: int, position: int, tasks: int) -> int:
    """Pictures per prompt of the concept at a position once `count` tasks are learned."""
    if count == tasks:
        return sizes.images
    if position == count - 1:
        return sizes.own_images
    return sizes.row_images if system.rows else 0


# What they say --------------------------------------------------------------------------------


def main_results(bench: Bench, systems: Sequence[System]) -> dict[str, Any]:
    """Scores of all systems, their distance from the oracle, and what each forgets."""
    found = {system.name: _system(bench, system) for system in systems}
    if "oracle" in found:
        best = found["oracle"]["by_prompt"]
        for row in found.values():
            row["oracle_gap"] = {
                measure: _difference(bench, best[measure], row["by_prompt"][measure])
                for measure in best
            }
    return found


def _system(bench: Bench, system: System) -> dict[str, Any]:
    final = [_final(bench, system, order) for order in bench.suite.orders]
    measures = [m for m in MEASURES if all(getattr(s, m)[0] for row in final for s in row)]
    orders = {m: [[by_prompt(getattr(s, m)) for s in row] for row in final] for m in measures}
    mean = {m: np.mean(np.stack([_ragged(o) for o in orders[m]]), axis=0) for m in measures}
    rows: dict[str, ScoreRows] = {m: _unragged(mean[m], orders[m][0]) for m in measures}
    names = [task.name for task in bench.suite.tasks]
    return {
        "label": system.label,
        "scores": {m: bootstrap(rows[m], _categories(bench)).to_dict() for m in measures},
        "orders": {m: [average(map(average, each)) for each in orders[m]] for m in measures},
        "concepts": {
            name: {m: average(rows[m][k]) for m in measures} for k, name in enumerate(names)
        },
        "confusion": _confusion(bench, final),
        "copies": _copies(bench, final),
        "forgetting": _forgetting(bench, system),
        "by_prompt": rows,
    }


def _final(bench: Bench, system: System, order: Sequence[int]) -> list[Scores]:
    """Scores of each task, in the suite's order, after the last task of a learning order."""
    count = len(order)
    keys = [draw_key(bench, system, order, count, index) for index in range(count)]
    return [bench.scores(key) for key in keys]


def _ragged(rows: ScoreRows) -> Any:
    """All values of all concepts in one line: tasks may have different numbers of prompts."""
    return np.asarray([value for row in rows for value in row])


def _unragged(flat: Any, like: ScoreRows) -> ScoreRows:
    ends = np.cumsum([len(row) for row in like])
    return [[float(v) for v in part] for part in np.split(flat, ends[:-1])]


def _categories(bench: Bench) -> list[tuple[str, ...]]:
    """Concepts with the same prompts share their draws."""
    return [task.prompts for task in bench.suite.tasks]


def _difference(bench: Bench, first: ScoreRows, second: ScoreRows) -> dict[str, float]:
    return bootstrap_difference(first, second, _categories(bench)).to_dict()


def _confusion(bench: Bench, final: Sequence[Sequence[Scores]]) -> dict[str, Any]:
    asked: list[int] = []
    nearest: list[int] = []
    for row in final:
        for index, scores in enumerate(row):
            flat = [int(value) for each in scores.nearest for value in each]
            asked += [index] * len(flat)
            nearest += flat
    names = [task.name for task in bench.suite.tasks]
    return confusion(names, asked, nearest)


def _copies(bench: Bench, final: Sequence[Sequence[Scores]]) -> dict[str, float]:
    """Share of pictures nearer to a photo than any two photos are to each other."""
    shares: dict[str, list[float]] = {"clip": [], "pixels": [], "both": []}
    for row in final:
        for index, scores in enumerate(row):
            alike, same = bench.judge.natural(index)
            near = np.asarray(scores.copy) > alike
            equal = np.asarray(scores.pixel) > same
            shares["clip"].append(float(near.mean()))
            shares["pixels"].append(float(equal.mean()))
            shares["both"].append(float((near & equal).mean()))
    return {key: average(values) for key, values in shares.items()}


# Forgetting -----------------------------------------------------------------------------------


def _forgetting(bench: Bench, system: System) -> dict[str, Any]:
    """A matrix per order, from the first pictures of every cell, and what is kept on the whole."""
    matrices = [_matrix(bench, system, order) for order in bench.suite.orders]
    kept = [_kept(bench, system, order) for order in bench.suite.orders]
    retention = [value for order in kept for value in order]
    found: dict[str, Any] = {"matrices": matrices}
    if retention:
        found |= {"retention": average(retention), "lowest_retention": min(retention)}
    return found


def _matrix(bench: Bench, system: System, order: Sequence[int]) -> dict[str, object]:
    sizes, total = bench.sizes, len(order)
    cells: dict[tuple[int, int], float] = {}
    for count in range(1, total + 1):
        for position in range(count):
            if images_at(sizes, system, count, position, total):
                key = draw_key(bench, system, order, count, order[position])
                # The same pictures everywhere, so that differences are paired.
                scores = bench.scores(key, sizes.row_images or sizes.own_images)
                cells[count - 1, position] = average(by_prompt(scores.ia))
    return forgetting_matrix([bench.suite.tasks[k].name for k in order], cells)


def _kept(bench: Bench, system: System, order: Sequence[int]) -> list[float]:
    """Of each concept but the last: IA after the last task as a share of IA after its own.

    From as many pictures as the own-training cells have.
    """
    total = len(order)
    shares: list[float] = []
    for position in range(total - 1):
        own = bench.scores(draw_key(bench, system, order, position + 1, order[position]))
        last = draw_key(bench, system, order, total, order[position])
        final = bench.scores(last, own.images)
        shares.append(average(by_prompt(final.ia)) / average(by_prompt(own.first(final.images).ia)))
    return shares
