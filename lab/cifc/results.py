"""From cells to figures: what the tables, the plots and `results.json` show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .bench import Bench
from .cells import Cell
from .intervals import Rows, bootstrap, bootstrap_difference
from .long_run import FROM_ONE_BANK, ORACLE, Point, long_key, long_points
from .measures import confusion, forgetting_matrix
from .scenes import scene_key, scene_scores
from .scoring import Scores, by_prompt, intervals
from .systems import MULTI, MultiSystem, System
from .worklist import draw_key, images_at

_Cost = tuple[float, float]  # seconds of one process, and of its processor
MEASURES = ("ia", "ta", "dino")


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
    rows: dict[str, Rows] = {m: _unragged(mean[m], orders[m][0]) for m in measures}
    names = [task.name for task in bench.suite.tasks]
    return {
        "label": system.label,
        "scores": {m: bootstrap(rows[m], _categories(bench)).to_dict() for m in measures},
        "orders": {m: [_mean(map(_mean, each)) for each in orders[m]] for m in measures},
        "concepts": {
            name: {m: _mean(rows[m][k]) for m in measures} for k, name in enumerate(names)
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


def _ragged(rows: Rows) -> Any:
    """All values of all concepts in one line: tasks may have different numbers of prompts."""
    return np.asarray([value for row in rows for value in row])


def _unragged(flat: Any, like: Rows) -> Rows:
    ends = np.cumsum([len(row) for row in like])
    return [[float(v) for v in part] for part in np.split(flat, ends[:-1])]


def _categories(bench: Bench) -> list[tuple[str, ...]]:
    """Concepts with the same prompts share their draws."""
    return [task.prompts for task in bench.suite.tasks]


def _difference(bench: Bench, first: Rows, second: Rows) -> dict[str, float]:
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
    return {key: _mean(values) for key, values in shares.items()}


# Forgetting -----------------------------------------------------------------------------------


def _forgetting(bench: Bench, system: System) -> dict[str, Any]:
    """A matrix per order, from the first pictures of every cell, and what is kept on the whole."""
    matrices = [_matrix(bench, system, order) for order in bench.suite.orders]
    kept = [_kept(bench, system, order) for order in bench.suite.orders]
    retention = [value for order in kept for value in order]
    found: dict[str, Any] = {"matrices": matrices}
    if retention:
        found |= {"retention": _mean(retention), "lowest_retention": min(retention)}
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
                cells[count - 1, position] = _mean(by_prompt(scores.ia))
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
        shares.append(_mean(by_prompt(final.ia)) / _mean(by_prompt(own.first(final.images).ia)))
    return shares


# Several concepts, and many -------------------------------------------------------------------


def multi_results(
    bench: Bench, systems: Sequence[MultiSystem] = tuple(MULTI.values())
) -> dict[str, Any]:
    """For each way of drawing: presence and the rest, by number of concepts and over all."""
    found: dict[str, Any] = {}
    for system in systems:
        groups: dict[str, list[list[dict[str, float]]]] = defaultdict(list)
        for number, scene in enumerate(bench.suite.scenes):
            keys = [scene_key(bench, system, order, number) for order in bench.suite.orders]
            each = [scene_scores(bench.board.read(key)) for key in keys]
            groups[str(len(scene.parts))].append(each)
            groups["all"].append(each)
        found[system.name] = {
            "label": system.label,
            "concepts": {name: scenes_summary(groups[name]) for name in sorted(groups)},
        }
    return found


def scenes_summary(scenes: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Intervals over scenes of means over orders."""
    names = scenes[0][0]
    rows = {name: [_mean(each[name] for each in scene) for scene in scenes] for name in names}
    return {"scenes": len(scenes), **{n: bootstrap([rows[n]]).to_dict() for n in names}}


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


def _at_size(bench: Bench, system: System, points: Sequence[Point]) -> dict[str, Any]:
    order = bench.suite.orders[0]
    tasks = [bench.suite.tasks[order[point.position]] for point in points]
    categories = [task.prompts for task in tasks]

    def held(who: System) -> list[Scores]:
        return [bench.scores(long_key(bench, who, point)) for point in points]

    def likeness(who: System) -> Rows:
        return [by_prompt(scores.ia) for scores in held(who)]

    result: dict[str, Any] = {**intervals(held(system), tasks)}
    for name, oracle in (("oracle_gap", ORACLE), ("bank_gap", FROM_ONE_BANK[-1])):
        gap = bootstrap_difference(likeness(oracle), likeness(system), categories)
        result[name] = gap.to_dict()
    result["concepts"] = [task.name for task in tasks]
    return result


def seconds_of(bench: Bench, parts: Mapping[str, Sequence[Cell]]) -> dict[str, Any]:
    """What every part and every kind of work has cost; shared cells count for the first part."""
    everything: dict[str, _Cost] = {}
    found: dict[str, Any] = {}
    for part, cells in parts.items():
        new = {cell.key: _cost(bench, cell) for cell in cells if cell.key not in everything}
        found[part] = _total(new.values())
        everything |= new
    kinds: dict[str, list[_Cost]] = defaultdict(list)
    for key, cost in everything.items():
        work, _, of, *_ = key.split("/")
        kinds[work if work == "perfect" else f"{work} {of}"].append(cost)
    return {
        "parts": {**found, "all": _total(everything.values())},
        "work": {kind: _total(kinds[kind]) for kind in sorted(kinds)},
    }


def _cost(bench: Bench, cell: Cell) -> _Cost:
    result = bench.board.read(cell.key)
    return float(result.get("seconds") or 0.0), float(result.get("cpu_seconds") or 0.0)


def _total(costs: Collection[_Cost]) -> dict[str, float]:
    return {
        "cells": len(costs),
        "seconds": round(sum(cost[0] for cost in costs), 1),
        "cpu_seconds": round(sum(cost[1] for cost in costs), 1),
    }


def _mean(values: Iterable[float]) -> float:
    held = list(values)
    return float(sum(held) / len(held))
