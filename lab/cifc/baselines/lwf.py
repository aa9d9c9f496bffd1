"""Learning without forgetting: the estimates of the model before the task are distilled.

Li and Hoiem 2017, https://arxiv.org/abs/1606.09282. Their old outputs, on the new task's data,
are here the noise estimates with an earlier concept's tokens in place of the new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.errors import TrainingError
from cidm_core.methods.base import Task
from cidm_core.methods.batches import Batch
from cidm_core.ops.diffusion import masked_mse

from .base import swapped
from .sequential import Sequential


class Lwf(Sequential):
    """Adds `weight * mean (eps(z_t, v_old) - eps_before(z_t, v_old))^2` to the denoising loss.

    Each batch reads one earlier concept's tokens v_old. eps_before is the model with the low-rank
    weights as the task before left them.

    Raises:
        TrainingError: If an earlier concept has another number of words.
    """

    name = "lwf"
    asks_again = True
    _heads: Sequence[Mapping[str, Tensor]] = ()

    def _consolidate(self) -> None:
        concepts = list(self._old)
        self._heads = [_rows(concept, self._task, self._host.device) for concept in concepts]
        self._before = concepts[-1].low_rank

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss and, from the second task on, the distillation."""
        terms: dict[str, Tensor] = {}
        if self._heads:
            # From the batch itself: a run taken up again then picks as it would have.
            head = self._heads[int(batch.timesteps.sum()) % len(self._heads)]
            with torch.no_grad(), swapped(self.updates, self._before):
                taught = self._host.predict(batch, head, False).value
            kept = self._host.predict(batch, head, False).value
            terms["distil"] = self._weight * masked_mse(kept, taught, batch.seen)
        return super().losses(batch) | terms


def _rows(concept: Concept, task: Task, device: torch.device) -> Mapping[str, Tensor]:
    if len(concept.words) != len(task.words):
        raise TrainingError(
            f"{concept.name!r} has {len(concept.words)} words, {task.name!r} {len(task.words)}. "
            "LwF puts the ones in the place of the others: give every concept as many."
        )
    return {encoder: rows.to(device) for encoder, rows in concept.rows.items()}
