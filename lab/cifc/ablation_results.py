"""What each change does to the default's scores, with paired intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .ablations import (
    DEFAULT,
    MISSING,
    RULES,
    VARIANTS,
    region_keys,
    region_systems,
    task_order,
    training_keys,
    training_variants,
    weight_keys,
    weight_systems,
)
from .bench import Bench
from .intervals import bootstrap, bootstrap_difference
from .scenes import scene_scores
from .scoring import by_prompt

Rows = list[list[float]]
_SINGLE = ("ia", "ta")
_MULTI = ("present", "swapped", "ia", "ta")


def ablation_results(bench: Bench) -> dict[str, Any]:
    """By group: for each variant its scores, and its distance from the default."""
    found: dict[str, Any] = {
        f"training, {rule.label}": _compared(
            bench,
            [(v.name, v.note, training_keys(bench, v, rule)) for v in training_variants()],
        )
        for rule in RULES
    }
    notes = {variant.name: variant.note for variant in VARIANTS}
    found["weights"] = _compared(
        bench,
        [
            (DEFAULT if k == 0 else system.name, notes.get(system.name, ""), keys)
            for k, system in enumerate(weight_systems())
            for keys in [weight_keys(bench, system)]
        ],
    )
    if bench.suite.scenes:
        found["regions"] = _regions(bench, notes)
    return {"groups": found, "missing": dict(MISSING)}


def _compared(
    bench: Bench, variants: Sequence[tuple[str, str, list[str]]]
) -> list[dict[str, object]]:
    categories = [bench.suite.tasks[index].prompts for index in task_order(bench)]
    default: dict[str, Rows] = {}
    rows: list[dict[str, object]] = []
    for name, note, keys in variants:
        held = [bench.scores(key) for key in keys]
        scores = {m: [by_prompt(getattr(each, m)) for each in held] for m in _SINGLE}
        default = default or scores
        row: dict[str, object] = {"name": name, "note": note}
        for measure in _SINGLE:
            row[measure] = bootstrap(scores[measure], categories).to_dict()
            gap = bootstrap_difference(scores[measure], default[measure], categories)
            row[f"{measure}_change"] = gap.to_dict()
        rows.append(row)
    return rows


def _regions(bench: Bench, notes: dict[str, str]) -> list[dict[str, object]]:
    default: dict[str, Rows] = {}
    rows: list[dict[str, object]] = []
    for system in region_systems():
        cells = [scene_scores(bench.board.read(key)) for key in region_keys(bench, system)]
        scores: dict[str, Rows] = {m: [[cell[m] for cell in cells]] for m in _MULTI}
        default = default or scores
        row: dict[str, object] = {"name": system.name, "note": notes.get(system.name, "")}
        for measure in _MULTI:
            row[measure] = bootstrap(scores[measure]).to_dict()
            gap = bootstrap_difference(scores[measure], default[measure])
            row[f"{measure}_change"] = gap.to_dict()
        rows.append(row)
    return rows
