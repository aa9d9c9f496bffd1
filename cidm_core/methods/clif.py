"""CLIF: words told apart by contrast, then textual inversion, then LoRA and words together.

Paper: Lin et al. 2024, "contrastive image-language fine-tuning", https://arxiv.org/abs/2405.06914.
The contrast is in `methods.contrast`; where paper and released code differ: docs/EQUATIONS.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..composite_options import CompositeOptions
from ..concept import Concept
from ..config import TrainConfig
from ..errors import ConceptError, TrainingError
from ..families import CrossAttention
from ..ops.diffusion import masked_errors, snr_weights
from ..ops.schedules import Schedule, constant, piecewise
from ..ops.seeds import generator
from ..settings import other_default, recipe_setting, setting
from ..updates import LowRank
from .base import Demand, Host, Stage, Task
from .batches import Batch, PhotoBatches
from .contrast import WordContrast
from .group import Group
from .initial_values import entry_rows, initial_factors, live_factors
from .shared import CompositesConfig, ContrastReading

STAGES = ("contrast", "words", "weights")
_COUNTS = ("global_pairs", "region_pairs", "meeting_pairs")


@dataclass(frozen=True, kw_only=True)
class ClifConfig(CompositesConfig):
    """How CLIF learns subjects (stages A, B1 and B2).

    The recipe decides the choices in which paper and released code differ: the contrast of the
    released code, and the rates of the words, a rule of falling steps that it is given and ignores.
    """

    recipe: str = recipe_setting("learning")
    stages: str = setting(
        "+".join(STAGES),
        "What is done, joined by +: words told apart by contrast (contrast), textual inversion of "
        "both text encoders (words), LoRA and words together (weights).",
    )
    steps: int = setting(
        500,
        "Optimiser steps of the last stage, in which LoRA and words learn together.",
        low=1,
        high=100_000,
        advanced=False,
    )
    word_steps: int = setting(
        300, "Optimiser steps of textual inversion.", low=0, high=100_000, advanced=False
    )
    batch_size: int = other_default(TrainConfig, "batch_size", 2)
    accumulation: int = other_default(TrainConfig, "accumulation", 2)
    rank: int = setting(16, "Width of each LoRA.", low=1, high=128, advanced=False)
    alpha: float | None = setting(
        None,
        "LoRA alpha: a weight changes by alpha / rank * up * down. By default it is the rank.",
        low=1e-3,
    )
    lr: float = setting(
        2e-4, "Learning rate of LoRA, and of the words beside it.", low=0.0, high=1.0
    )
    lr_words: float = setting(
        2e-4, "Learning rate of the words in textual inversion.", low=0.0, high=1.0
    )
    word_rule: str = setting(
        {"ours": "", "paper": "1:200,0.4:500,0.1:1000,0.04:2000,0.01", "released": ""},
        "How the rate of textual inversion falls: factors, each with the step it ends at, and one "
        "for the rest, such as 1:200,0.4:500,0.1. By default it is constant.",
    )
    initializers: str = setting(
        "",
        "What each word begins as, joined by +: plain words of one token, or numbers of vocabulary "
        "entries, taken in turn. By default the last token of the class words.",
    )
    snr_gamma: float | None = setting(
        None,
        "Weight noise levels by min-SNR with this gamma; its authors use 5. By default all count "
        "alike.",
        low=1e-3,
        high=1e3,
    )
    global_pairs: int = other_default(CompositeOptions, "global_pairs", 100)
    region_pairs: int = other_default(CompositeOptions, "region_pairs", 100)
    meeting_pairs: int = other_default(CompositeOptions, "meeting_pairs", 20)
    contrast_batch: int = setting(
        128, "Composites that are contrasted with each other in a step.", low=2, high=4096
    )
    contrast_loss: str = setting(
        {"ours": "clip", "paper": "clip", "released": "released"},
        "Reading of the contrast: CLIP's own, in which composites of one caption are no negatives "
        "of each other (clip), or the released code's: features of any length, read at the last "
        "word instead of the end of the text, each pair for itself (released).",
        choices=("clip", "released"),
    )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The stages asked for, in their order.

        Raises:
            TrainingError: If there is none, or one is unknown.
        """
        asked = {name.strip() for name in self.stages.split("+") if name.strip()}
        if not asked or not asked <= set(STAGES):
            raise TrainingError(
                f"stages is {self.stages!r}. Join some of {', '.join(STAGES)} by +: "
                f"{'+'.join(STAGES)}."
            )
        return tuple(name for name in STAGES if name in asked)

    @property
    def contrasts(self) -> bool:
        return "contrast" in self.chosen and super().contrasts

    @property
    def all_steps(self) -> int:
        steps = {
            "contrast": self.contrast_steps,
            "words": self.word_steps,
            "weights": self.steps,
        }
        return sum(steps[stage] for stage in self.chosen)

    @property
    def reading(self) -> ContrastReading:
        return ContrastReading(self.contrast_batch, self.contrast_loss)

    def composite_options(self, side_px: int) -> CompositeOptions:
        counts = {name: getattr(self, name) for name in _COUNTS}
        return CompositeOptions(**counts, side_px=side_px, seed=self.seed)


class Clif:
    """A `Method`: rows for all layers, LoRA on self- and cross-attention, several subjects at once.

    Args:
        task: What is learned, and on which model.
        config: Settings.
        old: Earlier concepts; their words stand as negatives in the contrast.
        host: The model.
    """

    name = "clif"  # kept with the concept
    Config: ClassVar[type[ClifConfig]] = ClifConfig
    words: ClassVar[Demand] = "needed"
    modifier: ClassVar[bool] = False
    prior: ClassVar[Demand] = "unused"
    several: ClassVar[bool] = True

    def __init__(
        self, task: Task, config: ClifConfig, old: Collection[Concept], host: Host
    ) -> None:
        self._task, self._config, self._host = task, config, host
        start = task.start
        self._rows = {
            encoder: Group(f"tokens.{encoder}", {"rows": rows.to(host.device)})
            for encoder, rows in (start.rows if start else _first_rows(task, config, host)).items()
        }
        self.contrast = WordContrast.asked(task, config, old, host, self._rows)
        factors = initial_factors(_layers(task), config.rank, generator(config.seed, "lora"))
        factors |= {p: (u.down, u.up) for p, u in (start.low_rank if start else {}).items()}
        self.updates: Mapping[str, LowRank]
        self._lora, self.updates = live_factors(factors, _alpha(config), host.device)

    @staticmethod
    def check(task: Task, config: ClifConfig, host: Host) -> None:
        """Whether stages and rule can be read, and each word has something to begin as.

        Raises:
            ConceptError: If an initialiser is no single token.
            TrainingError: If a stage is unknown or the rule no rule.
        """
        _ = config.chosen, _schedule(config)
        if task.start is None:
            _first_rows(task, config, host)

    @staticmethod
    def check_start(start: Concept, config: ClifConfig) -> None:
        """Whether learning can go on from a taught concept.

        Raises:
            TrainingError: If it has other ranks, changes other layers, or its words have rows of
                their own for each layer.
        """
        alpha = _alpha(config)
        same = all(
            isinstance(u, LowRank)
            and u.rank == config.rank
            and math.isclose(u.alpha, alpha, rel_tol=1e-6)
            for u in start.updates.values()
        )
        known = {layer.rpartition(".")[0] for layer in start.layers}
        inside = all(path.partition(".attn")[0] in known for path in start.updates)
        single = all(rows.shape[1] == 1 for rows in start.rows.values())
        if not (same and inside and single):
            raise TrainingError(
                f"Learning cannot go on from {start.name!r}: CLIF learns LoRAs of rank "
                f"{config.rank} and alpha {alpha:g} in attention, and one row for all layers. Give "
                "the rank it has, or replace it instead."
            )

    def stages(self) -> Sequence[Stage]:
        """Contrast (A), textual inversion (B1), LoRA and words (B2)."""
        config, rows = self._config, list(self._rows.values())
        wrapped, written = PhotoBatches(templates="varied"), PhotoBatches(templates="plain")
        words = Stage(
            "words",
            config.word_steps,
            dict.fromkeys(rows, config.lr_words),
            self.losses,
            source=wrapped,
            schedule=_schedule(config),
        )
        weights = Stage(
            "weights",
            config.steps,
            dict.fromkeys([*rows, self._lora], config.lr),
            self.losses,
            source=written,
        )
        found = [] if self.contrast is None else [self.contrast.stage()]
        return found + [stage for stage in (words, weights) if stage.name in config.chosen]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The denoising loss, of noise levels weighted by min-SNR if that is asked for."""
        rows = {encoder: group.tensors["rows"] for encoder, group in self._rows.items()}
        found = self._host.predict(batch, rows)
        errors = masked_errors(found.value, found.target, batch.image_masks)
        if self._config.snr_gamma is not None:
            alphas, kind = found.alphas_cumprod, found.prediction_type
            errors = errors * snr_weights(alphas, self._config.snr_gamma, kind)
        return {"denoise": errors.mean()}

    def state(self) -> dict[str, Tensor]:
        return {} if self.contrast is None else self.contrast.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self.contrast is not None:
            self.contrast.load_state(state)

    def result(self, facts: Mapping[str, object]) -> Concept:
        """The concept as learned so far, on the CPU; without weights that nothing has taught."""
        rows = {encoder: group.tensors["rows"] for encoder, group in self._rows.items()}
        taught = "weights" in self._config.chosen or self._task.start is not None
        updates = self.updates if taught else {}
        return self._task.concept(self.name, self._config, facts, updates, rows)


def _alpha(config: ClifConfig) -> float:
    return config.alpha or float(config.rank)


def _schedule(config: ClifConfig) -> Schedule:
    return piecewise(config.word_rule) if config.word_rule.strip() else constant


def _layers(task: Task) -> list[CrossAttention]:
    """Every attn1 and attn2; self-attention reads features where cross-attention reads text."""
    found: list[CrossAttention] = []
    for layer in task.layers:
        itself = f"{layer.path.removesuffix('attn2')}attn1"
        found += [CrossAttention(itself, layer.width, layer.width), layer]
    return found


def _first_rows(task: Task, config: ClifConfig, host: Host) -> dict[str, Tensor]:
    """What each word begins as: encoder -> (words, 1, dim)."""
    if named := entry_rows(host, config.initializers, len(task.words)):
        return named
    parts: dict[str, list[Tensor]] = {}
    for subject in task.subjects:
        for encoder, rows in host.embeddings(subject.class_words).items():
            if not len(rows):
                raise ConceptError(
                    "The class words are empty. Name what the concept is, such as 'dog'."
                )
            parts.setdefault(encoder, []).append(rows[-1:].expand(len(subject.words), -1))
    return {encoder: torch.cat(rows)[:, None].clone() for encoder, rows in parts.items()}
