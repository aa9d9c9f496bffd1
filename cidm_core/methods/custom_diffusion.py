"""Custom Diffusion: whole keys and values of every attn2, and a row for each word.

Paper: Kumari et al. 2023, https://arxiv.org/abs/2212.04488, section 3. The words stand before the
class words: "a photo of a <new1> cat". The equations are in `ops.preservation`; where the three
published codes differ: docs/EQUATIONS.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import ConceptError, TrainingError
from ..families import PROJECTIONS
from ..ops.diffusion import masked_errors
from ..ops.preservation import with_prior
from ..settings import other_default, setting
from ..updates import BIASED, FullRank
from .base import Demand, Host, Stage, Task
from .batches import Batch, PhotoBatches
from .contrast import WordContrast
from .group import Group
from .initial_values import entry_rows
from .shared import ContrastConfig, PriorConfig

_BIAS = ".bias"
_SIDES: Mapping[str, tuple[str, ...]] = {
    "crossattn_kv": ("to_k", "to_v"),
    "crossattn": PROJECTIONS,
}


@dataclass(frozen=True, kw_only=True)
class CustomDiffusionConfig(PriorConfig, ContrastConfig):
    """How Custom Diffusion learns subjects.

    The recipes have the rates that the published ones come to, which multiply theirs by the eight
    pictures of a step: 1e-5 by 8, for faces 5e-6 by 8. Captions get one template, as published.
    """

    # Eight pictures a step, however many go at once; sixteen for the best.
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "least-vram": {"accumulation": 8},
        "low-vram": {"accumulation": 8},
        "best": {"accumulation": 8, "variants": 64},
    }

    recipe: str = setting(
        "single",
        "One word for steps and learning rate: one object (single) or style (style), a face, with "
        "fifteen photos or more (face), or two subjects at once (joint; of more, set steps to 250 "
        "for each). Single settings override it.",
        choices=("single", "style", "face", "joint"),
        advanced=False,
    )
    steps: int = setting(
        {"single": 250, "style": 250, "face": 750, "joint": 500},
        "Optimiser steps, for all subjects together.",
        low=1,
        high=100_000,
        advanced=False,
    )
    batch_size: int = other_default(PriorConfig, "batch_size", 2)
    accumulation: int = other_default(PriorConfig, "accumulation", 4)
    variants: int = other_default(PriorConfig, "variants", 32)
    augmentation: str = other_default(
        PriorConfig,
        "augmentation",
        {"single": "resize", "style": "resize", "face": "none", "joint": "resize"},
    )
    flip_probability: float = setting(
        {"single": 0.5, "style": 0.5, "face": 0.0, "joint": 0.5},
        "Chance that a photo is mirrored. Set it to 0 for writing and whatever has a left and a "
        "right.",
        low=0.0,
        high=1.0,
    )
    templates: str = other_default(PriorConfig, "templates", "plain")
    lr: float = setting(
        {"single": 8e-5, "style": 8e-5, "face": 4e-5, "joint": 8e-5},
        "Learning rate of keys, values and words.",
        low=0.0,
        high=1.0,
    )
    lr_tokens: float | None = setting(
        None, "Learning rate of the words. By default that of keys and values.", low=0.0, high=1.0
    )
    trained: str = setting(
        "crossattn_kv",
        "What learns of every cross-attention layer: keys and values (crossattn_kv), or all of it, "
        "which helps faces of which there are few photos (crossattn).",
        choices=("crossattn_kv", "crossattn"),
    )
    initializers: str = setting(
        "42170+47629+44746",
        "What each word begins as, joined by +: numbers of vocabulary entries (those here are rare "
        "ones of CLIP), or plain words of one token. More words than these take them in turn.",
    )
    mask_norm: str = setting(
        "compvis",
        "Size of the photos' loss beside that of the prior pictures: equal, as in the authors' "
        "first code (compvis), or four times as large, as in diffusers' (diffusers).",
        choices=("compvis", "diffusers"),
    )


class CustomDiffusion:
    """A `Method`: full-rank changes of attn2, one row for each word, several subjects at once.

    Args:
        task: What is learned, and on which model.
        config: Settings.
        old: Earlier concepts; they stay as they are, their words are negatives of a contrast.
        host: The model.
    """

    name = "custom_diffusion"  # kept with the concept
    Config: ClassVar[type[CustomDiffusionConfig]] = CustomDiffusionConfig
    words: ClassVar[Demand] = "optional"
    modifier: ClassVar[bool] = True
    prior: ClassVar[Demand] = "optional"
    several: ClassVar[bool] = True

    def __init__(
        self, task: Task, config: CustomDiffusionConfig, old: Collection[Concept], host: Host
    ) -> None:
        self._task, self._config, self._host = task, config, host
        start = task.start
        self._rows = {
            encoder: Group(f"tokens.{encoder}", {"rows": rows.to(host.device)})
            for encoder, rows in (start.rows if start else _first_rows(task, config, host)).items()
        }
        self.contrast = WordContrast.asked(task, config, old, host, self._rows)
        held = _zeros(task, config.trained) if start is None else _changes(start)
        self._weights = Group("weights", {key: each.to(host.device) for key, each in held.items()})
        live = self._weights.tensors
        self.updates: Mapping[str, FullRank] = {
            key: FullRank(delta, live.get(f"{key}{_BIAS}"))
            for key, delta in live.items()
            if not key.endswith(_BIAS)
        }

    @staticmethod
    def check(task: Task, config: CustomDiffusionConfig, host: Host) -> None:
        """Whether each word has something to begin as.

        Raises:
            ConceptError: If there is no initialiser, or one is no single token.
        """
        if task.start is None:
            _first_rows(task, config, host)

    @staticmethod
    def check_start(start: Concept, config: CustomDiffusionConfig) -> None:
        """Whether learning can go on from a taught concept.

        Raises:
            TrainingError: If it changes other layers than will learn, or its rows differ between
                layers.
        """
        sides = _SIDES[config.trained]
        wanted = {f"{layer}.{side}" for layer in start.layers for side in sides}
        whole = all(isinstance(update, FullRank) for update in start.updates.values())
        if set(start.updates) != wanted or not whole:
            raise TrainingError(
                f"Learning cannot go on from {start.name!r}: it does not change exactly what "
                f"Custom Diffusion learns with trained {config.trained!r}. Replace it instead."
            )
        if any(rows.shape[1] != 1 for rows in start.rows.values()):
            raise TrainingError(
                f"Learning cannot go on from {start.name!r}: its words have rows of their own for "
                "each layer. Replace it instead."
            )

    def stages(self) -> Sequence[Stage]:
        """Weights and rows together, at constant rates."""
        config = self._config
        tokens = config.lr if config.lr_tokens is None else config.lr_tokens
        rates = {group: tokens for group in self._rows.values()} | {self._weights: config.lr}
        kind: Literal["mixed", "paired"] = "paired" if self._paired else "mixed"
        source = PhotoBatches(prior=kind, optional=True)
        subjects = Stage("subjects", config.steps, rates, self.losses, source)
        return [subjects] if self.contrast is None else [self.contrast.stage(), subjects]

    @property
    def _paired(self) -> bool:
        return self._config.prior_batches == "paired"

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The masked denoising loss of the photos and that of the prior pictures."""
        config = self._config
        rows = {encoder: group.tensors["rows"] for encoder, group in self._rows.items()}
        found = self._host.predict(batch, rows, detach_start=True)
        errors = masked_errors(found.value, found.target, batch.seen)
        halves = 2 if self._paired and batch.is_prior is not None else 1
        scale = batch.latents.shape[1] if config.mask_norm == "diffusers" else 1
        photos, prior = with_prior(
            errors, batch.is_prior, len(errors) // halves, config.prior_weight, scale
        )
        return {"denoise": photos} | ({} if batch.is_prior is None else {"prior": prior})

    def state(self) -> dict[str, Tensor]:
        return {} if self.contrast is None else self.contrast.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self.contrast is not None:
            self.contrast.load_state(state)

    def result(self, facts: Mapping[str, object]) -> Concept:
        """The concept as learned so far, on the CPU."""
        rows = {encoder: group.tensors["rows"] for encoder, group in self._rows.items()}
        return self._task.concept(self.name, self._config, facts, self.updates, rows)


def _first_rows(task: Task, config: CustomDiffusionConfig, host: Host) -> dict[str, Tensor]:
    """What each word begins as: encoder -> (words, 1, dim); nothing without words."""
    if not task.words:
        return {}
    found = entry_rows(host, config.initializers, len(task.words))
    if not found:
        raise ConceptError(
            "Nothing is said of what the words begin as. Leave initializers out, or give numbers "
            "of vocabulary entries or plain words, joined by +."
        )
    return found


def _zeros(task: Task, trained: str) -> dict[str, Tensor]:
    """No change yet of the weights by path, and of the biases by path and `_BIAS`."""
    found: dict[str, Tensor] = {}
    for layer in task.layers:
        for side in _SIDES[trained]:
            shape = layer.shape(side)
            found[f"{layer.path}.{side}"] = torch.zeros(shape)
            if side == BIASED:
                found[f"{layer.path}.{side}{_BIAS}"] = torch.zeros(shape[0])
    return found


def _changes(start: Concept) -> dict[str, Tensor]:
    """What a taught concept has changed, named as in `_zeros`."""
    whole = {path: u for path, u in start.updates.items() if isinstance(u, FullRank)}
    biases = {f"{path}{_BIAS}": u.bias for path, u in whole.items() if u.bias is not None}
    return {path: update.delta for path, update in whole.items()} | biases
