"""What is drawn by every way of teaching, and how it is scored: concepts, pairs, plain classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.evaluation.drift import ClassDrift
from cidm_core.evaluation.prompts import fill, write_back
from cidm_core.storage.concept_file import file_tensors
from cidm_core.storage.names import file_stem

from ..bench import Bench
from ..cells import Cell, Result, each_once
from ..parts.scenes import own_of
from ..sizes import spread
from ..systems import MULTI
from ..tasks.suite import Naming, SuiteScene, SuiteTask
from .ways import WAYS, Taught, Way, nameless

REGIONS = ("none", "both")  # of `MULTI`: by the prompt alone, and each concept in its box
_DIGITS = 4


@dataclass(frozen=True)
class Drawing:
    """How much is drawn, of what one seed has taught.

    Attributes:
        bench: Model, judge, suite, sizes, results, seed.
        taught: What is drawn with.
        pair_images: Pictures of each pair of look-alikes.
        drift: Tells what became of plain classes; None: that is not asked.
        ways: Which are compared.
    """

    bench: Bench
    taught: Taught
    pair_images: int
    drift: ClassDrift | None = None
    ways: Sequence[Way] = tuple(WAYS.values())

    @property
    def pairs(self) -> list[SuiteScene]:
        """The scenes that ask for two concepts of one class, and nothing else."""
        return [scene for scene in self.bench.suite.scenes if self._alike(scene)]

    def _alike(self, scene: SuiteScene) -> bool:
        classes = [self.bench.suite.task(part.task).class_words for part in scene.parts]
        return len(classes) == 2 and len(set(classes)) == 1

    def twin(self, task: SuiteTask) -> int | None:
        """Index of the task of the same class, if there is one."""
        for index, other in enumerate(self.bench.suite.tasks):
            if other.name != task.name and other.class_words == task.class_words:
                return index
        return None

    def cells(self) -> list[Cell]:
        """All work: learning, making, drawing."""
        return each_once(*(self._cells_of(way) for way in self.ways))

    def _cells_of(self, way: Way) -> list[Cell]:
        learned: list[Cell] = []
        for name, make in way.needs(self.taught).items():
            # What is made of concepts follows them; the order of the ways sees to it.
            learned.append(Cell(self.learn_key(name), lambda make=make: _size(make())))
        needs = tuple(cell.key for cell in learned)
        tasks = range(len(self.bench.suite.tasks))
        cells = [
            Cell(self.single_key(way, k), lambda k=k: self._single(way, k), needs) for k in tasks
        ]
        if not needs:
            return cells
        cells += [
            Cell(self.pair_key(way, mode, n), lambda m=mode, n=n: self._pair(way, m, n), needs)
            for mode in REGIONS
            for n in range(len(self.pairs))
        ]
        cells += [
            Cell(self.drift_key(way, task), lambda task=task: self._drift(way, task), needs)
            for task in self.bench.suite.tasks
            if self.drift is not None
        ]
        return each_once(learned, cells)

    def _single(self, way: Way, index: int) -> Result:
        """One concept after another, by the prompts of its task."""
        bench, task = self.bench, self.bench.suite.tasks[index]
        naming = Naming((way.subject(task),))
        chosen = [task.prompts[k] for k in spread(len(task.prompts), bench.sizes.prompts)]
        prompts = [fill(prompt, naming) for prompt in chosen]
        config = bench.sampling({"num_images": bench.sizes.images}, index)
        pictures = self._draw(way, prompts, config)
        bench.keep(pictures[:: bench.sizes.images], self.single_stem(way, task))
        texts = [write_back(prompt, [naming]) for prompt in prompts]
        return bench.judge.score(task, pictures, texts).to_dict()

    def _draw(self, way: Way, prompts: Sequence[str], config: SampleConfig) -> list[Image.Image]:
        bank, count = way.bank(self.taught), max(1, self.bench.sizes.at_once // config.num_images)
        groups = [prompts[k : k + count] for k in range(0, len(prompts), count)]
        return [
            picture
            for group in groups
            for picture in generate(self.bench.base, bank, group, (), config)
        ]

    def _pair(self, way: Way, mode: str, number: int) -> Result:
        """Two look-alikes in one picture, each looked for in its box."""
        bench, scene = self.bench, self._renamed(way, self.pairs[number])
        config = bench.sampling({"num_images": self.pair_images}, number)
        pictures = MULTI[mode].draw(
            bench.base, way.bank(self.taught), scene.prompt, scene.regions, config
        )
        bench.keep(pictures, self.pair_stem(way, mode, number))
        cosines: Any = bench.judge.places(scene.regions, pictures).double()
        plain = bench.suite.plain(self.pairs[number].prompt)
        return {
            "own": own_of(bench, scene),
            "cosines": [[[round(v, _DIGITS) for v in row] for row in p] for p in cosines.tolist()],
            "ta": bench.judge.text_scores(pictures, plain),
        }

    def _renamed(self, way: Way, scene: SuiteScene) -> SuiteScene:
        """The scene as a way names its concepts."""
        tasks = [self.bench.suite.task(part.task) for part in scene.parts]
        table = {task.trigger: Naming((way.subject(task),)).phrase for task in tasks}
        parts = tuple(
            replace(part, region=replace(part.region, prompt=_replaced(part.region.prompt, table)))
            for part in scene.parts
        )
        return replace(scene, prompt=_replaced(scene.prompt, table), parts=parts)

    def _drift(self, way: Way, task: SuiteTask) -> Result:
        """How far the plain class is carried off by the weights of what knows the task."""
        assert self.drift is not None
        concepts = way.bank(self.taught)
        held = concepts.get(task.name) or next(iter(concepts.values()))
        plain = replace(held, subjects=(nameless(task),), rows={})
        return {"drift": self.drift.of(plain, lambda _: None)["class_drift_merged"]}

    def learn_key(self, name: str) -> str:
        """Of a piece of `Way.needs`: how large it is, and what it took."""
        return f"learn/{name.partition('/')[0]}/{self.bench.seed}-{file_stem(name)}"

    def single_key(self, way: Way, index: int) -> str:
        """Of the scores of a task's pictures."""
        return f"draw/{way.name}/{self.bench.seed}-{index}"

    def pair_key(self, way: Way, mode: str, number: int) -> str:
        """Of the scores of a pair's pictures."""
        return f"pairs/{way.name}/{self.bench.seed}-{mode}-{number}"

    def drift_key(self, way: Way, task: SuiteTask) -> str:
        """Of what became of a task's class; what one concept knows of a class is told once."""
        name = task.class_words if len(way.needs(self.taught)) == 1 else task.name
        return f"drift/{way.name}/{self.bench.seed}-{file_stem(name)}"

    def single_stem(self, way: Way, task: SuiteTask) -> str:
        """Of a task's kept pictures."""
        return f"{self.bench.seed}-{way.name}-{file_stem(task.name)}"

    def pair_stem(self, way: Way, mode: str, number: int) -> str:
        """Of a pair's kept pictures."""
        return f"{self.bench.seed}-{way.name}-{mode}-{number}"


def _replaced(text: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        text = text.replace(old, new)
    return text


def _size(concept: Any) -> Result:
    held = file_tensors(concept).values()
    facts = {key: concept.facts.get(key) for key in ("steps", "final_loss", "residual")}
    return {**facts, "bytes": sum(t.numel() * t.element_size() for t in held)}
