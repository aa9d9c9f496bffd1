"""What a method is: live updates and tokens, learned in stages, and a concept at the end.

The loop (`training.loop`) runs the stages of any `Method` one after another; a `Host` answers a
method's questions about the model. Neither knows the other, and neither does a method know which
host it runs on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..concept import Concept, Subject
from ..config import TrainConfig
from ..families import CrossAttention
from ..ops.schedules import Schedule, constant
from ..updates import Update
from .batches import Batch, CompositeBatches, PhotoBatches, Prediction, Source
from .group import Group

Demand = Literal["needed", "optional", "unused"]


@dataclass(frozen=True)
class Task:
    """The concept to be learned and the model it is learned on (see `Concept`).

    `start` is a taught concept of the same words that learning goes on from.
    """

    name: str
    subjects: tuple[Subject, ...]
    family: str
    base: str
    layers: tuple[CrossAttention, ...]
    start: Concept | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The words of all subjects, in the order of their rows."""
        return tuple(word for subject in self.subjects for word in subject.words)

    @property
    def phrases(self) -> tuple[str, ...]:
        """The class words that call subjects without words."""
        held = [subject.triggers for subject in self.subjects if not subject.words]
        return tuple(trigger for triggers in held for trigger in triggers)

    def concept(
        self,
        method: str,
        config: TrainConfig,
        facts: Mapping[str, object],
        updates: Mapping[str, Update],
        rows: Mapping[str, Tensor],
    ) -> Concept:
        """What has been learned so far, on the CPU, apart from what goes on learning.

        Args:
            method: Name of the method.
            config: Its settings.
            facts: Provenance.
            updates: Live updates by path of a linear layer.
            rows: Live embeddings of the words by encoder, (words, layers or 1, dim).
        """
        return Concept(
            name=self.name,
            subjects=self.subjects,
            family=self.family,
            base=self.base,
            layers=tuple(layer.path for layer in self.layers),
            updates={path: _kept_update(update) for path, update in updates.items()},
            rows={encoder: _kept(tensor) for encoder, tensor in rows.items()},
            method=method,
            config=config.to_dict(),
            facts=facts,
        )


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()


def _kept_update(update: Update) -> Update:
    tensors = {f.name: getattr(update, f.name) for f in fields(update)}
    return replace(update, **{k: _kept(t) for k, t in tensors.items() if isinstance(t, Tensor)})


class Host(Protocol):
    """What a method may ask of the model."""

    @property
    def device(self) -> torch.device: ...

    def embeddings(self, text: str) -> dict[str, Tensor]:
        """The frozen token embeddings of plain words: encoder -> (tokens, dim)."""
        ...

    def entries(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Frozen embeddings of single entries of the vocabulary: encoder -> (names, dim).

        Args:
            names: Each a plain word of one token, or the number of an entry.

        Raises:
            ConceptError: If one is neither.
        """
        ...

    def predict(
        self,
        batch: Batch,
        tokens: Mapping[str, Tensor],
        watch: bool = False,
        *,
        detach_start: bool = False,
        two_streams: bool = False,
        last_piece: bool = False,
    ) -> Prediction:
        """Run text encoders and UNet.

        Args:
            batch: Noisy pictures.
            tokens: Concept embeddings, encoder -> (words, versions, dim), a version for each layer
                or for layers that share it (`versions_of`); none without words.
            watch: Whether the attention of the concept words is wanted too.
            detach_start: Whether keys and values of the prompt's start token teach nothing.
            two_streams: Whether queries are those of a run without value residuals (Infusion).
            last_piece: Whether value residuals act at the last token of a name only.
        """
        ...

    def text_features(
        self, prompts: Sequence[str], words: Mapping[str, Tensor], *, at_last_word: bool = False
    ) -> Tensor:
        """CLIP's features of texts as the first text encoder reads them, (prompts, dim).

        Args:
            prompts: Texts.
            words: Embeddings (dim,) of all concept words in them.
            at_last_word: Whether the last taught of a prompt's words is read, not its end.

        Raises:
            HostError: If the run has no CLIP.
        """
        ...


def _no_terms() -> dict[str, Tensor]:
    return {}


def _nothing(_: Any) -> None: ...


def _no_act() -> None: ...


_PHOTOS = PhotoBatches()


@dataclass(frozen=True)
class Stage:
    """One run of the loop inside a method. A new optimiser begins with each.

    Attributes:
        name: In progress and log.
        steps: Optimiser steps.
        groups: What learns, and each group's learning rate.
        losses: Weighted terms of a batch of `source`, each normalised as the stage wants it; their
            sum is what is minimised.
        source: A `Source` of the method's own, or the photos.
        schedule: Factor of the learning rates at each step.
        penalties: Weighted terms that need no batch; added once per optimiser step.
        measure: Numbers the method wants to see before each update, read with the losses.
        before_update: Decides on what `measure` gave, for example to freeze a group.
        after_update: Whatever follows an optimiser step; takes the schedule's factor.
        finished: Called once all of its steps are done.
    """

    name: str
    steps: int
    groups: Mapping[Group, float]
    losses: Callable[[Any], dict[str, Tensor]]
    source: PhotoBatches | CompositeBatches | Source = _PHOTOS
    schedule: Schedule = constant
    penalties: Callable[[], dict[str, Tensor]] = _no_terms
    measure: Callable[[], dict[str, Tensor]] = _no_terms
    before_update: Callable[[Mapping[str, float]], None] = _nothing
    after_update: Callable[[float], None] = _nothing
    finished: Callable[[], None] = _no_act


class Method(Protocol):
    """How a concept is learned. New methods implement this; the loop does not change."""

    @property
    def updates(self) -> Mapping[str, Update]:
        """Live updates by path of a linear layer: their tensors are the parameters that learn."""
        ...

    def stages(self) -> Sequence[Stage]:
        """What is learned one after another."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the groups."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...

    def result(self, facts: Mapping[str, object]) -> Concept:
        """The concept as learned so far."""
        ...


class MakeMethod(Protocol):
    """Builds a method for a task from settings, earlier concepts and a host."""

    def __call__(self, task: Task, config: Any, old: Collection[Concept], host: Host) -> Method: ...


class MethodClass(MakeMethod, Protocol):
    """A row of `METHODS`: builds the method, and says what it can be asked for.

    Attributes:
        Config: Its settings.
        words: Whether subjects have words of their own.
        modifier: Whether these stand before the class words, "<new1> cat", not in their place.
        prior: Whether it learns from prior pictures as well.
        several: Whether it teaches several subjects at once.

    It may also say `on_request`, that plain words call its subjects only where drawing asks for it,
    and `masked`, that photos should have masks. Static methods it may have: `check(task, config,
    host)`, called before any work starts, refuses what the method cannot teach this model;
    `check_start(start, config)`, if learning can go on from a `Task.start`, those that do not fit.
    """

    @property
    def Config(self) -> type[TrainConfig]: ...
    @property
    def words(self) -> Demand: ...
    @property
    def modifier(self) -> bool: ...
    @property
    def prior(self) -> Demand: ...
    @property
    def several(self) -> bool: ...
