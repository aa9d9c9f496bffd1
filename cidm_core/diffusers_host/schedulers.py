"""Schedulers of diffusers: which of them can draw, where they begin on a picture, the loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from torch import Tensor

from ..errors import HostError

Estimate = Callable[[Tensor, Tensor], Tensor]  # of (scaled latents, timestep)
OnStep = Callable[[int, int, Tensor], None]  # step from 1, steps, latents

SCHEDULERS: Mapping[str, tuple[str, Mapping[str, object]]] = MappingProxyType(
    {
        "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
        "dpmpp_2m_karras": (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
        ),
        "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        "ddim": ("DDIMScheduler", {}),
        "ddpm": ("DDPMScheduler", {}),
        "euler": ("EulerDiscreteScheduler", {}),
        "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
        "heun": ("HeunDiscreteScheduler", {}),
        "unipc": ("UniPCMultistepScheduler", {}),
        "pndm": ("PNDMScheduler", {}),
    }
)
_KNOWN = ", ".join(SCHEDULERS)
_TRIAL_STEPS = 4
_TRIAL_MISS = 0.2  # DDIM and the like keep the noise of their last level, a tenth


@dataclass(frozen=True)
class Start:
    """A picture to start from: clean latents, and where to redraw (1) or keep (0) them."""

    latents: Tensor  # (1, channels, height, width)
    mask: Tensor | None = None  # (height, width)


def make_scheduler(config: Mapping[str, Any], name: str) -> Any:
    """A scheduler by short name or diffusers class name, with a model's noise schedule.

    Raises:
        HostError: If there is none of that name, or it cannot draw with such a model.
    """
    kind, extra = SCHEDULERS.get(name, (name, {}))
    cls = getattr(diffusers, kind, None) if kind.endswith("Scheduler") else None
    if not hasattr(cls, "from_config"):
        raise HostError(
            f"No scheduler {name!r}. Use one of {_KNOWN}, or the name of a diffusers scheduler "
            "class such as 'EulerDiscreteScheduler'."
        )
    settings = {**config, **extra}
    if name not in SCHEDULERS and (why := _objection(cls, settings)):
        raise HostError(f"The scheduler {name} cannot draw here: {why}. Use one of {_KNOWN}.")
    return _made(cls, settings)


def _made(cls: Any, settings: Mapping[str, Any]) -> Any:
    known = inspect.signature(cls.__init__).parameters
    return cls.from_config({key: value for key, value in settings.items() if key in known})


def _objection(cls: Any, settings: Mapping[str, Any]) -> str | None:
    """Why a scheduler misses a picture that is known to the estimates it is given, or None."""
    noise = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    picture = torch.linspace(-1, 1, 16).reshape(noise.shape)
    try:
        estimate = all_knowing(settings, picture)
        drawn = solve(_made(cls, settings), estimate, noise, _TRIAL_STEPS, [0])
    except ImportError as error:
        return " ".join(str(error).split(". ")[0].split())
    except Exception:  # made for another kind of model, each fails in its own way
        return "it works with another kind of model"
    if bool((drawn - picture).abs().max() < _TRIAL_MISS):
        return None
    return "it is made for another kind of noise"


def all_knowing(settings: Mapping[str, Any], picture: Tensor) -> Estimate:
    """What a model would say that knows the picture: a scheduler must come out at it."""
    alphas = _made(diffusers.DDPMScheduler, settings).alphas_cumprod
    levels = ((1 - alphas) / alphas).sqrt().log()

    def estimate(scaled: Tensor, timestep: Tensor) -> Tensor:
        # Some samplers look between two timesteps.
        low, share = int(timestep), float(timestep) % 1
        level = torch.lerp(levels[low], levels[low + 1], share) if share else levels[low]
        alpha = 1 / (1 + (2 * level).exp())
        noise = (scaled - alpha.sqrt() * picture) / (1 - alpha).sqrt()
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * picture
        said = {"epsilon": noise, "v_prediction": velocity, "sample": picture.expand_as(scaled)}
        return said[settings.get("prediction_type", "epsilon")]

    return estimate


def solve(
    scheduler: Any,
    estimate: Estimate,
    noise: Tensor,
    steps: int,
    seeds: Sequence[int],
    denoise: float = 1.0,
    start: Start | None = None,
    on_step: OnStep | None = None,
    eta: float = 0.0,
) -> Tensor:
    """From noise, or from a start picture of which a share is redrawn, to clean latents.

    Args:
        scheduler: From `make_scheduler`, new.
        estimate: The model.
        noise: (pictures, channels, height, width), standard normal.
        steps: Of the whole way; a start picture needs its share of them.
        seeds: Of each picture's noise on the way, so that none depends on its neighbours.
        denoise: With `start`, the share that is redrawn; 1 begins from noise alone.
        start: A picture to start from or to keep parts of.
        on_step: Called after every step.
        eta: Share of new noise in every step (DDIM, Song et al. 2020, Eq. 16).

    Raises:
        HostError: If the sampler has no such share.
    """
    options = _options(scheduler, seeds, eta)
    timesteps = begin(scheduler, steps, denoise, noise.device)
    if start is None or denoise == 1:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(start.latents.expand_as(noise), noise, timesteps[:1])
    for i, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        eps = estimate(scaled, timestep)
        latents = scheduler.step(eps, timestep, latents, **options).prev_sample
        if start is not None:
            latents = _keep(scheduler, latents, start, noise, timesteps[i + 1 : i + 2])
        if on_step is not None:
            on_step(i + 1, len(timesteps), latents)
    return latents


def _options(scheduler: Any, seeds: Sequence[int], eta: float) -> dict[str, object]:
    """What the steps of a sampler take beside the estimate."""
    known = inspect.signature(scheduler.step).parameters
    options: dict[str, object] = {}
    if "generator" in known:
        options["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
    if eta and "eta" not in known:
        raise HostError(
            f"eta is {eta:g}, and {type(scheduler).__name__} takes none. Use the scheduler "
            "ddim, or leave eta out."
        )
    return options | ({"eta": eta} if eta else {})


def begin(scheduler: Any, steps: int, denoise: float, device: torch.device) -> Tensor:
    """The timesteps that redraw a share of a picture: at least one, from about that noise level."""
    is_plms = isinstance(scheduler, diffusers.PNDMScheduler)
    if is_plms and (steps < 4 or denoise < 1):
        # Its Runge-Kutta steps at the beginning need a whole run of at least four.
        scheduler.register_to_config(skip_prk_steps=True)
    scheduler.set_timesteps(steps, device=device)
    ladder, first = _rung(scheduler, denoise)
    is_all_or_nothing = denoise < 1 and first in (0, len(ladder))
    if is_all_or_nothing and len(ladder) * denoise < 1:  # smaller steps, then
        finer = min(max(2, round(1 / denoise)), scheduler.config.num_train_timesteps)
        scheduler.set_timesteps(finer, device=device)
        ladder, first = _rung(scheduler, denoise)
    first = min(first, len(ladder) - 1)
    wanted = denoise * scheduler.config.num_train_timesteps
    if 0 < first == len(ladder) - 1 and ladder[first] < 0.3 * wanted:
        first -= 1  # some end with a step that has no noise left to take away
    if is_plms and denoise < 1:
        left = ladder[first:]
        return torch.cat([left[:1], left[1:2], left[1:]])  # the second one is taken twice
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first * scheduler.order)
    return scheduler.timesteps[first * scheduler.order :]


def _rung(scheduler: Any, denoise: float) -> tuple[Tensor, int]:
    """The timestep at which each step begins, and the step that redraws this share."""
    if isinstance(scheduler, diffusers.PNDMScheduler):
        ladder = torch.unique_consecutive(scheduler.timesteps)
    else:
        ladder = scheduler.timesteps[:: scheduler.order]  # calls of the model per step
    return ladder, round(len(ladder) * (1 - denoise))


def _keep(scheduler: Any, latents: Tensor, start: Start, noise: Tensor, timestep: Tensor) -> Tensor:
    """Outside the mask, go on with the start picture at the present noise level."""
    if start.mask is None:
        return latents
    known = start.latents.expand_as(noise)
    if len(timestep):
        if hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order:
            return latents  # in the middle of a step, at a noise level of its own
        known = scheduler.add_noise(known, noise, timestep)
    return torch.lerp(known, latents, start.mask.to(latents).expand_as(latents))
