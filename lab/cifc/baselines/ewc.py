"""Elastic weight consolidation: weights that matter to earlier tasks are held by springs.

Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796, with the Fisher information of all
tasks in one sum around the latest weights, as Huszar 2018 (https://arxiv.org/abs/1712.03847)
derives it for more than two tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.cache import cache_latents
from cidm_core.diffusers_host.job import check_caption
from cidm_core.diffusers_host.learning import LearningHost
from cidm_core.errors import TrainingError
from cidm_core.methods.base import Host, Task
from cidm_core.methods.cidm import CidmConfig
from cidm_core.training.batches import CachedPhotos, CachedSource, Draws
from cidm_core.training.data import Photo, TrainingSubject
from cidm_core.training.loop import Stopped
from cidm_core.training.processes import Alone

from .memory import BaselineMemory
from .sequential import Sequential

SAMPLES = 128  # draws of picture, noise and timestep that the Fisher information is a mean of


class Ewc(Sequential):
    """Adds `weight / 2 * sum_k F_k (theta_k - before_k)^2` over the low-rank weights.

    Its memory holds the Fisher information of the earlier tasks.

    Raises:
        TrainingError: If the memory is of other tasks than the earlier concepts.
    """

    name = "ewc"
    _fisher: Tensor | None = None

    def _consolidate(self) -> None:
        assert self._memory is not None
        kept, names = self._memory.read(), tuple(concept.name for concept in self._old)
        if kept.tasks != names:
            raise TrainingError(
                f"EWC remembers {', '.join(kept.tasks) or 'nothing'}, but the bank holds "
                f"{', '.join(names)}. Learn the tasks in one order into an empty folder."
            )
        held = [kept.tensors[key].flatten() for key in self._lora.tensors]
        self._fisher = torch.cat(held).to(self._host.device)
        self._before = self._flat().detach().clone()

    def _flat(self) -> Tensor:
        return torch.cat([tensor.flatten() for tensor in self._lora.tensors.values()])

    def penalties(self) -> dict[str, Tensor]:
        if self._fisher is None:
            return {}
        moved = (self._fisher * (self._flat() - self._before).square()).sum()
        return {"ewc": self._weight / 2 * moved}


def remember(
    base: Base,
    memory: BaselineMemory,
    concept: Concept,
    photos: Sequence[Photo],
    config: CidmConfig,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Add a learned task's Fisher information to the memory, unless it is there already.

    Raises:
        CidmError: If the memory cannot be read or written.
        Stopped: If `should_stop` said so; the memory is then as it was.
    """
    kept = memory.read()
    if concept.name in kept.tasks:
        return
    found = fisher(base, concept, photos, config, SAMPLES, should_stop)
    total = {key: value + kept.tensors.get(key, 0) for key, value in found.items()}
    memory.write(total, (*kept.tasks, concept.name))


def fisher(
    base: Base,
    concept: Concept,
    photos: Sequence[Photo],
    config: CidmConfig,
    samples: int,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Tensor]:
    """Diagonal Fisher information of a concept's low-rank weights: mean squared gradients.

    Of the denoising loss at the learned weights, one draw at a time on the task's own photos,
    with noise that training did not see.

    Args:
        base: The model.
        concept: As learned.
        photos: What it was learned from.
        config: Settings it was learned with.
        samples: Number of draws.
        should_stop: Asked before each draw.

    Returns:
        By name of the tensor, `"{path}.down"` (rank, in) and `"{path}.up"` (out, rank), float32.

    Raises:
        Stopped: If `should_stop` said so.
    """
    host = LearningHost(base, concept.words)
    source = _draws(base, host, concept, photos, config)
    with torch.inference_mode(False), torch.enable_grad():
        method = _Learned(concept, config, base, host)
        group = method.weights
        total = torch.zeros_like(group.grad)
        with host.attached(method.updates):
            for index in range(samples):
                if should_stop is not None and should_stop():
                    raise Stopped("Stopped while EWC measured what matters; the task is learned.")
                group.grad.zero_()
                method.losses(source.batch(index))["denoise"].backward()
                total += group.grad.square()
    split = (total / samples).split([tensor.numel() for tensor in group.tensors.values()])
    named = zip(group.tensors.items(), split, strict=True)
    return {key: part.view(tensor.shape).cpu() for (key, tensor), part in named}


class _Learned(Sequential):
    """The method after the last step of a task."""

    def __init__(self, concept: Concept, config: CidmConfig, base: Base, host: Host) -> None:
        task = Task(
            name=concept.name,
            subjects=concept.subjects,
            family=concept.family,
            base=concept.base,
            layers=base.layers,
        )
        super().__init__(task, config, [concept], host)
        self.weights = self._lora
        for encoder, group in self._rows.groups.items():
            group.tensors["rows"].data.copy_(concept.rows[encoder])
            group.freeze()


def _draws(
    base: Base,
    host: LearningHost,
    concept: Concept,
    photos: Sequence[Photo],
    config: CidmConfig,
) -> CachedSource:
    """The task's pictures one at a time, in the draws of a label of its own."""
    task = TrainingSubject(photos, concept.words, concept.class_words, concept.kind)
    bound = task.bound()
    size_px = config.resolution_px or base.family.resolution_px
    draws = Draws(
        seed=config.seed,
        size=1,
        timesteps=host.timesteps,
        noise_offset=config.noise_offset,
        device=base.device,
        processes=Alone(),
        check=lambda caption: check_caption(base, caption, concept.words),
    )
    latents = cache_latents(base, bound, config, size_px)
    return CachedSource(CachedPhotos(latents, bound, label="fisher"), draws)
