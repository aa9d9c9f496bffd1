"""The compared ways: who taught a concept, how prompts name it, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from cidm_core.bank import Bank
from cidm_core.concept import Concept, Subject
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.job import find_taught
from cidm_core.diffusers_host.train import train_concept

from ..custom_diffusion.ways import Taught, in_place, modifier, nameless
from ..tasks.suite import SuiteTask

METHOD = "infusion"


class Lessons(Taught):
    """What the other two methods teach as well, and Infusion."""

    def paper(self, task: SuiteTask) -> Concept:
        """Residuals of values, under the attention maps of a second stream."""
        return self._infusion(task, "paper")

    def released(self, task: SuiteTask) -> Concept:
        """Residuals of keys and values, in one stream."""
        return self._infusion(task, "released")

    def _infusion(self, task: SuiteTask, variant: str) -> Concept:
        folder = self.folder / variant / task.name
        bank = Bank(folder)
        asked: dict[str, Any] = {
            "class_words": task.class_words,
            "kind": task.kind,
            "name": task.name,
            "method": METHOD,
            "config": self._config(METHOD, variant=variant),
        }

        def learn() -> Concept:
            found = find_taught(self.base, bank, task.photos, **asked)
            if found is not None:
                return found
            return train_concept(self.base, bank, task.photos, on_progress=self.on_step, **asked)

        return self._once(folder, learn)


@dataclass(frozen=True)
class Way:
    """One row of the table.

    Attributes:
        name: For files and options.
        label: For people.
        subject: How a prompt names a task.
        lesson: Name of what `Lessons` teaches; "": nothing.
        sampling: Overrides of the sampling that all share.
    """

    name: str
    label: str
    subject: Callable[[SuiteTask], Subject] = nameless
    lesson: str = ""
    sampling: Mapping[str, object] = field(default_factory=dict[str, object])

    def concept(self, lessons: Lessons, task: SuiteTask) -> Concept:
        """What was taught."""
        return getattr(lessons, self.lesson)(task)

    def bank(self, lessons: Lessons, task: SuiteTask) -> dict[str, Concept]:
        """What a task is drawn with."""
        return {task.name: self.concept(lessons, task)} if self.lesson else {}

    def asking(self, config: SampleConfig, bank: Mapping[str, Concept]) -> SampleConfig:
        """The settings with which class words call all concepts that have no other words."""
        asked = [name for name, concept in bank.items() if concept.on_request]
        more: dict[str, Any] = {**self.sampling, "infuse": ", ".join(asked)}
        return replace(config, **more)


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        way.name: way
        for way in (
            Way("none", "The model alone"),
            Way("ours", "CIDM (ours)", in_place, "ours"),
            Way("custom", "Custom Diffusion", modifier, "single"),
            Way("paper", "Infusion, paper", lesson="paper"),
            Way(
                "one_stream",
                "Infusion, paper, in one stream",
                lesson="paper",
                sampling={"second_stream": 0.0},
            ),
            Way("released", "Infusion, released", lesson="released"),
        )
    }
)
