"""The cell that draws and scores one concept, which most parts are made of."""

from __future__ import annotations

from collections.abc import Sequence

from cidm_core.storage.names import file_stem

from .bench import Bench, order_name
from .cells import Cell, Result
from .learners import LEARNERS, Learner
from .systems import SYSTEMS, System

SECONDS = 0.0065  # per picture and step on mini-sd; only the ratio to training matters


def draw_key(
    bench: Bench, system: System, order: Sequence[int], count: int, index: int, tag: str = ""
) -> str:
    """Of the pictures of one concept once the first `count` tasks of an order are learned."""
    task = file_stem(bench.suite.tasks[index].name)
    who = f"{bench.name}{tag}/{file_stem(system.name)}"
    return f"draw/{who}/{order_name(order)}/after-{count:02}/{task}"


def draw_cell(
    bench: Bench,
    system: System,
    order: Sequence[int],
    count: int,
    index: int,
    prompts: int,
    images: int,
    tag: str = "",
    learner: Learner | None = None,
) -> Cell:
    """Draw and score one concept once the first `count` tasks of an order are learned.

    Args:
        bench: Model, sizes, results.
        system: Who draws.
        order: Indices of the tasks.
        count: How many of them are learned.
        index: Of the task asked for.
        prompts: At most this many.
        images: Per prompt.
        tag: Tells apart what else differs.
        learner: Instead of the system's own.
    """
    taught = learner or LEARNERS[system.learner]

    def work() -> Result:
        return bench.draw(system, bench.learned(taught, order, count), index, prompts, images)

    needs = tuple(bench.train_key(taught, order, k) for k in range(count))
    pictures = images * min(prompts, len(bench.suite.tasks[index].prompts))
    weight = SECONDS * bench.sampling({}).steps * pictures
    if system.drawn is not SYSTEMS["ours"].drawn:
        weight *= count  # LoRA-Composite asks the model once per concept
    return Cell(draw_key(bench, system, order, count, index, tag), work, needs, weight)
