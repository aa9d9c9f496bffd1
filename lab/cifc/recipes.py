"""How the compared systems learn: the same steps, photos and seeds, one difference each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cidm_core.bank import Bank
from cidm_core.concept import Concept
from cidm_core.config import TrainConfig
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.job import find_taught
from cidm_core.diffusers_host.train import train_concept
from cidm_core.methods.base import MakeMethod
from cidm_core.training.processes import Alone
from cidm_core.training.progress import OnProgress

from .baselines.c_lora import CLora
from .baselines.ewc import Ewc, remember
from .baselines.lwf import Lwf
from .baselines.memory import Memory
from .baselines.merge import folded
from .baselines.sequential import Sequential
from .tasks import Task

# Chosen on mini-sd (three tasks of 150 steps) for the least denoising loss over all tasks after the
# last: less forgetting than sequential finetuning, and still learning. The scales of losses and
# weights differ between models: on another one they are where a search begins.
EWC_WEIGHT = 1e4
LWF_WEIGHT = 1.0
C_LORA_WEIGHT = 1e2

_ALONE: Mapping[str, object] = MappingProxyType(
    {"orthogonality": "none", "common_subspace": "none"}
)


@dataclass(frozen=True)
class Recipe:
    """How concepts are learned one after another into one bank.

    Attributes:
        name: Of its folder.
        config: Overrides of the settings that all recipes share.
        order_free: Whether a concept comes out alike whatever was learned before it, so that one
            bank serves every order.
        make: Given its memory, what builds the method; None: CIDM's own.
        around: What the model a task is learned on is wrapped in, given the earlier concepts.
        after: What is done once a task is learned; it may be called again for the same task.
    """

    name: str
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    order_free: bool = False
    make: Callable[[Memory], MakeMethod] | None = None
    around: Callable[[Base, Sequence[Concept]], AbstractContextManager[None]] | None = None
    after: Callable[..., None] | None = None

    def settings(self, config: TrainConfig) -> TrainConfig:
        """The shared settings with this recipe's own."""
        overrides: dict[str, Any] = dict(self.config)
        return replace(config, **overrides)


def _ewc(memory: Memory) -> MakeMethod:
    return partial(Ewc, weight=EWC_WEIGHT, memory=memory)


def _lwf(_memory: Memory) -> MakeMethod:
    return partial(Lwf, weight=LWF_WEIGHT)


def _c_lora(_memory: Memory) -> MakeMethod:
    return partial(CLora, weight=C_LORA_WEIGHT)


def _sequential(_memory: Memory) -> MakeMethod:
    return Sequential


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe("plain", _ALONE, order_free=True),
            Recipe("ours", order_free=True),  # the defaults look at no earlier concept
            Recipe("paper", {"orthogonality": "subspace", "common_subspace": "gradient"}),
            Recipe("released", {"orthogonality": "released", "common_subspace": "none"}),
            Recipe("sequential", _ALONE, make=_sequential),
            Recipe("ewc", _ALONE, make=_ewc, after=remember),
            Recipe("lwf", _ALONE, make=_lwf),
            Recipe("c_lora", _ALONE, make=_c_lora, around=folded),
        )
    }
)


def learn(
    base: Base,
    recipe: Recipe,
    folder: Path,
    task: Task,
    config: TrainConfig,
    *,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Concept:
    """Learn one task into a recipe's bank, after what is in it already.

    Asked again for a task that the bank holds, from the same photos and settings, it gives that
    concept, and does what an interruption left undone. What ends it early (`should_stop`, Ctrl-C,
    an error) leaves all files whole and the model as it was; the same call then goes on.

    Args:
        base: The model.
        recipe: How; of a recipe that is not `order_free`, each order needs a folder of its own.
        folder: The bank's folder; a baseline's memory lies in it, too.
        task: What to learn.
        config: Settings that all recipes share, such as `methods.config_for`.
        on_progress: Called after every step.
        should_stop: Asked before every step; True ends the run with `Stopped`.

    Raises:
        CidmError: As `train_concept`; also if the bank holds the task from other settings.
    """
    bank, settings = Bank(folder), recipe.settings(config)
    memory = Memory(folder, recipe.name)
    make = None if recipe.make is None else recipe.make(memory)
    asked: dict[str, Any] = {
        "words": task.words,
        "class_words": task.class_words,
        "kind": task.kind,
        "name": task.name,
        "config": settings,
        "make": make,
    }
    concept = find_taught(base, bank, task.photos, **asked)
    if concept is None:
        around = nullcontext() if recipe.around is None else _around(recipe, base, bank)
        with around:
            concept = train_concept(
                base,
                bank,
                task.photos,
                on_progress=on_progress,
                should_stop=should_stop,
                processes=Alone(),  # others that were launched with it learn other tasks
                **asked,
            )
    if recipe.after is not None:
        recipe.after(base, memory, concept, task.photos, settings, should_stop)
    return concept


def _around(recipe: Recipe, base: Base, bank: Bank) -> AbstractContextManager[None]:
    assert recipe.around is not None
    return recipe.around(base, list(bank.values()))
