"""Several concepts in one picture, each in its box: cells and what was found in the boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cidm_core.concept import Concept
from cidm_core.storage.names import file_stem

from ..bench import Bench, order_name
from ..cells import Cell, Result, each_once
from ..draw_cells import SECONDS
from ..intervals import average, bootstrap
from ..learners import LEARNERS
from ..systems import MULTI, MultiSystem
from ..tasks.suite import SuiteScene

_SEEDS_PER_ORDER = 100  # more than there are pictures of a scene
_DIGITS = 4


def scene_key(bench: Bench, system: MultiSystem, order: Sequence[int], number: int) -> str:
    return f"scenes/{bench.name}/{file_stem(system.name)}/{order_name(order)}/{number:02}"


def multi_cells(bench: Bench) -> list[Cell]:
    """Scenes drawn in every way from the bank of `ours` after its last task."""
    if not bench.suite.scenes:
        return []
    numbers, images = range(len(bench.suite.scenes)), bench.sizes.scene_images
    parts: list[list[Cell]] = []
    for order in bench.suite.orders:
        parts.append(bench.train_cells(LEARNERS["ours"], order))
        parts += [scene_cells(bench, each, order, numbers, images) for each in MULTI.values()]
    return each_once(*parts)


def scene_cells(
    bench: Bench,
    system: MultiSystem,
    order: Sequence[int],
    numbers: Sequence[int],
    images: int,
) -> list[Cell]:
    """Some of the suite's scenes, drawn in one way from the bank that an order leads to."""
    return [_cell(bench, system, order, number, images) for number in numbers]


def _cell(
    bench: Bench, system: MultiSystem, order: Sequence[int], number: int, images: int
) -> Cell:
    learner, scene = LEARNERS["ours"], bench.suite.scenes[number]
    key = scene_key(bench, system, order, number)

    def work() -> Result:
        learned = bench.learned(learner, order, len(order))
        bank = {concept.name: concept for concept in learned}
        # Where the order changes nothing in the bank, other seeds still show more pictures.
        seed = _SEEDS_PER_ORDER * bench.suite.orders.index(tuple(order))
        return _draw(bench, system, bank, number, images, key, seed)

    needs = tuple(bench.train_key(learner, order, k) for k in range(len(order)))
    rows = 2 + (len(scene.parts) if system.sampling.get("noise_estimation", True) else 0)
    side = bench.base.family.resolution_px
    area = (scene.width_px or side) * (scene.height_px or side) / side**2
    weight = SECONDS * bench.sampling({}).steps * images * area * rows / 2
    return Cell(key, work, needs, weight)


def _draw(
    bench: Bench,
    system: MultiSystem,
    bank: Mapping[str, Concept],
    number: int,
    images: int,
    key: str,
    more_seed: int,
) -> Result:
    """Cosines of each box of each picture with each task's photos, and TA of each picture."""
    scene = bench.suite.scenes[number]
    size = {"width_px": scene.width_px, "height_px": scene.height_px}
    config = bench.sampling({"num_images": images, **size}, number)
    config = replace(config, seed=config.seed + more_seed)
    pictures = system.draw(bench.base, bank, scene.prompt, scene.regions, config)
    bench.keep(pictures[:1], stem_of(key))
    cosines: Any = bench.judge.places(scene.regions, pictures).double()
    return {
        "own": own_of(bench, scene),
        "cosines": [[[round(v, _DIGITS) for v in row] for row in one] for one in cosines.tolist()],
        "ta": bench.judge.text_scores(pictures, bench.suite.plain(scene.prompt)),
    }


def stem_of(key: str) -> str:
    """Of a scene's kept picture."""
    return key.replace("/", "_")


def own_of(bench: Bench, scene: SuiteScene) -> list[int]:
    """Index of the task that belongs into each box."""
    return [bench.judge.index(part.task) for part in scene.parts]


def scene_scores(cell: Mapping[str, Any]) -> dict[str, float]:
    """What one scene's cell says, as means over its boxes and pictures.

    `present`: the box is nearest to its own concept's photos, of all tasks. `among`: of the
    concepts that the scene asks for. `swapped`: it is nearer to another of these.
    `all_present`: every box of a picture holds its own concept. `ia`: cosine with its own photos.
    """
    own: list[int] = cell["own"]
    present: list[float] = []
    among: list[float] = []
    whole: list[float] = []
    ia: list[float] = []
    for picture in cell["cosines"]:
        found = [row[k] >= max(row) for row, k in zip(picture, own, strict=True)]
        right = [row[k] >= max(row[j] for j in own) for row, k in zip(picture, own, strict=True)]
        present += found
        among += right
        whole.append(all(found))
        ia += [row[k] for row, k in zip(picture, own, strict=True)]
    return {
        "present": average(present),
        "among": average(among),
        "swapped": 1 - average(among),
        "all_present": average(whole),
        "ia": average(ia),
        "ta": average(cell["ta"]),
    }


def multi_results(bench: Bench) -> dict[str, Any]:
    """For each way of drawing: presence and the rest, by number of concepts and over all."""
    found: dict[str, Any] = {}
    for system in MULTI.values():
        groups: dict[str, list[list[dict[str, float]]]] = defaultdict(list)
        for number, scene in enumerate(bench.suite.scenes):
            keys = [scene_key(bench, system, order, number) for order in bench.suite.orders]
            each = [scene_scores(bench.board.read(key)) for key in keys]
            groups[str(len(scene.parts))].append(each)
            groups["all"].append(each)
        found[system.name] = {
            "label": system.label,
            "concepts": {name: _summary(groups[name]) for name in sorted(groups)},
        }
    return found


def _summary(scenes: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Intervals over scenes of means over orders."""
    names = scenes[0][0]
    rows = {name: [average(each[name] for each in scene) for scene in scenes] for name in names}
    return {"scenes": len(scenes), **{n: bootstrap([rows[n]]).to_dict() for n in names}}
