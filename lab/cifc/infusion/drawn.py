"""What every way draws of each concept, how that is scored, and how much the concept over-fits."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from cidm_core.concept import Concept
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.diffusers_host.prior import class_prompt
from cidm_core.evaluation.drawing import pictures_of
from cidm_core.evaluation.encoders import Encoder
from cidm_core.evaluation.intervals import measured
from cidm_core.evaluation.over_fitting import OverFittings
from cidm_core.evaluation.prompts import fill, write_back
from cidm_core.ops.overfitting import gaussian_distance
from cidm_core.regions import Region
from cidm_core.storage.concept_file import file_tensors
from cidm_core.storage.names import file_stem

from ..bench import Bench
from ..cells import Cell, Result, each_once
from ..sizes import spread
from ..tasks.suite import Naming, SuiteTask
from .ways import WAYS, Lessons, Way

PERFECT = "perfect"
_HALVES = {"left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 1.0, 1.0)}


@dataclass(frozen=True)
class Drawing:
    """The work, cell by cell.

    Attributes:
        bench: Model, judge, suite, sizes, results, seed.
        lessons: What is drawn with.
        clip: The encoder that measures.
        count: Pictures of each kind that tell of over-fitting.
        both_images: Pictures of two concepts at once.
        ways: Which are compared.
    """

    bench: Bench
    lessons: Lessons
    clip: Encoder
    count: int
    both_images: int
    ways: Sequence[Way] = tuple(WAYS.values())

    @cached_property
    def _fitting(self) -> OverFittings:
        return OverFittings(self.bench.base, self.clip, self.count, self.bench.sampling({}))

    def cells(self) -> list[Cell]:
        """All work: learning, drawing, measuring."""
        tasks = range(len(self.bench.suite.tasks))
        perfect = [Cell(self.draw_key(PERFECT, k), lambda k=k: self._perfect(k)) for k in tasks]
        return each_once(perfect, *(self._cells_of(way) for way in self.ways))

    def _cells_of(self, way: Way) -> list[Cell]:
        cells: list[Cell] = []
        for k, task in enumerate(self.bench.suite.tasks):
            needs = (self.learn_key(way, task),) if way.lesson else ()
            cells += [
                Cell(key, lambda task=task: _size(way.concept(self.lessons, task))) for key in needs
            ]
            cells.append(Cell(self.draw_key(way.name, k), lambda k=k: self._draw(way, k), needs))
            if way.lesson:
                cells.append(Cell(self.fit_key(way, k), lambda k=k: self._fit(way, k), needs))
        needs = tuple(cell.key for cell in cells if cell.kind == "learn")
        if way.lesson and len(self.pair) == 2:
            cells.append(Cell(self.both_key(way), lambda: self._both(way), needs))
        return cells

    # One concept ------------------------------------------------------------------------------

    def prompts(self, task: SuiteTask, naming: Naming) -> list[str]:
        """What is asked of a task, in a way's words."""
        chosen = spread(len(task.prompts), self.bench.sizes.prompts)
        return [fill(task.prompts[k], naming) for k in chosen]

    def _draw(self, way: Way, index: int) -> Result:
        """One concept by the prompts of its task."""
        bench, task = self.bench, self.bench.suite.tasks[index]
        naming = Naming((way.subject(task),))
        prompts, images = self.prompts(task, naming), bench.sizes.images
        bank = way.bank(self.lessons, task)
        config = way.asking(bench.sampling({"num_images": images}, index), bank)
        count = max(1, bench.sizes.at_once // images)
        groups = [prompts[n : n + count] for n in range(0, len(prompts), count)]
        pictures = [p for some in groups for p in generate(bench.base, bank, some, (), config)]
        texts = [write_back(prompt, [naming]) for prompt in prompts]
        return self._scored(way.name, index, pictures, texts)

    def _scored(
        self, name: str, index: int, pictures: Sequence[Image.Image], texts: Sequence[str]
    ) -> Result:
        task, stem = self.bench.suite.tasks[index], f"{name}-{index}"
        self.bench.keep(pictures[:: self.bench.sizes.images], stem)
        known = self._features(self._perfect_pictures(index, "known"))
        astray = measured(gaussian_distance, self._features(pictures), known, biased=True)
        scores = self.bench.judge.score(task, pictures, texts).to_dict()
        return {"content": stem, "astray": asdict(astray), **scores}

    def _perfect(self, index: int) -> Result:
        """The same of what the prompts ask for, and its distance from the model's class."""
        task, bench = self.bench.suite.tasks[index], self.bench
        naming = Naming((WAYS["none"].subject(task),))
        texts, config = self.prompts(task, naming), bench.sampling({})
        scores = self._scored(PERFECT, index, self._perfect_pictures(index, "shown"), texts)
        plain = class_prompt(task.class_words, task.kind)
        numbers = range(self.count)
        drawn = pictures_of(bench.base, {}, plain, numbers, config, lambda _: None)
        assert bench.suite.perfect is not None
        rng, asked = random.Random(f"{bench.seed} {task.name} class"), "a photo of a <TOK>"
        shown = [bench.suite.perfect(task, asked, rng) for _ in numbers]
        found = measured(
            gaussian_distance, self._features(drawn), self._features(shown), biased=True
        )
        return {**scores, "wasserstein": asdict(found)}

    def _perfect_pictures(self, index: int, use: str) -> list[Image.Image]:
        """What the prompts of a task ask for, drawn by the small world itself."""
        bench, task = self.bench, self.bench.suite.tasks[index]
        assert bench.suite.perfect is not None
        rng = random.Random(f"{bench.seed} {task.name} {use}")
        return [
            bench.suite.perfect(task, task.prompts[k], rng)
            for k in spread(len(task.prompts), bench.sizes.prompts)
            for _ in range(bench.sizes.images)
        ]

    def _features(self, pictures: Sequence[Image.Image]) -> Tensor:
        return normalize(self.clip.images(pictures).double().cpu(), dim=-1)

    def _fit(self, way: Way, index: int) -> Result:
        """How much a concept over-fits."""
        task = self.bench.suite.tasks[index]
        # What the model draws alone is the same for all ways.
        fitting = replace(self._fitting, config=self.bench.sampling(way.sampling))
        photos = [photo.image for photo in task.photos]
        return asdict(fitting.of(way.concept(self.lessons, task), photos, lambda _: None))

    # Two concepts -----------------------------------------------------------------------------

    @property
    def pair(self) -> list[SuiteTask]:
        """The first two tasks of different classes."""
        tasks = self.bench.suite.tasks
        others = [each for each in tasks if each.class_words != tasks[0].class_words]
        return [tasks[0], *others[:1]]

    def both_prompt(self, way: Way) -> str:
        """Asks for both tasks of the pair."""
        one, other = (Naming((way.subject(task),)).phrase for task in self.pair)
        return f"a {one} on the left and a {other} on the right"

    def _both(self, way: Way) -> Result:
        """Two concepts of different classes in one picture, without regions."""
        bench, stem = self.bench, f"{way.name}-both"
        bank: Mapping[str, Concept] = {
            name: each for task in self.pair for name, each in way.bank(self.lessons, task).items()
        }
        config = way.asking(bench.sampling({"num_images": self.both_images}), bank)
        pictures = generate(bench.base, bank, self.both_prompt(way), (), config)
        bench.keep(pictures, stem)
        halves = [Region(f"a {side} half", box) for side, box in _HALVES.items()]
        nearest = bench.judge.places(halves, pictures).argmax(2).tolist()
        own = [bench.judge.index(task.name) for task in self.pair]
        return {"content": stem, "both": [row == own for row in nearest]}

    # Keys -------------------------------------------------------------------------------------

    def learn_key(self, way: Way, task: SuiteTask) -> str:
        """Of what one task took to learn; ways that differ in drawing alone share it."""
        return f"learn/{way.lesson}/{self.bench.seed}-{file_stem(task.name)}"

    def draw_key(self, name: str, index: int) -> str:
        """Of the scores of a task's pictures."""
        return f"draw/{name}/{self.bench.seed}-{index}"

    def fit_key(self, way: Way, index: int) -> str:
        """Of how much a task's concept over-fits."""
        return f"fit/{way.name}/{self.bench.seed}-{index}"

    def both_key(self, way: Way) -> str:
        """Of pictures of two concepts."""
        return f"both/{way.name}/{self.bench.seed}"


def _size(concept: Concept) -> Result:
    held = file_tensors(concept).values()
    return {
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in held),
        "steps": concept.facts.get("steps"),
    }
