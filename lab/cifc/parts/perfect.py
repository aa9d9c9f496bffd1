"""What perfect pictures score: the reference point that no model is needed for.

Without it nobody can tell a text alignment that a picture earned from one that it got for not
showing the concept.
"""

from __future__ import annotations

import random
from statistics import mean
from typing import Any

from cidm_core.storage.names import file_stem

from ..bench import Bench
from ..cells import Cell, Result
from ..scoring import Scores, by_prompt, intervals
from ..sizes import spread

LABEL = "Perfect pictures (no model)"


def perfect_cells(bench: Bench) -> list[Cell]:
    """One per task; none if the suite cannot draw what it asks for."""
    if bench.suite.perfect is None:
        return []
    return [Cell(_key(bench, k), _scored(bench, k)) for k in range(len(bench.suite.tasks))]


def perfect_results(bench: Bench) -> dict[str, Any]:
    """Scores over all tasks, and of each; nothing if there are no such pictures."""
    if bench.suite.perfect is None:
        return {}
    tasks = bench.suite.tasks
    held = [Scores(**bench.board.read(_key(bench, k))["scores"]) for k in range(len(tasks))]
    return {
        "label": LABEL,
        "scores": intervals(held, tasks),
        "concepts": {
            task.name: {m: mean(by_prompt(getattr(each, m))) for m in ("ia", "ta")}
            for task, each in zip(tasks, held, strict=True)
        },
    }


def _key(bench: Bench, index: int) -> str:
    return f"perfect/{bench.name}/{file_stem(bench.suite.tasks[index].name)}"


def _scored(bench: Bench, index: int) -> Any:
    task, sizes = bench.suite.tasks[index], bench.sizes
    chosen = spread(len(task.prompts), sizes.prompts)

    def work() -> Result:
        assert bench.suite.perfect is not None
        rng = random.Random(f"{bench.seed} {task.name}")
        pictures = [
            bench.suite.perfect(task, task.prompts[k], rng)
            for k in chosen
            for _ in range(sizes.images)
        ]
        scores = bench.judge.score(task, pictures, [task.plain[k] for k in chosen])
        return {"scores": scores.to_dict()}

    return work
