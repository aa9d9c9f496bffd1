"""Infusion: one residual vector on the values of each attn2, at the tokens of the class words.

Paper: Zeng et al. 2024, https://arxiv.org/abs/2404.14007. Nothing else learns and no word is added:
"cat" itself becomes the cat, where drawing asks for it (`SampleConfig.infuse`). The equations are
in `ops.infusion`; where the paper is silent, and the released code does something else:
docs/EQUATIONS.md#infusion.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..concept import Concept
from ..config import UNET_PARTS, TrainConfig
from ..errors import ConceptError, TrainingError
from ..families import is_in_part
from ..ops.infusion import masked_loss
from ..settings import other_default, setting
from ..updates import ValueResidual
from .base import Demand, Host, Stage, Task
from .batches import Batch
from .group import Group

_SIDES: Mapping[str, tuple[str, ...]] = {"paper": ("to_v",), "released": ("to_k", "to_v")}


@dataclass(frozen=True, kw_only=True)
class InfusionConfig(TrainConfig):
    """How Infusion learns a look. The recipes are the two settings that the released code has."""

    # Sixteen pictures a step, however many go at once.
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "least-vram": {"accumulation": 16},
        "low-vram": {"accumulation": 16},
        "best": {"accumulation": 8, "variants": 16},
    }

    recipe: str = setting(
        "standard",
        "One word for steps and learning rate: 500 steps at 0.01 (standard), or 400 at three times "
        "that rate (quick). Single settings override it.",
        choices=("standard", "quick"),
        advanced=False,
    )
    steps: int = setting(
        {"standard": 500, "quick": 400}, "Optimiser steps.", low=1, high=100_000, advanced=False
    )
    variant: str = setting(
        "paper",
        "What learns: residuals of values, under the attention maps of a second stream that does "
        "not know them (paper); or residuals of keys and values in one stream, as the released "
        "code computes (released): a third faster to draw, with maps of its own.",
        choices=("paper", "released"),
        advanced=False,
    )
    batch_size: int = other_default(TrainConfig, "batch_size", 4)
    accumulation: int = other_default(TrainConfig, "accumulation", 4)
    variants: int = other_default(TrainConfig, "variants", 8)
    augmentation: str = other_default(TrainConfig, "augmentation", "none")
    flip_probability: float = setting(
        0.5,
        "Chance that a photo is mirrored. Set it to 0 for writing and whatever has a left and a "
        "right.",
        low=0.0,
        high=1.0,
    )
    templates: str = other_default(TrainConfig, "templates", "short")
    lr: float = setting(
        {"standard": 0.01, "quick": 0.03},
        "Learning rate of the residuals.",
        low=0.0,
        high=1.0,
    )
    layers: str = setting(
        "all",
        "In which part of the UNet there are residuals: everywhere (all), without its middle "
        "(no_mid), on the way down, in the middle (mid), or on the way up.",
        choices=UNET_PARTS,
    )
    pieces: str = setting(
        "last",
        'Where class words of several tokens take the residuals, such as "teddy bear": at the last '
        "token, or at all of them.",
        choices=("last", "all"),
    )


class Infusion:
    """A `Method`: value residuals at the class words, or at words that stand for their tokens.

    Args:
        task: What is learned, and on which model.
        config: Settings.
        old: Earlier concepts; they stay as they are without our help.
        host: The model.
    """

    name = "infusion"  # kept with the concept
    Config: ClassVar[type[InfusionConfig]] = InfusionConfig
    words: ClassVar[Demand] = "optional"
    modifier: ClassVar[bool] = False
    prior: ClassVar[Demand] = "unused"
    several: ClassVar[bool] = False
    on_request: ClassVar[bool] = True
    masked: ClassVar[bool] = True

    def __init__(
        self, task: Task, config: InfusionConfig, old: Collection[Concept], host: Host
    ) -> None:
        del old
        self._task, self._config, self._host = task, config, host
        self._rows = {e: rows.to(host.device) for e, rows in _frozen_rows(task, host).items()}
        held = _zeros(task, config) if task.start is None else _vectors(task.start)
        self._residuals = Group("residuals", {p: v.to(host.device) for p, v in held.items()})
        self.updates: Mapping[str, ValueResidual] = {
            path: ValueResidual(vector) for path, vector in self._residuals.tensors.items()
        }

    @staticmethod
    def check(task: Task, config: InfusionConfig, host: Host) -> None:
        """Whether each word stands for a token of the class words.

        Raises:
            ConceptError: If there are more or fewer words than tokens.
        """
        del config
        _frozen_rows(task, host)

    @staticmethod
    def check_start(start: Concept, config: InfusionConfig) -> None:
        """Whether learning can go on from a taught concept.

        Raises:
            TrainingError: If it has other residuals, or they act otherwise.
        """
        same = set(start.updates) == set(_paths(start.layers, config)) and start.at_tokens_alone
        flags = config.variant == "paper", config.pieces == "last"
        if not same or flags != (start.two_streams, start.last_piece):
            raise TrainingError(
                f"Learning cannot go on from {start.name!r}: it does not change what Infusion "
                f"learns with variant {config.variant!r}, layers {config.layers!r} and pieces "
                f"{config.pieces!r}. Give the same, or replace it instead."
            )

    def stages(self) -> Sequence[Stage]:
        """One: the residuals, at a constant rate."""
        config = self._config
        return [Stage("residuals", config.steps, {self._residuals: config.lr}, self.losses)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The denoising loss inside the concept's mask."""
        found = self._host.predict(
            batch,
            self._rows,
            two_streams=self._config.variant == "paper",
            last_piece=self._config.pieces == "last",
        )
        return {"denoise": masked_loss(found.value, found.target, batch.seen)}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...

    def result(self, facts: Mapping[str, object]) -> Concept:
        """The concept as learned so far, on the CPU, in half precision."""
        small = {p: ValueResidual(u.vector.detach().half()) for p, u in self.updates.items()}
        concept = self._task.concept(self.name, self._config, facts, small, self._rows)
        return replace(
            concept,
            two_streams=self._config.variant == "paper",
            last_piece=self._config.pieces == "last",
        )


def _paths(layers: Sequence[str], config: InfusionConfig) -> list[str]:
    """The linear layers whose output gets a residual."""
    chosen = [layer for layer in layers if is_in_part(layer, config.layers)]
    return [f"{layer}.{side}" for layer in chosen for side in _SIDES[config.variant]]


def _zeros(task: Task, config: InfusionConfig) -> dict[str, Tensor]:
    """No residuals yet, by path."""
    widths = {layer.path: layer.width for layer in task.layers}
    paths = _paths(tuple(widths), config)
    return {path: torch.zeros(widths[path.rpartition(".")[0]]) for path in paths}


def _vectors(start: Concept) -> dict[str, Tensor]:
    """What a taught concept adds, by path."""
    return {path: update.vector.float() for path, update in start.residuals.items()}


def _frozen_rows(task: Task, host: Host) -> dict[str, Tensor]:
    """The embeddings of the class words for the words, encoder -> (words, 1, dim)."""
    found: dict[str, Tensor] = {}
    for subject in task.subjects if task.words else ():
        for encoder, rows in host.embeddings(subject.class_words).items():
            if len(rows) != len(subject.words):
                raise ConceptError(
                    f"Each word is to stand for one token of {subject.class_words!r}. The "
                    f"{encoder} reads it as {len(rows)}, and the words are {len(subject.words)}: "
                    f"{' '.join(subject.words)!r}. Give as many words as tokens, or none: then it "
                    "is called where drawing asks for it."
                )
            found[encoder] = rows[:, None].clone()
    return found
