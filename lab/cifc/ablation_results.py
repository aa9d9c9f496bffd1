"""What each change does to the default's scores, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from .ablations import (
    MISSING,
    REGIONS,
    RULES,
    TRAINING,
    WEIGHTS,
    region_cells,
    task_order,
    training_cells,
    weight_cells,
)
from .bench import Bench
from .cells import Cell
from .intervals import Rows, bootstrap, bootstrap_difference
from .scenes import scene_scores
from .scoring import by_prompt

ReadScores = Callable[[Sequence[Cell]], dict[str, Rows]]


def ablation_results(bench: Bench) -> dict[str, Any]:
    """By group: for each change its scores, and its distance from the default."""
    prompts = [bench.suite.tasks[index].prompts for index in task_order(bench)]

    def single(cells: Sequence[Cell]) -> dict[str, Rows]:
        held = [bench.scores(cell.key) for cell in cells]
        return {m: [by_prompt(getattr(each, m)) for each in held] for m in ("ia", "ta")}

    def multi(cells: Sequence[Cell]) -> dict[str, Rows]:
        held = [scene_scores(bench.board.read(cell.key)) for cell in cells]
        return {m: [[each[m] for each in held]] for m in ("present", "swapped", "ia", "ta")}

    found = {
        f"training, {rule.label}": _compared(training_cells(bench, rule), single, prompts)
        for rule in RULES
    }
    found["weights"] = _compared(weight_cells(bench), single, prompts)
    if bench.suite.scenes:
        found["regions"] = _compared(region_cells(bench), multi)
    return {"groups": found, "missing": dict(MISSING)}


def _compared(
    changes: Mapping[str, Sequence[Cell]],
    read: ReadScores,
    categories: Sequence[Hashable] | None = None,
) -> list[dict[str, object]]:
    """One row per change, the default first."""
    notes = {change.name: change.note for change in (*TRAINING, *WEIGHTS, *REGIONS)}
    default: dict[str, Rows] = {}
    rows: list[dict[str, object]] = []
    for name, cells in changes.items():
        scores = read(cells)
        default = default or scores
        row: dict[str, object] = {"name": name, "note": notes.get(name, "")}
        for measure, values in scores.items():
            row[measure] = bootstrap(values, categories).to_dict()
            gap = bootstrap_difference(values, default[measure], categories)
            row[f"{measure}_change"] = gap.to_dict()
        rows.append(row)
    return rows
