"""Learning without forgetting: the estimates of the model before the task are distilled.

Li and Hoiem 2017, https://arxiv.org/abs/1606.09282. Their old outputs, on the new task's data,
are here the noise estimates with an earlier concept's tokens in place of the new ones.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.config import TrainConfig
from cidm_core.errors import TrainingError
from cidm_core.methods.base import Batch, Host, Task
from cidm_core.methods.cidm import CidmConfig
from cidm_core.ops.diffusion import masked_mse
from cidm_core.updates import LowRank

from .sequential import Sequential


class Lwf(Sequential):
    """Adds `weight * mean (eps(z_t, v_old) - eps_before(z_t, v_old))^2` to the denoising loss.

    Each batch reads one earlier concept's tokens v_old. eps_before is the model with the low-rank
    weights as the task before left them.

    Args:
        task: What is learned.
        config: Settings.
        old: Earlier concepts.
        host: The model.
        weight: Of the distillation.

    Raises:
        TrainingError: If activations are to be recomputed, or an earlier concept has another
            number of words.
    """

    name = "lwf"

    def __init__(
        self,
        task: Task,
        config: CidmConfig,
        old: Collection[Concept],
        host: Host,
        *,
        weight: float,
    ) -> None:
        refuse_recomputing(config, "LwF")
        super().__init__(task, config, old, host)
        self._weight = weight
        concepts = list(old)
        self._heads = [_rows(concept, task, host.device) for concept in concepts]
        self._before = concepts[-1].low_rank if concepts else {}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss and, from the second task on, the distillation."""
        terms: dict[str, Tensor] = {}
        if self._heads:
            # From the batch itself: a run taken up again then picks as it would have.
            head = self._heads[int(batch.timesteps.sum()) % len(self._heads)]
            with torch.no_grad(), swapped(self.updates, self._before):
                taught = self._host.predict(batch, head, False).value
            kept = self._host.predict(batch, head, False).value
            terms["distil"] = self._weight * masked_mse(kept, taught, self._seen(batch))
        return super().losses(batch) | terms


def refuse_recomputing(config: TrainConfig, who: str) -> None:
    """The contexts of a first pass are gone when the second one's backward wants them.

    Raises:
        TrainingError: If activations are to be recomputed.
    """
    if config.gradient_checkpointing:
        raise TrainingError(
            f"{who} runs the model more than once for each batch and cannot recompute "
            "activations. Turn gradient_checkpointing off."
        )


def _rows(concept: Concept, task: Task, device: torch.device) -> Mapping[str, Tensor]:
    if len(concept.words) != len(task.words):
        raise TrainingError(
            f"{concept.name!r} has {len(concept.words)} words, {task.name!r} {len(task.words)}. "
            "LwF puts the ones in the place of the others: give every concept as many."
        )
    return {encoder: rows.to(device) for encoder, rows in concept.rows.items()}


@contextmanager
def swapped(updates: Mapping[str, LowRank], factors: Mapping[str, LowRank]) -> Generator[None]:
    """Other values in the live updates for a while. Leave before a graph is built on them."""
    held: Sequence[tuple[Tensor, Tensor]] = [
        (tensor.data, tensor.detach().clone())
        for update in updates.values()
        for tensor in (update.down, update.up)
    ]
    try:
        for path, update in updates.items():
            update.down.data.copy_(factors[path].down)
            update.up.data.copy_(factors[path].up)
        yield
    finally:
        for tensor, value in held:
            tensor.copy_(value)
