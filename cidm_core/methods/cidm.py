"""CIDM: layer-wise tokens and low-rank weights on every attn2, with concept consolidation.

Paper: Dong et al. 2024, https://arxiv.org/abs/2410.17594, section 4.1, Eq. 2, 6 and 7. The
equations are in `ops.consolidation`; where paper and released code differ: docs/EQUATIONS.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import TrainingError
from ..families import PROJECTIONS
from ..ops.consolidation_model import CommonSubspace, Orthogonality, Projection
from ..ops.diffusion import attention_loss, masked_mse
from ..ops.schedules import linear_decay
from ..ops.seeds import generator
from ..sampling.versions import TOKEN_LAYERS
from ..settings import recipe_setting, setting
from ..updates import LowRank
from .base import Demand, Host, Stage, Task
from .batches import Batch
from .contrast import WordContrast
from .initial_values import initial_factors, initial_tokens, live_factors
from .shared import ContrastConfig
from .word_rows import WordRows, can_share


@dataclass(frozen=True, kw_only=True)
class CidmConfig(ContrastConfig):
    """How CIDM learns a concept (section 4.1 and its public hyper-parameters).

    The recipe decides the choices in which paper and released code differ. The paper has both
    terms of Eq. 2, no noise offset, no attention regulariser and no end to the learning of the
    tokens; the released code has its own form of R1, no R2, and a denoising loss that is four times
    as large (it forgets the latent's channels), which R1 is weighed against. Ours leaves R1 and R2
    out: concepts that are kept apart when they are drawn gain nothing from being kept apart while
    they are learned, and lose likeness.
    """

    recipe: str = recipe_setting("learning")
    rank: int = setting(4, "Width of each LoRA.", low=1, high=128, advanced=False)
    alpha: float | None = setting(
        None,
        "LoRA alpha: a weight changes by alpha / rank * up * down. By default it is the rank.",
        low=1e-3,
    )
    lr_tokens: float = setting(1e-3, "Learning rate of the concept tokens.", low=0.0, high=1.0)
    lr_lora: float = setting(1e-4, "Learning rate of the low-rank weights.", low=0.0, high=1.0)
    token_layers: str = setting(
        {"ours": "block", "paper": "layer", "released": "layer"},
        "Which cross-attention layers share the rows of a word: none, as in the paper (layer); "
        "those of an attention block, of which SDXL has 11 with 70 layers and SD 1.5 16 with one "
        "each (block); or all (one). Every version is encoded anew in each step.",
        choices=TOKEN_LAYERS,
    )
    noise_offset: float = setting(
        {"ours": 0.01, "paper": 0.0, "released": 0.01},
        "Size of the per-channel noise offset.",
        low=0.0,
        high=1.0,
    )
    token_init_std: float = setting(
        0.013,
        "Spread of the first token at the start, in CLIP-L's units; for other text encoders it is "
        "brought to their scale.",
        low=0.0,
        high=10.0,
    )
    token_norm_limit: float = setting(
        {"ours": 0.55, "paper": 1e3, "released": 0.55},
        "The tokens stop learning for good once their mean norm reaches this, in units of the "
        "first text encoder.",
        low=0.0,
        high=1e3,
    )
    gamma1: float = setting(
        0.1, "Weight of R1, the orthogonality of subspaces (Eq. 2).", low=0.0, high=1e3
    )
    gamma2: float = setting(1.0, "Weight of R2, the common subspace (Eq. 2).", low=0.0, high=1e3)
    orthogonality: str = setting(
        {"ours": "none", "paper": "subspace", "released": "released"},
        "Form of R1: inner products as the paper means them (subspace), their squares (energy), as "
        "in the released code, by projection without a loss, or none.",
        choices=("subspace", "energy", "released", "projection", "none"),
    )
    directions: int = setting(
        64,
        "With R1 by energy or projection, so many of the strongest directions of earlier concepts "
        "are kept for each layer.",
        low=1,
        high=4096,
    )
    common_subspace: str = setting(
        {"ours": "none", "paper": "gradient", "released": "none"},
        "Form of R2: a truncated SVD once (closed_form), the paper's two steps (gradient), or "
        "none.",
        choices=("closed_form", "gradient", "none"),
    )
    common_rank: int = setting(16, "Rank k of the common subspace W*.", low=1, high=512)
    loss_scale: str = setting(
        {"ours": "mean", "paper": "mean", "released": "channel_sum"},
        "Size of the denoising loss: the mean over the masked latent, or the sum over its channels "
        "of such means, as in the released code.",
        choices=("mean", "channel_sum"),
    )
    use_concept_masks: bool = setting(
        True, "Where photos have concept masks, the loss looks inside them only."
    )
    attention_weight: float = setting(
        {"ours": 0.01, "paper": 0.0, "released": 0.01},
        "Weight of the attention regulariser, which needs concept masks.",
        low=0.0,
        high=10.0,
    )


class Cidm:
    """A `Method`: Eq. 2 with every mode of R1 and R2.

    Args:
        task: What is learned, and on which model.
        config: Settings.
        old: Earlier concepts, read one at a time. Without any, Eq. 2 is the denoising loss.
        host: The model.
    """

    name = "cidm"  # kept with the concept
    Config: ClassVar[type[CidmConfig]] = CidmConfig
    words: ClassVar[Demand] = "needed"
    modifier: ClassVar[bool] = False
    prior: ClassVar[Demand] = "unused"
    several: ClassVar[bool] = False

    def __init__(
        self, task: Task, config: CidmConfig, old: Collection[Concept], host: Host
    ) -> None:
        self._task, self._config, self._old, self._host = task, config, old, host
        self._alpha = config.alpha or float(config.rank)
        begin, spread = self._first_tokens, config.token_init_std
        self._rows = WordRows(task, host, config.token_layers, spread, config.seed, begin)
        self.contrast = WordContrast.asked(task, config, old, host, self._rows.groups)
        factors = dict(self._first_factors(generator(config.seed, "lora")))
        if task.start is not None:
            factors |= {path: (pair.down, pair.up) for path, pair in task.start.low_rank.items()}
        self.updates: Mapping[str, LowRank]
        self._lora, self.updates = live_factors(factors, self._alpha, host.device)
        self._ups = {key: pair.up for key, pair in self.updates.items()}
        self._r1: Orthogonality | None = None
        self._r2: CommonSubspace | None = None
        self._projection: Projection | None = None
        if len(old):
            self._consolidate()

    @staticmethod
    def check_start(start: Concept, config: CidmConfig) -> None:
        """Whether learning can go on from a taught concept.

        Raises:
            TrainingError: If it has other ranks, changes layers that are not learned here, or has
                rows of its own for layers that are to share them.
        """
        for rows in start.rows.values():
            if not can_share(rows, start.layers, config.token_layers):
                raise TrainingError(
                    f"Learning cannot go on from {start.name!r} with token_layers "
                    f"{config.token_layers!r}: its words mean something else in layers that would "
                    "share their rows. Give token_layers 'layer', or replace it instead."
                )
        known = {f"{layer}.{projection}" for layer in start.layers for projection in PROJECTIONS}
        alpha = config.alpha or float(config.rank)
        for path, update in start.updates.items():
            if path not in known or not isinstance(update, LowRank):
                raise TrainingError(
                    f"Learning cannot go on from {start.name!r}: it changes {path}, which CIDM "
                    "does not learn. Replace it instead."
                )
            if update.rank != config.rank or not math.isclose(update.alpha, alpha, rel_tol=1e-6):
                raise TrainingError(
                    f"Learning cannot go on from {start.name!r}: it has rank {update.rank} and "
                    f"alpha {update.alpha:g}, asked for are rank {config.rank} and alpha "
                    f"{alpha:g}. Give the same, or replace it instead."
                )

    def _first_tokens(
        self, class_rows: Tensor, versions: int, std: float, source: torch.Generator
    ) -> Tensor:
        """Where the tokens of an encoder start, (words, versions, dim)."""
        return initial_tokens(class_rows, len(self._task.words), versions, std, source)

    def _first_factors(self, source: torch.Generator) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Where the low-rank weights start: down (rank, in) and up (out, rank) by path."""
        return initial_factors(self._task.layers, self._config.rank, source)

    def _consolidate(self) -> None:
        """Prepare R1 and R2 of Eq. 2 from the earlier concepts."""
        config, device = self._config, self._host.device
        if config.orthogonality == "projection":
            self._projection = Projection.prepare(
                self._earlier(), config.rank, device, directions=config.directions
            )
        elif config.orthogonality != "none" and config.gamma1 > 0:
            mode = config.orthogonality
            kept = config.directions if mode == "energy" else None
            self._r1 = Orthogonality.prepare(self._earlier(), mode, device, directions=kept)
        if config.common_subspace != "none" and config.gamma2 > 0:
            rank, mode = config.common_rank, config.common_subspace
            self._r2 = CommonSubspace.prepare(self._earlier(), rank, mode, device)

    def _earlier(self) -> Iterator[Mapping[str, LowRank]]:
        """The low-rank updates of the earlier concepts, read one at a time."""
        return (concept.low_rank for concept in self._old)

    def stages(self) -> Sequence[Stage]:
        """Tokens and low-rank weights together, their learning rates falling to 0."""
        rates = {group: self._config.lr_tokens for group in self._rows.groups.values()}
        concept = Stage(
            "concept",
            self._config.steps,
            rates | {self._lora: self._config.lr_lora},
            self.losses,
            schedule=linear_decay,
            penalties=self.penalties,
            measure=self.token_norms,
            before_update=self.stop_long_tokens,
            after_update=self.after_update,
        )
        return [concept] if self.contrast is None else [self.contrast.stage(), concept]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss and, where there are concept masks, the attention regulariser."""
        config, masks = self._config, batch.concept_masks
        watch = masks is not None and config.attention_weight > 0
        prediction = self._host.predict(batch, self._rows.live, watch)
        seen = batch.seen if config.use_concept_masks else batch.image_masks
        terms = {"denoise": masked_mse(prediction.value, prediction.target, seen)}
        if config.loss_scale == "channel_sum":
            terms["denoise"] = batch.latents.shape[1] * terms["denoise"]
        if watch and masks is not None:
            penalty = attention_loss(prediction.attention, masks)
            terms["attention"] = config.attention_weight * penalty
        return terms

    def penalties(self) -> dict[str, Tensor]:
        """R1 and R2 of Eq. 2, from the second task on."""
        terms: dict[str, Tensor] = {}
        if self._r1 is not None:
            terms["R1"] = self._config.gamma1 * self._r1.loss(self._ups)
        if self._r2 is not None:
            terms["R2"] = self._config.gamma2 * self._r2.loss(self._pairs())
        return terms

    def _pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {
            key: (pair.up if pair.scale == 1 else pair.scale * pair.up, pair.down)
            for key, pair in self.updates.items()
        }

    def token_norms(self) -> dict[str, Tensor]:
        """Mean norm of the token rows of each encoder."""
        return self._rows.norms()

    def stop_long_tokens(self, norms: Mapping[str, float]) -> None:
        """The norm stop: rows that have grown long enough never learn again."""
        self._rows.stop_long(norms, self._config.token_norm_limit)

    def after_update(self, factor: float) -> None:
        """R1 by projection; the second of the paper's two steps for R2."""
        if self._projection is not None:
            self._projection.apply(self._ups)
        if self._r2 is not None:
            self._r2.step(self._config.lr_lora * factor, self._pairs())

    def state(self) -> dict[str, Tensor]:
        kept = {} if self._r2 is None else self._r2.state_dict()
        return kept if self.contrast is None else {**kept, **self.contrast.state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self._r2 is not None:
            self._r2.load_state_dict(state)
        if self.contrast is not None:
            self.contrast.load_state(state)

    def result(self, facts: Mapping[str, object]) -> Concept:
        """The concept as learned so far, on the CPU."""
        rows = self._rows.of_layers()
        return self._task.concept(self.name, self._config, facts, self.updates, rows)
