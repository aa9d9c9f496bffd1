"""The cells of the main run: what is trained, drawn and scored, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cidm_core.storage.names import file_stem

from .bench import Bench
from .cells import Cell, Result, each_once
from .sizes import Sizes, spread
from .suite import Suite
from .systems import RECIPES, SYSTEMS, Recipe, System

SECONDS = 0.0065  # per picture and step on mini-sd; only the ratio to training matters


def restricted(suite: Suite, sizes: Sizes) -> Suite:
    """The part of a suite that takes part: fewer tasks, orders and scenes."""
    everything = range(len(suite.tasks))
    kept = [k for k in (sizes.tasks or everything) if k in everything]
    tasks = tuple(suite.tasks[k] for k in kept)
    orders = [tuple(kept.index(k) for k in order if k in kept) for order in suite.orders]
    names = {task.name for task in tasks}
    scenes = [scene for scene in suite.scenes if {part.task for part in scene.parts} <= names]
    chosen = tuple(scenes[k] for k in spread(len(scenes), sizes.scenes))
    different = tuple(dict.fromkeys(orders))[: sizes.orders]
    return replace(suite, tasks=tasks, orders=different, scenes=chosen)


def order_name(order: Sequence[int]) -> str:
    return "-".join(str(index) for index in order)


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
    recipe: Recipe | None = None,
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
        recipe: Instead of the system's own.
    """
    taught = recipe or RECIPES[system.recipe]

    def work() -> Result:
        return bench.draw(system, bench.learned(taught, order, count), index, prompts, images)

    needs = tuple(bench.train_key(taught, order, k) for k in range(count))
    pictures = images * min(prompts, len(bench.suite.tasks[index].prompts))
    weight = SECONDS * bench.sampling({}).steps * pictures
    if system.drawn is not SYSTEMS["ours"].drawn:
        weight *= count  # LoRA-Composite asks the model once per concept
    return Cell(draw_key(bench, system, order, count, index, tag), work, needs, weight)


def main_cells(bench: Bench, systems: Sequence[System]) -> list[Cell]:
    """Everything behind the table of single concepts and the forgetting matrices."""
    parts: list[list[Cell]] = []
    for order in bench.suite.orders:
        recipes = dict.fromkeys(system.recipe for system in systems)
        chains = [bench.train_cells(RECIPES[name], order) for name in recipes]
        # Chains side by side: a second process finds a free one at once.
        parts.append([cell for row in zip(*chains, strict=True) for cell in row])
        parts += [list(_matrix(bench, system, order)) for system in systems]
    return each_once(*parts)


def _matrix(bench: Bench, system: System, order: Sequence[int]) -> Iterator[Cell]:
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
