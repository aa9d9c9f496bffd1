"""CIDM: layer-wise tokens and low-rank weights on every attn2, with concept consolidation.

Paper: Dong et al. 2024, https://arxiv.org/abs/2410.17594, section 4.1, Eq. 2, 6 and 7. The
equations are in `ops.consolidation`; where paper and released code differ: docs/EQUATIONS.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..concept import Concept, Subject
from ..config import TrainConfig
from ..ops.attention import resize_mask
from ..ops.consolidation_model import CommonSubspace, Orthogonality, Projection
from ..ops.diffusion import attention_penalty, masked_mse
from ..updates import LowRank
from .base import Adapter, Batch, Group, Host, Task
from .start import generator, start_factors, start_tokens


class Cidm:
    """A `Method`: Eq. 2 with every mode of R1 and R2.

    Args:
        task: What is learned, and on which model.
        config: Settings.
        old: Earlier concepts, read one at a time. Without any, Eq. 2 is the denoising loss.
        host: The model.
    """

    name = "cidm"  # kept with the concept
    prior_weight = 0.0

    def __init__(
        self, task: Task, config: TrainConfig, old: Collection[Concept], host: Host
    ) -> None:
        self._task, self._config, self._old, self._host = task, config, old, host
        self._alpha = config.alpha or float(config.rank)
        self._tokens = {
            encoder: self._token_group(encoder, rows)
            for encoder, rows in host.embeddings(task.class_words).items()
        }
        self._lora = self._lora_group()
        self.adapters: Mapping[str, Adapter] = {
            key.removesuffix(".up"): Adapter(
                self._lora.tensors[f"{key.removesuffix('.up')}.down"],
                up,
                self._alpha,
            )
            for key, up in self._lora.tensors.items()
            if key.endswith(".up")
        }
        self._ups = {key: pair.up for key, pair in self.adapters.items()}
        self._r1: Orthogonality | None = None
        self._r2: CommonSubspace | None = None
        self._projection: Projection | None = None
        if len(old):
            self._consolidate()

    def _token_group(self, encoder: str, class_rows: Tensor) -> Group:
        rows = self._first_tokens(class_rows, generator(self._config.seed, "tokens", encoder))
        held = {"rows": rows.to(self._host.device)}
        return Group(f"tokens.{encoder}", self._config.lr_tokens, held)

    def _first_tokens(self, class_rows: Tensor, source: torch.Generator) -> Tensor:
        """Where the tokens of an encoder start, (words, layers, dim)."""
        words, layers = len(self._task.words), len(self._task.layers)
        return start_tokens(class_rows, words, layers, self._config.token_init_std, source)

    def _first_factors(self, source: torch.Generator) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Where the low-rank weights start: down (rank, in) and up (out, rank) by path."""
        return start_factors(self._task.layers, self._config.rank, source)

    def _lora_group(self) -> Group:
        held: dict[str, Tensor] = {}
        first = self._first_factors(generator(self._config.seed, "lora"))
        for key, (down, up) in first.items():
            held[f"{key}.down"] = down.to(self._host.device)
            held[f"{key}.up"] = up.to(self._host.device)
        return Group("lora", self._config.lr_lora, held)

    def _consolidate(self) -> None:
        """Prepare R1 and R2 of Eq. 2 from the earlier concepts."""
        config, device, old = self._config, self._host.device, _Factors(self._old)
        if config.orthogonality == "projection":
            self._projection = Projection.prepare(
                old, config.rank, device, directions=config.directions
            )
        elif config.orthogonality != "none" and config.gamma1 > 0:
            mode = config.orthogonality
            kept = config.directions if mode == "energy" else None
            self._r1 = Orthogonality.prepare(old, mode, device, directions=kept)
        if config.common_subspace != "none" and config.gamma2 > 0:
            rank, mode = config.common_rank, config.common_subspace
            self._r2 = CommonSubspace.prepare(old, rank, mode, device)

    @property
    def groups(self) -> Sequence[Group]:
        return [*self._tokens.values(), self._lora]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss and, where there are concept masks, the attention regulariser."""
        config, masks = self._config, batch.concept_masks
        watch = masks is not None and config.attention_weight > 0
        tokens = {encoder: group.tensors["rows"] for encoder, group in self._tokens.items()}
        prediction = self._host.predict(batch, tokens, watch)
        seen = self._seen(batch)
        terms = {"denoise": masked_mse(prediction.value, prediction.target, seen)}
        if watch and masks is not None:
            penalty = _attention_loss(prediction.attention, masks)
            terms["attention"] = config.attention_weight * penalty
        return terms

    def _seen(self, batch: Batch) -> Tensor:
        """Where the loss looks, (batch, height, width)."""
        if batch.concept_masks is None or not self._config.use_concept_masks:
            return batch.image_masks
        return batch.image_masks * batch.concept_masks

    def penalties(self) -> dict[str, Tensor]:
        """R1 and R2 of Eq. 2, from the second task on."""
        terms: dict[str, Tensor] = {}
        if self._r1 is not None:
            terms["R1"] = self._config.gamma1 * self._r1.loss(self._ups)
        if self._r2 is not None:
            terms["R2"] = self._config.gamma2 * self._r2.loss(self._pairs())
        return terms

    def _pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        scale = self._alpha / self._config.rank
        return {
            key: (pair.up if scale == 1 else scale * pair.up, pair.down)
            for key, pair in self.adapters.items()
        }

    def gauges(self) -> dict[str, Tensor]:
        """Mean norm of the token rows of each encoder."""
        return {
            group.name: group.tensors["rows"].detach().norm(dim=-1).mean()
            for group in self._tokens.values()
            if not group.frozen
        }

    def before_update(self, gauges: Mapping[str, float]) -> None:
        """The norm stop: rows that have grown long enough never learn again."""
        for group in self._tokens.values():
            if gauges.get(group.name, 0.0) >= self._config.token_norm_limit:
                group.freeze()

    def after_update(self, factor: float) -> None:
        """R1 by projection; the second of the paper's two steps for R2."""
        if self._projection is not None:
            self._projection.apply(self._ups)
        if self._r2 is not None:
            self._r2.step(self._config.lr_lora * factor, self._pairs())

    def state(self) -> dict[str, Tensor]:
        return {} if self._r2 is None else self._r2.state_dict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self._r2 is not None:
            self._r2.load_state_dict(state)

    def result(self, facts: Mapping[str, object]) -> Concept:
        """The concept as learned so far, on the CPU."""
        task = self._task
        return Concept(
            name=task.name,
            subjects=(Subject(task.words, task.class_words, task.kind),),
            family=task.family,
            base=task.base,
            layers=tuple(layer.path for layer in task.layers),
            updates={
                key: LowRank(_kept(pair.down), _kept(pair.up), self._alpha)
                for key, pair in self.adapters.items()
            },
            rows={name: _kept(group.tensors["rows"]) for name, group in self._tokens.items()},
            method=self.name,
            config=self._config.to_dict(),
            facts=facts,
        )


class _Factors:
    """The factors of the earlier concepts, read anew each time they are gone through."""

    def __init__(self, concepts: Collection[Concept]) -> None:
        self._concepts = concepts

    def __iter__(self) -> Iterator[Mapping[str, LowRank]]:
        return (concept.low_rank for concept in self._concepts)


def _attention_loss(maps: Sequence[Tensor], masks: Tensor) -> Tensor:
    """ED-LoRA's regulariser: per resolution on the mean map of its layers, then their mean."""
    sizes: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    for layer in maps:
        sizes[layer.shape[1], layer.shape[2]].append(layer)
    penalties = [
        attention_penalty(
            torch.stack(layers).mean(0).flatten(1, 2), resize_mask(masks, *size).flatten(1)
        )
        for size, layers in sizes.items()
    ]
    return torch.stack(penalties).mean()


def _kept(tensor: nn.Parameter) -> Tensor:
    return tensor.detach().cpu().clone()
