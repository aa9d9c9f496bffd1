"""The compared ways: which parts of CLIF teach, and what the others make of its contrast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from cidm_core.bank import Bank
from cidm_core.concept import Concept
from cidm_core.diffusers_host.composites import Contrast
from cidm_core.diffusers_host.job import find_taught
from cidm_core.diffusers_host.train import train_concept
from cidm_core.methods import config_for
from cidm_core.methods.clif import ClifConfig
from cidm_core.training.data import TrainingSubject

from ..custom_diffusion.ways import METHOD as CUSTOM
from ..custom_diffusion.ways import OURS, Taught, Way, in_place, modifier, nameless
from ..tasks.suite import SuiteTask

METHOD = "clif"
CONTRASTED = "ours_contrast"
# What each variant of CLIF leaves out or reads otherwise.
VARIANTS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "clif": {},
        "no_global": {"global_pairs": 0},
        "no_region": {"region_pairs": 0},
        "no_meeting": {"meeting_pairs": 0},
        "released_loss": {"contrast_loss": "released"},
        "no_contrast": {"stages": "words+weights"},
    }
)


@dataclass(frozen=True)
class Lessons(Taught):
    """What the two other methods teach, with a contrast and without, and CLIF in its variants.

    Attributes:
        contrast: CLIP and common things.
    """

    contrast: Contrast | None = None

    def clif(self, variant: str) -> Concept:
        """All tasks learned at once by CLIF, each as long as CIDM takes for it."""
        one, count = self.for_one(**VARIANTS[variant]), len(self.tasks)
        config = replace(one, steps=one.steps * count, word_steps=one.word_steps * count)
        subjects = [_plainly(task) for task in self.tasks]
        return self._find(variant, variant, subjects, METHOD, config)

    def for_one(self, **more: object) -> ClifConfig:
        """CLIF's settings for one task; where steps are given, textual inversion has its part."""
        one, recipe = self._config(METHOD, **more), config_for(METHOD, self.base.family)
        assert isinstance(one, ClifConfig)
        assert isinstance(recipe, ClifConfig)
        return replace(one, word_steps=round(recipe.word_steps * one.steps / recipe.steps))

    def ours_contrast(self, task: SuiteTask) -> Concept:
        """CIDM's concept, its words told from those of the earlier tasks, which are in the bank."""
        for earlier in self.tasks[: self.tasks.index(task)]:
            self.ours_contrast(earlier)
        config = self._config("cidm", contrast=True)
        return self._find(CONTRASTED, task.name, [_plainly(task)], "cidm", config)

    def joint_contrast(self) -> Concept:
        """As `joint`, the words told apart before."""
        one = self._config(CUSTOM, contrast=True)
        config = replace(one, steps=one.steps * len(self.tasks))
        subjects = [self._subject(task, config) for task in self.tasks]
        return self._find("joint_contrast", "joint_contrast", subjects, CUSTOM, config)

    def _find(
        self, place: str, name: str, subjects: Sequence[TrainingSubject], method: str, config: Any
    ) -> Concept:
        """A concept of a bank, learned if it is not there."""
        folder, (first, *others) = self.folder / place, subjects
        contrast = self.contrast if config.contrasts else None
        asked: dict[str, Any] = {
            "words": first.words,
            "class_words": first.class_words,
            "kind": first.kind,
            "prior": first.prior,
            "subjects": others,
            "name": name,
            "method": method,
            "config": config,
        }

        def learn() -> Concept:
            facts = None if contrast is None else contrast.facts()
            base, bank, photos = self.base, Bank(folder), first.photos
            found = find_taught(base, bank, photos, **asked, contrast=facts)
            if found is not None:
                return found
            asked.update(contrast=contrast, on_progress=self.on_step)
            return train_concept(base, bank, photos, **asked)

        return self._once(folder / name, learn)


def _plainly(task: SuiteTask) -> TrainingSubject:
    return TrainingSubject(task.photos, task.words, task.class_words, task.kind)


def _variant(name: str) -> Callable[[Taught], Mapping[str, Callable[[], Concept]]]:
    def needs(taught: Taught) -> Mapping[str, Callable[[], Concept]]:
        assert isinstance(taught, Lessons)
        return {f"{name}/all": lambda: taught.clif(name)}

    return needs


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
            Way("clif", "CLIF", in_place, _variant("clif")),
            Way("no_contrast", "CLIF without contrast", in_place, _variant("no_contrast")),
            Way("no_global", "CLIF without G", in_place, _variant("no_global")),
            Way("no_region", "CLIF without R", in_place, _variant("no_region")),
            Way("no_meeting", "CLIF without M", in_place, _variant("no_meeting")),
            Way("released_loss", "CLIF, contrast as released", in_place, _variant("released_loss")),
            Way(OURS, "CIDM (ours)", in_place, _each(OURS)),
            Way(CONTRASTED, "CIDM (ours), contrast", in_place, _each(CONTRASTED)),
            Way("joint", "Custom Diffusion, all at once", modifier, _one("joint")),
            Way(
                "joint_contrast",
                "Custom Diffusion, all at once, contrast",
                modifier,
                _one("joint_contrast"),
            ),
        )
    }
)
IN_BOXES = (OURS, CONTRASTED)
"""Ways that are drawn with regions as well."""
ONCE = ("no_global", "no_region", "no_meeting", "released_loss")
"""Ways that are taught from the first seed only."""
OFTEN = ("clif", "no_contrast")
"""Ways that are taught from more seeds than the others."""
