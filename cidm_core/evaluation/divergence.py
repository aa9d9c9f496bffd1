"""How far a concept changes what the model sees elsewhere: the latent Fisher divergence.

z_t are the base model's own pictures, noised; the estimates are the model's own, without guidance.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..concept import Concept
from ..config import SampleConfig
from ..diffusers_host.base import Base, changed_weights
from ..diffusers_host.pipeline import make_plan
from ..diffusers_host.sampler import estimating
from ..diffusers_host.schedulers import make_scheduler
from ..ops.diffusion import add_noise
from ..ops.overfitting import score_gaps
from ..ops.seeds import generator
from ..sampling.plan import Plan
from .drawing import Tell, batches, merged_changes
from .intervals import Measured, measured

TIMESTEPS = 10


@dataclass(frozen=True)
class Divergence:
    """Latent Fisher divergence: weighted by 1 / (1 - a_t), and of the noise estimates as such."""

    weighted: Measured
    plain: Measured


@dataclass(frozen=True, eq=False)
class DrawnSet:
    """Pictures that the base model drew of one prompt, and which numbers they have.

    Attributes:
        prompt: What was asked for.
        numbers: Picture n has the seed after the n-th.
        features: Of an encoder, of length 1, (pictures, dim).
        latents: Clean, (pictures, channels, height, width).
    """

    prompt: str
    numbers: range
    features: Tensor
    latents: Tensor


class _Noisy(NamedTuple):
    latents: Tensor  # z_t
    timestep: int
    alpha: Tensor  # a_t


@dataclass(frozen=True, eq=False)
class Divergences:
    """Compares the estimates of the model with a concept and without.

    Attributes:
        base: The model.
        config: Sampling; its seeds, and how a concept is drawn.
    """

    base: Base
    config: SampleConfig

    def of(
        self, concept: Concept, sets: Sequence[DrawnSet], tell: Tell, *, merged: bool
    ) -> Divergence:
        """Mean over the pictures of all sets.

        Args:
            concept: Alone, as it is drawn here, or `merged`: its weights in the model.
            sets: What z_t is made of.
            tell: Hears how many pictures were looked at.
            merged: See `concept`.
        """
        found = [part for each in sets for part in self._gaps(concept, each, tell, merged)]
        weighted, plain = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Divergence(measured(torch.mean, weighted), measured(torch.mean, plain))

    def _gaps(
        self, concept: Concept, held: DrawnSet, tell: Tell, merged: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Gaps of each picture, weighted and not, mean over timesteps, batch by batch."""
        plain = self._plan(held.prompt, {})
        with self._at_work(concept, merged) as bank:
            plan = self._plan(held.prompt, bank)
            touched = bool(plan.concepts) or (merged and bool(concept.updates))
        for some in batches(range(len(held.numbers))):
            if not touched:  # the very same model
                tell(len(some))
                nothing = torch.zeros(len(some), dtype=torch.float64)
                yield nothing, nothing
                continue
            noisy = list(self._noised(held, some))
            before = self._estimates(plain, noisy)
            with self._at_work(concept, merged):
                after = self._estimates(plan, noisy)
            tell(len(some))
            pairs = zip(after, before, noisy, strict=True)
            gaps = [score_gaps(new, old, each.alpha) for new, old, each in pairs]
            weighted, unweighted = zip(*gaps, strict=True)
            yield torch.stack(weighted).mean(0).cpu(), torch.stack(unweighted).mean(0).cpu()

    @contextmanager
    def _at_work(self, concept: Concept, merged: bool) -> Generator[Mapping[str, Concept]]:
        """What to draw with: a bank with the concept, or what of it cannot be merged, and merged.

        A value residual is no weight: it acts where the concept is called, and its class words
        call it here without being asked to.
        """
        if not merged:
            yield {concept.name: concept}
            return
        rest = concept.residuals
        with changed_weights(merged_changes(self.base, concept)):
            called = tuple(replace(each, on_request=False) for each in concept.subjects)
            acting = replace(concept, updates=rest, subjects=called)
            yield {concept.name: acting} if rest else {}

    def _plan(self, prompt: str, bank: Mapping[str, Concept]) -> Plan:
        """Without guidance: the model's own estimate of the prompt."""
        config = replace(
            self.config, guidance_scale=1.0, region_mode="partition", num_images=1, infuse=""
        )
        return make_plan(self.base, bank, prompt, config=config)

    def _noised(self, held: DrawnSet, some: range) -> Iterator[_Noisy]:
        """z_t, t and a_t in the middle of each of `TIMESTEPS` equal parts of the schedule.

        The noise of a picture is its own, whatever is measured.
        """
        alphas = make_scheduler(self.base.scheduler_config, "ddpm").alphas_cumprod
        clean = held.latents[some.start : some.stop]
        for k in range(TIMESTEPS):
            t = len(alphas) * (2 * k + 1) // (2 * TIMESTEPS)
            seeds = [self.config.alone(held.numbers[i]).seed for i in some]
            sources = [generator(seed, "over-fitting", k) for seed in seeds]
            noise = torch.stack([torch.randn(clean.shape[1:], generator=s) for s in sources])
            latents = add_noise(clean, noise, alphas[t].expand(len(some)))
            yield _Noisy(latents, t, alphas[t])

    def _estimates(self, plan: Plan, noisy: Sequence[_Noisy]) -> list[Tensor]:
        """What the model takes for noise; of a v prediction up to a part that depends on z_t."""
        pictures, _, height, width = noisy[0].latents.shape
        device, is_v = self.base.device, self.base.prediction_type == "v_prediction"
        found: list[Tensor] = []
        with estimating(self.base, plan, pictures, (height, width), plan.config) as estimate:
            for latents, t, alpha in noisy:
                said = estimate(latents.to(device), torch.tensor(t, device=device))
                found.append((alpha.sqrt() * said if is_v else said).cpu())
        return found
