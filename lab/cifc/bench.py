"""What every cell needs: the model, the judge, the sizes, and where concepts and scores lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from cidm_core.bank import Bank
from cidm_core.concept import Concept
from cidm_core.config import SampleConfig, TrainConfig
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.evaluation.prompts import fill, write_back
from cidm_core.methods import config_for
from cidm_core.pictures.files import save_picture
from cidm_core.pictures.sheets import enlarge
from cidm_core.storage.atomic import make_folder
from cidm_core.storage.names import file_stem
from cidm_core.training.progress import Progress

from .cells import Board, Cell, Result
from .learners import Learner, learn_task
from .scoring import Judge, Scores, content_key, digest
from .sizes import Sizes, spread
from .systems import SYSTEMS, System
from .tasks.suite import Suite, SuiteTask

THUMBNAILS = 4  # kept of each drawn concept, one per prompt
_THUMBNAIL_PX = 128
_SEEDS_PER_TASK = 1000


def order_name(order: Sequence[int]) -> str:
    """For keys and folders."""
    return "-".join(str(index) for index in order)


@dataclass
class Bench:
    """One run of the benchmark, as one process sees it.

    Attributes:
        base: The model.
        judge: Encoders and what they see in the photos.
        suite: Tasks, orders and scenes that take part.
        sizes: How much.
        board: Where results lie.
        name: Of the suite's part in all keys.
        seed: Of training and pictures.
        encoders: Name of CLIP and DINO, part of every score's name.
        on_step: Hears every training step.
    """

    base: Base
    judge: Judge
    suite: Suite
    sizes: Sizes
    board: Board
    name: str = "main"
    seed: int = 0
    encoders: str = ""
    on_step: Callable[[Progress], None] | None = None
    _concepts: dict[tuple[Path, str], Concept] = field(
        default_factory=dict[tuple[Path, str], Concept]
    )

    # Learning ---------------------------------------------------------------------------------

    def folder(self, learner: Learner, order: Sequence[int], task: SuiteTask) -> Path:
        """The bank a task is learned into; with an order-free learner every task has its own."""
        place = self.board.folder / "banks" / self.name / file_stem(learner.name)
        if learner.order_free:
            return place / "any" / file_stem(task.name)
        return place / order_name(order)

    def train_cells(self, learner: Learner, order: Sequence[int]) -> list[Cell]:
        """One cell per task; each waits for the one before, unless the learner is order-free."""
        cells: list[Cell] = []
        for position in range(len(order)):
            key = self.train_key(learner, order, position)
            needs = () if learner.order_free or not cells else (cells[-1].key,)
            task = self.suite.tasks[order[position]]
            steps = self.training.steps * self.training.batch_size
            cells.append(Cell(key, self._work(learner, order, task), needs, 0.03 * steps))
        return cells

    def train_key(self, learner: Learner, order: Sequence[int], position: int) -> str:
        task = file_stem(self.suite.tasks[order[position]].name)
        name = "any" if learner.order_free else order_name(order)
        return f"train/{self.name}/{file_stem(learner.name)}/{name}/{task}"

    @property
    def training(self) -> TrainConfig:
        overrides: dict[str, Any] = {"seed": self.seed, **self.sizes.training}
        return config_for("cidm", self.base.family, **overrides)

    def _work(
        self, learner: Learner, order: Sequence[int], task: SuiteTask
    ) -> Callable[[], Result]:
        def work() -> Result:
            folder = make_folder(self.folder(learner, order, task))
            concept = learn_task(
                self.base, learner, folder, task, self.training, on_progress=self.on_step
            )
            facts = {key: concept.facts.get(key) for key in ("steps", "final_loss")}
            return {**facts, "digest": digest(concept)}

        return work

    def learned(self, learner: Learner, order: Sequence[int], count: int) -> list[Concept]:
        """The first concepts of an order, as the learner has learned them.

        Where the order does not matter they come in the suite's, so that equal sets are equal.
        """
        indices = sorted(order[:count]) if learner.order_free else order[:count]
        tasks = [self.suite.tasks[index] for index in indices]
        return [self._concept(self.folder(learner, order, task), task.name) for task in tasks]

    def _concept(self, folder: Path, name: str) -> Concept:
        key = folder, name
        if key not in self._concepts:
            self._concepts[key] = Bank(folder)[name]
        return self._concepts[key]

    # Drawing ----------------------------------------------------------------------------------

    def sampling(self, system: Mapping[str, object], task: int = 0) -> SampleConfig:
        """Settings of one system's pictures; every task has its own seeds, all systems the same."""
        overrides: dict[str, Any] = {
            "seed": self.seed + _SEEDS_PER_TASK * (task + 1),
            "negative_prompt": self.suite.negative_prompt,
            **self.sizes.sampling,
            **system,
        }
        return SampleConfig.for_family(self.base.family.sampling, **overrides)

    def draw(
        self, system: System, learned: Sequence[Concept], index: int, prompts: int, images: int
    ) -> Result:
        """Draw and score one concept, unless the very same has been drawn before.

        Args:
            system: Who draws.
            learned: Concepts so far.
            index: Of the task asked for.
            prompts: At most this many.
            images: Per prompt.

        Returns:
            `content`: key of the scores; `images`: how many per prompt belong to this cell.

        Raises:
            BusyError: If another process is drawing the same.
        """
        task = self.suite.tasks[index]
        bank = system.arrange(learned, task.name)
        # Baselines may give the concept other weights, but never other words.
        asked = bank[task.name]
        chosen = [task.prompts[k] for k in spread(len(task.prompts), prompts)]
        filled = [fill(prompt, asked) for prompt in chosen]
        config = self.sampling(system.sampling, index)
        content = self._content(system, bank, task, filled, config)
        key = f"drawn/{content}"
        with self.board.claimed(key):
            held = self._held(key) if self.board.done(key) else None
            start = held.images if held is not None else 0
            if start < images:
                more = self._draw(system, bank, task, filled, config, start, images, content)
                scores = more if held is None else held.joined(more)
                self.board.write(key, {"scores": scores.to_dict(), "prompts": filled})
        return {"content": content, "images": images, "drawn": max(0, images - start)}

    def _content(
        self,
        system: System,
        bank: Mapping[str, Concept],
        task: SuiteTask,
        prompts: Sequence[str],
        config: SampleConfig,
    ) -> str:
        """A name for the pictures, from the plan they are drawn by: who takes part, how much."""
        concepts, weights, how = tuple(bank.values()), [], system.name
        if system.drawn is SYSTEMS["ours"].drawn:
            plan = make_plan(self.base, bank, prompts, (), config)
            concepts, how = plan.concepts, "generate"
            weights = [slot.weights.double().tolist() for slot in plan.slots]
        judged = f"{self.encoders} {task.name}"
        base = self.base.fingerprint
        return content_key(base, how, concepts, weights, prompts, config, judged)

    def _draw(
        self,
        system: System,
        bank: Mapping[str, Concept],
        task: SuiteTask,
        prompts: Sequence[str],
        config: SampleConfig,
        start: int,
        stop: int,
        content: str,
    ) -> Scores:
        """Pictures `start` to `stop` of every prompt, in batches of bounded size."""
        found: list[list[Image.Image]] = [[] for _ in prompts]
        images = min(stop - start, self.sizes.at_once)
        group = max(1, self.sizes.at_once // images)
        for first in range(start, stop, images):
            count = min(images, stop - first)
            these = replace(config, seed=config.seed + first, num_images=count)
            for n in range(0, len(prompts), group):
                part = prompts[n : n + group]
                pictures = system.draw(self.base, bank, part, these)
                for k in range(len(part)):
                    found[n + k] += pictures[k * count : (k + 1) * count]
        if start == 0:
            self.keep([each[0] for each in found], content)
        texts = [write_back(prompt, [bank[task.name]]) for prompt in prompts]
        return self.judge.score(task, [p for each in found for p in each], texts)

    def keep(self, pictures: Sequence[Image.Image], content: str) -> None:
        """A strip of thumbnails for the contact sheet."""
        chosen = [pictures[k] for k in spread(len(pictures), THUMBNAILS)]
        small = [p if max(p.size) <= _THUMBNAIL_PX else enlarge(p, _THUMBNAIL_PX) for p in chosen]
        strip = Image.new("RGB", (sum(p.width for p in small), max(p.height for p in small)))
        x = 0
        for picture in small:
            strip.paste(picture, (x, 0))
            x += picture.width
        folder = make_folder(self.board.folder / "thumbnails")
        save_picture(strip, folder / f"{content}.png")

    def scores(self, key: str, images: int | None = None) -> Scores:
        """What a drawing cell found; of the first pictures only, if asked."""
        cell = self.board.read(key)
        scores = self._held(f"drawn/{cell['content']}")
        return scores.first(min(images or cell["images"], cell["images"]))

    def _held(self, key: str) -> Scores:
        # Another process may have added pictures since.
        return Scores(**self.board.read(key, fresh=True)["scores"])

    def thumbnails(self, key: str) -> list[Image.Image]:
        """Pictures kept of a drawing cell, one per prompt; none if they are gone."""
        whole = self.kept(self.board.read(key)["content"])
        if whole is None:
            return []
        side = whole.height
        return [whole.crop((x, 0, x + side, side)) for x in range(0, whole.width, side)]

    def kept(self, stem: str) -> Image.Image | None:
        """A strip of kept pictures."""
        path = self.board.folder / "thumbnails" / f"{stem}.png"
        if not path.exists():
            return None
        with Image.open(path) as picture:
            return picture.convert("RGB")
