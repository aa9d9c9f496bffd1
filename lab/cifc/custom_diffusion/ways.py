"""The compared ways to teach several concepts, and what each of them draws with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cidm_core.bank import Bank
from cidm_core.concept import Concept, Subject
from cidm_core.config import TrainConfig
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.encode import DiffusersEncoder
from cidm_core.diffusers_host.job import find_taught
from cidm_core.diffusers_host.prior import draw_prior
from cidm_core.diffusers_host.train import train_concept
from cidm_core.merging.compress import compress
from cidm_core.merging.merge import merge
from cidm_core.merging.settings import MergeConfig
from cidm_core.merging.texts import shipped_captions
from cidm_core.methods import config_for
from cidm_core.methods.shared import PriorConfig
from cidm_core.training.data import Photo, TrainingSubject
from cidm_core.training.progress import OnProgress
from cidm_core.words import parse_words

from ..learners import LEARNERS, learn_task
from ..tasks.suite import SuiteTask

OURS, JOINT = "ours", "joint"
METHOD = "custom_diffusion"


@dataclass(frozen=True)
class Taught:
    """What is learned or made, each in a bank of its own, once.

    Attributes:
        base: The model.
        tasks: What to learn.
        folder: Of the banks; sets of prior pictures lie beside it.
        training: Overrides of both methods' recipes, the same for both.
        on_step: Hears every training step.
    """

    base: Base
    tasks: Sequence[SuiteTask]
    folder: Path
    training: Mapping[str, object]
    on_step: OnProgress | None = None
    _held: dict[Path, Concept] = field(default_factory=dict[Path, Concept])

    def ours(self, task: SuiteTask) -> Concept:
        """CIDM's concept, as the forgetting benchmark learns it."""
        folder = self.folder / OURS / task.name
        given = self.base, LEARNERS["ours"], folder, task, self._config("cidm")
        return self._once(folder, lambda: learn_task(*given, on_progress=self.on_step))

    def single(self, task: SuiteTask) -> Concept:
        """Custom Diffusion's concept of one task, learned alone."""
        folder = self.folder / "single" / task.name
        return self._once(folder, lambda: self._learn(folder, [task], task.name))

    def no_prior(self, task: SuiteTask) -> Concept:
        """The same, all of its pictures photos."""
        folder = self.folder / "no_prior" / task.name
        return self._once(folder, lambda: self._learn(folder, [task], task.name, prior_images=0))

    def joint(self) -> Concept:
        """All tasks learned at once, with as many pictures in all as one after another."""
        folder = self.folder / JOINT
        return self._once(folder, lambda: self._learn(folder, self.tasks, JOINT))

    def merged(self) -> Concept:
        """The single concepts as one, in closed form."""
        return self._merge(self.single, "merged")

    def exact(self) -> Concept:
        """As `merged`, every concept met exactly at its own words, as published."""
        return self._merge(self.single, "exact", slack=0.0)

    def ours_merged(self) -> Concept:
        """CIDM's concepts as one, in closed form; their queries and outputs are left out."""
        return self._merge(self.ours, "ours_merged")

    def compressed(self, task: SuiteTask) -> Concept:
        """The single concept by its strongest directions."""
        folder = self.folder / "compressed" / task.name
        return self._made(folder, task.name, lambda: compress(self.single(task))[0])

    def _config(self, method: str, **more: object) -> TrainConfig:
        return config_for(method, self.base.family, **{**self.training, **more})

    def _learn(
        self, folder: Path, tasks: Sequence[SuiteTask], name: str, **more: object
    ) -> Concept:
        one = self._config(METHOD, **more)
        config = replace(one, steps=one.steps * len(tasks))
        subjects = [self._subject(task, config) for task in tasks]
        bank, (first, *others) = Bank(folder), subjects
        asked: dict[str, Any] = {
            "words": first.words,
            "class_words": first.class_words,
            "kind": first.kind,
            "prior": first.prior,
            "subjects": others,
            "name": name,
            "method": METHOD,
            "config": config,
        }
        found = find_taught(self.base, bank, first.photos, **asked)
        if found is not None:
            return found
        return train_concept(self.base, bank, first.photos, on_progress=self.on_step, **asked)

    def _subject(self, task: SuiteTask, config: TrainConfig) -> TrainingSubject:
        assert isinstance(config, PriorConfig)
        prior: Sequence[Photo] = ()
        if config.prior_images:
            prior = draw_prior(
                self.base,
                self.folder.parent / "prior",
                task.class_words,
                task.kind,
                count=config.prior_images,
                on_progress=self.on_step,
            )
        words = modifier(task).words
        return TrainingSubject(task.photos, words, task.class_words, task.kind, None, prior)

    def _merge(self, learn: Callable[[SuiteTask], Concept], name: str, **settings: Any) -> Concept:
        def make() -> Concept:
            encode, concepts = DiffusersEncoder(self.base).captions, [*map(learn, self.tasks)]
            captions, config = shipped_captions(self.base.family), MergeConfig(**settings)
            return merge(concepts, name, self.base, encode, captions, config)[0]

        return self._made(self.folder / name, name, make)

    def _made(self, folder: Path, name: str, make: Callable[[], Concept]) -> Concept:
        """The bank's concept of that name, made if it is not there."""
        bank = Bank(folder)
        return self._once(folder, lambda: bank[name] if name in bank else bank.add(make()))

    def _once(self, folder: Path, find: Callable[[], Concept]) -> Concept:
        """Read every file only once."""
        if folder not in self._held:
            self._held[folder] = find()
        return self._held[folder]


def modifier(task: SuiteTask) -> Subject:
    """A task as Custom Diffusion names it: its first word before the class words."""
    return Subject(parse_words(task.words)[:1], task.class_words, task.kind, modifier=True)


def in_place(task: SuiteTask) -> Subject:
    """A task as CIDM names it: its words in place of the class words."""
    return Subject(parse_words(task.words), task.class_words, task.kind)


def nameless(task: SuiteTask) -> Subject:
    """A task as the model knows it: by its class words."""
    return Subject((), task.class_words, task.kind)


@dataclass(frozen=True)
class Way:
    """One row of the table.

    Attributes:
        name: For files and options.
        label: For people.
        subject: How a prompt names a task.
        needs: Makes ready what the way draws with, in pieces by name.
        bank: What it draws with.
    """

    name: str
    label: str
    subject: Callable[[SuiteTask], Subject]
    needs: Callable[[Taught], Mapping[str, Callable[[], Concept]]]

    def bank(self, taught: Taught) -> dict[str, Concept]:
        """What it draws with."""
        made = [make() for make in self.needs(taught).values()]
        return {concept.name: concept for concept in made}


def _each(name: str) -> Callable[[Taught], Mapping[str, Callable[[], Concept]]]:
    def needs(taught: Taught) -> Mapping[str, Callable[[], Concept]]:
        learn = getattr(taught, name)
        return {f"{name}/{task.name}": lambda task=task: learn(task) for task in taught.tasks}

    return needs


def _one(name: str) -> Callable[[Taught], Mapping[str, Callable[[], Concept]]]:
    return lambda taught: {f"{name}/all": getattr(taught, name)}


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        way.name: way
        for way in (
            Way("none", "The model alone, class words", nameless, lambda _: {}),
            Way(OURS, "CIDM (ours), gate", in_place, _each(OURS)),
            Way("ours_merged", "CIDM (ours), merged", in_place, _one("ours_merged")),
            Way("single", "Custom Diffusion, gate", modifier, _each("single")),
            Way("no_prior", "Custom Diffusion, no prior, gate", modifier, _each("no_prior")),
            Way("compressed", "Custom Diffusion, compressed, gate", modifier, _each("compressed")),
            Way("joint", "Custom Diffusion, all at once", modifier, _one(JOINT)),
            Way("merged", "Custom Diffusion, merged", modifier, _one("merged")),
            Way("exact", "Custom Diffusion, merged exactly", modifier, _one("exact")),
        )
    }
)
