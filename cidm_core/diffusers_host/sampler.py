"""The denoising loop: any diffusers scheduler, all UNet rows of a step in one call if they fit."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..config import SampleConfig
from ..devices import is_out_of_memory
from ..errors import HostError
from ..ops.diffusion import noise_of_v, v_of_noise
from ..sampling.layout import Scene
from ..sampling.plan import Plan
from ..sampling.regional import Insert, Inserts
from .base import Base
from .patches import Attached, CallRows, attach
from .schedulers import Estimate, OnStep, Start, make_scheduler, solve
from .sizes import added_conditions
from .start import told_sizes

logger = logging.getLogger(__name__)


def sample(
    base: Base,
    plan: Plan,
    noise: Tensor,
    config: SampleConfig,
    start: Start | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Denoise to clean latents.

    Args:
        base: The model.
        plan: What to draw; picture i belongs to scene `i % len(plan.scenes)`.
        noise: (pictures, channels, height, width), standard normal.
        config: Steps, scheduler, seed, execution, denoise.
        start: Latents of a picture to start from or to keep parts of.
        on_step: Called after every step; what it raises ends the sampling cleanly.

    Returns:
        (pictures, channels, height, width), float32.
    """
    scheduler = make_scheduler(base.scheduler_config, config.scheduler)
    denoise = 1.0 if start is None or config.denoise is None else config.denoise
    if start is not None and denoise == 0:
        return start.latents.expand_as(noise).clone()
    # Picture n of every scene has the noise that it has alone.
    seeds = [config.alone(i // len(plan.scenes)).seed + 1 for i in range(len(noise))]
    with torch.no_grad(), attach(base, plan, config.execution) as attached:
        size = (noise.shape[-2], noise.shape[-1])
        estimate = _Estimate(base, attached, len(noise), size, config)
        return solve(
            scheduler,
            estimate,
            noise,
            config.steps,
            seeds,
            denoise,
            start=start,
            on_step=on_step,
            eta=config.eta,
        )


@contextmanager
def estimating(
    base: Base, plan: Plan, pictures: int, size: tuple[int, int], config: SampleConfig
) -> Generator[Estimate]:
    """The guided noise estimate of a plan, for who has noisy latents of its own.

    Args:
        base: The model.
        plan: What is drawn; picture i belongs to scene `i % len(plan.scenes)`.
        pictures: How many.
        size: (height, width) of the latents.
        config: Guidance, execution.
    """
    with torch.no_grad(), attach(base, plan, config.execution) as attached:
        yield _Estimate(base, attached, pictures, size, config)


class _Estimate:
    """Guided noise estimate of all pictures: U + 2 rows each, in as few calls as memory allows."""

    def __init__(
        self,
        base: Base,
        attached: Attached,
        pictures: int,
        latent_size: tuple[int, int],
        config: SampleConfig,
    ) -> None:
        self.base, self.attached = base, attached
        # As printed, the shares of Eq. 5 do not sum to 1: it holds for noise only.
        as_noise = config.region_mode == "literal" and base.prediction_type == "v_prediction"
        a = make_scheduler(base.scheduler_config, "ddpm").alphas_cumprod if as_noise else None
        self.signals = None if a is None else a.to(base.device)
        self.latent_size = latent_size
        plan = attached.plan
        self.scene_of = [i % len(plan.scenes) for i in range(pictures)]
        scenes = [plan.scenes[s] for s in self.scene_of]
        self.picture = [i for i, scene in enumerate(scenes) for _ in scene.rows]
        slots = [slot for scene in scenes for slot in scene.rows]
        self.slots = torch.tensor(slots).to(base.device)
        self.inserts = list(self._inserts(scenes))
        self.context = torch.zeros(1, 1, base.family.context_dim).to(base.device, base.dtype)
        self.added = self._added(config)
        self.at_once = config.rows_at_once or len(self.picture)
        self._calls: dict[tuple[int, int], CallRows] = {}

    def _inserts(self, scenes: Sequence[Scene]) -> Iterator[Insert]:
        masks = self.attached.plan.masks.to(self.base.device)
        pairs = [pairs for scene in scenes for pairs in scene.inserts]
        for row, regions in enumerate(pairs):
            if regions:
                slots, areas = zip(*regions, strict=True)
                yield Insert(row, torch.tensor(slots).to(self.base.device), masks[list(areas)])

    def _added(self, config: SampleConfig) -> dict[str, Tensor]:
        """Pooled text and sizes of every row, for families whose UNet reads them."""
        texts = [slot.text for slot in self.attached.plan.slots if slot.text]
        found = [text.pooled for text in texts if text.pooled is not None]
        if not found:
            return {}
        pooled = torch.stack(found).to(self.base.device, self.base.dtype)[self.slots]
        height, width = (side * self.base.family.latent_px for side in self.latent_size)
        return added_conditions(pooled, [told_sizes(config, height, width)] * len(pooled))

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        plan = self.attached.plan
        counts = [len(plan.scenes[scene].rows) for scene in self.scene_of]
        parts = torch.cat(list(self._rows(latents, timestep))).float().split(counts)
        guided, signal = list[Tensor](), self._signal(timestep)
        for rows, scene, noisy in zip(parts, self.scene_of, latents, strict=True):
            if signal is not None:
                rows = noise_of_v(rows, noisy, signal)
            estimate = plan.guide(rows[:, None], scene)
            guided.append(estimate if signal is None else v_of_noise(estimate, noisy, signal))
        return torch.cat(guided)

    def _signal(self, timestep: Tensor) -> Tensor | None:
        """a_t, where v must become noise; a timestep may lie between two that were learned."""
        if self.signals is None:
            return None
        low = timestep.floor().long()
        high = (low + 1).clamp(max=len(self.signals) - 1)
        return torch.lerp(self.signals[low], self.signals[high], timestep.float() - low)

    def _rows(self, latents: Tensor, timestep: Tensor) -> Iterator[Tensor]:
        first = 0
        while first < len(self.picture):
            last = min(first + self.at_once, len(self.picture))
            try:
                yield self._call(latents, timestep, first, last)
            except RuntimeError as error:
                self._split(error, last - first)
            else:
                first = last

    def _call(self, latents: Tensor, timestep: Tensor, first: int, last: int) -> Tensor:
        if (first, last) not in self._calls:
            held = [replace(i, row=i.row - first) for i in self.inserts if first <= i.row < last]
            size = self.latent_size
            self._calls[first, last] = CallRows(self.slots[first:last], Inserts(held), size)
        self.attached.rows = self._calls[first, last]
        rows = latents[self.picture[first:last]].to(self.base.dtype)
        given: dict[str, Any] = {"encoder_hidden_states": self.context.expand(last - first, -1, -1)}
        if self.added:
            given["added_cond_kwargs"] = {k: v[first:last] for k, v in self.added.items()}
        return self.base.unet(rows, timestep, **given).sample

    def _split(self, error: RuntimeError, rows: int) -> None:
        """Halve the rows per call when memory ran out; anything else is raised again."""
        if not is_out_of_memory(error):
            raise error
        if rows == 1:
            raise HostError(
                "Out of memory with a single UNet row per call. Use a smaller picture, "
                "--dtype bf16 or fp16, or close other programs."
            ) from error
        self.at_once = max(1, rows // 2)
        logger.warning("Memory is short: %d UNet rows per call from now on.", self.at_once)
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()
