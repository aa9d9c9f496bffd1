"""How the compared systems learn: the same steps, photos and seeds, one difference each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cidm_core.bank import Bank
from cidm_core.concept import Concept
from cidm_core.config import TrainConfig
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.job import find_taught
from cidm_core.diffusers_host.train import train_concept
from cidm_core.methods.base import Host, Task
from cidm_core.methods.cidm import CidmConfig
from cidm_core.training.processes import Alone
from cidm_core.training.progress import OnProgress

from .baselines.base import Baseline
from .baselines.c_lora import CLora
from .baselines.ewc import Ewc, remember
from .baselines.lwf import Lwf
from .baselines.memory import BaselineMemory
from .baselines.merge import folded
from .baselines.sequential import Sequential
from .tasks import SuiteTask

_ALONE: Mapping[str, object] = MappingProxyType(
    {"orthogonality": "none", "common_subspace": "none"}
)


@dataclass(frozen=True)
class Learner:
    """How concepts are learned one after another into one bank.

    Attributes:
        name: Of its folder.
        config: Overrides of the settings that all learners share.
        order_free: Whether a concept comes out alike whatever was learned before it, so that one
            bank serves every order.
        method: The baseline; None: CIDM itself.
        weight: Of what the baseline adds.
        around: What the model a task is learned on is wrapped in, given the earlier concepts.
        after: What is done once a task is learned; it may be called again for the same task.
    """

    name: str
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    order_free: bool = False
    method: type[Baseline] | None = None
    weight: float = 0.0
    around: Callable[[Base, Sequence[Concept]], AbstractContextManager[None]] | None = None
    after: Callable[..., None] | None = None

    def settings(self, config: TrainConfig) -> TrainConfig:
        """The shared settings with this learner's own."""
        overrides: dict[str, Any] = dict(self.config)
        return replace(config, **overrides)


@dataclass(frozen=True)
class MakeBaseline:
    """Builds a learner's method. Its repr, part of a run's name, tells nothing of modules."""

    method: type[Baseline] = field(repr=False)
    name: str
    weight: float
    memory: BaselineMemory

    def __call__(
        self, task: Task, config: CidmConfig, old: Collection[Concept], host: Host
    ) -> Baseline:
        return self.method(task, config, old, host, weight=self.weight, memory=self.memory)


# The weights were chosen on mini-sd (three tasks of 150 steps) for the least denoising loss over
# all tasks after the last: less forgetting than sequential finetuning, and still learning. The
# scales of losses differ between models: on another one they are where a search begins.
LEARNERS: Mapping[str, Learner] = MappingProxyType(
    {
        learner.name: learner
        for learner in (
            Learner("plain", _ALONE, order_free=True),
            Learner("ours", order_free=True),  # the defaults look at no earlier concept
            Learner("paper", {"orthogonality": "subspace", "common_subspace": "gradient"}),
            Learner("released", {"orthogonality": "released", "common_subspace": "none"}),
            Learner("sequential", _ALONE, method=Sequential),
            Learner("ewc", _ALONE, method=Ewc, weight=1e4, after=remember),
            Learner("lwf", _ALONE, method=Lwf, weight=1.0),
            Learner("c_lora", _ALONE, method=CLora, weight=1e2, around=folded),
        )
    }
)


def learn_task(
    base: Base,
    learner: Learner,
    folder: Path,
    task: SuiteTask,
    config: TrainConfig,
    *,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Concept:
    """Learn one task into a learner's bank, after what is in it already.

    Asked again for a task that the bank holds, from the same photos and settings, it gives that
    concept, and does what an interruption left undone. What ends it early (`should_stop`, Ctrl-C,
    an error) leaves all files whole and the model as it was; the same call then goes on.

    Args:
        base: The model.
        learner: How; of a learner that is not `order_free`, each order needs a folder of its own.
        folder: The bank's folder; a baseline's memory lies in it, too.
        task: What to learn.
        config: Settings that all learners share, such as `methods.config_for`.
        on_progress: Called after every step.
        should_stop: Asked before every step; True ends the run with `Stopped`.

    Raises:
        CidmError: As `train_concept`; also if the bank holds the task from other settings.
    """
    bank, settings = Bank(folder), learner.settings(config)
    memory = BaselineMemory(folder, learner.name)
    make = None
    if learner.method is not None:
        make = MakeBaseline(learner.method, learner.method.name, learner.weight, memory)
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
        with learner.around(base, list(bank.values())) if learner.around else nullcontext():
            concept = train_concept(
                base,
                bank,
                task.photos,
                on_progress=on_progress,
                should_stop=should_stop,
                processes=Alone(),  # others that were launched with it learn other tasks
                **asked,
            )
    if learner.after is not None:
        learner.after(base, memory, concept, task.photos, settings, should_stop)
    return concept
