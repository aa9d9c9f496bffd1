"""The denoising loop: any diffusers scheduler, all UNet rows of a step in one call if they fit."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..config import SampleConfig
from ..devices import is_out_of_memory
from ..errors import HostError
from ..ops.diffusion import noise_of_v, v_of_noise
from ..sampling.plan import Plan
from ..sampling.streams import Phase, phase_at
from .base import Base
from .patches import Attached, attach
from .rows import RowTable
from .schedulers import Estimate, OnStep, Start, make_scheduler, solve

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
        self.base, self.attached, self.config = base, attached, config
        # As printed, the shares of Eq. 5 do not sum to 1: it holds for noise only.
        as_noise = config.region_mode == "literal" and base.prediction_type == "v_prediction"
        a = make_scheduler(base.scheduler_config, "ddpm").alphas_cumprod if as_noise else None
        self.signals = None if a is None else a.to(base.device)
        self.latent_size = latent_size
        plan = attached.plan
        self.scene_of = [i % len(plan.scenes) for i in range(pictures)]
        self.context = torch.zeros(1, 1, base.family.context_dim).to(base.device, base.dtype)
        self.at_once = config.rows_at_once
        self._tables: dict[Phase, RowTable] = {}

    def _table(self, timestep: Tensor) -> RowTable:
        """The rows that run at a timestep."""
        plan = self.attached.plan
        phase: Phase = "both"
        if plan.streams.plain:
            levels = self.base.scheduler_config.get("num_train_timesteps", 1000)
            # Pictures at several levels at once are in the phase of the noisiest.
            noisiest = float(torch.as_tensor(timestep).max())
            phase = phase_at((noisiest + 1) / levels, self.config)
        if phase not in self._tables:
            arranged = plan.arranged(phase)
            scenes = [arranged[scene] for scene in self.scene_of]
            size = self.latent_size
            self._tables[phase] = RowTable(self.base, plan, scenes, size, self.config)
        return self._tables[phase]

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        plan, table = self.attached.plan, self._table(timestep)
        counts = [len(plan.scenes[scene].rows) for scene in self.scene_of]
        estimates = torch.cat(list(self._rows(latents, timestep))).float()
        if len(table.kept) < len(table):
            estimates = estimates[table.kept]
        guided, signal = list[Tensor](), self._signal(timestep)
        for rows, scene, noisy in zip(estimates.split(counts), self.scene_of, latents, strict=True):
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
        table, first = self._table(timestep), 0
        while first < len(table):
            last = table.end(first, self.at_once or len(table))
            try:
                yield self._call(table, latents, timestep, first, last)
            except RuntimeError as error:
                self._split(error, last - first, table.end(first, 1) - first)
            else:
                first = last

    def _call(
        self, table: RowTable, latents: Tensor, timestep: Tensor, first: int, last: int
    ) -> Tensor:
        self.attached.rows = table.call(first, last)
        rows = latents[table.picture[first:last]].to(self.base.dtype)
        given: dict[str, Any] = {"encoder_hidden_states": self.context.expand(last - first, -1, -1)}
        if table.added:
            given["added_cond_kwargs"] = {k: v[first:last] for k, v in table.added.items()}
        return self.base.unet(rows, timestep, **given).sample

    def _split(self, error: RuntimeError, rows: int, fewest: int) -> None:
        """Halve the rows per call when memory ran out; anything else is raised again."""
        if not is_out_of_memory(error):
            raise error
        if rows == fewest:
            raise HostError(
                "Out of memory with a single UNet row per call. Use a smaller picture, "
                "--dtype bf16 or fp16, or close other programs."
            ) from error
        self.at_once = max(1, rows // 2)
        logger.warning("Memory is short: %d UNet rows per call from now on.", self.at_once)
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()
