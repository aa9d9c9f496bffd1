"""Noise schedules, as diffusers' schedulers take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import HostError

SCHEDULE: Mapping[str, Any] = {  # Stable Diffusion 1.x; single files do not carry it
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

_SAME_SCHEDULE = 1e-3  # relative; stored noise levels are rounded to float32


def schedule_of(sigmas: Tensor, prediction_type: str = "epsilon") -> dict[str, Any]:
    """The noise schedule, as diffusers' schedulers take it, of a table of noise levels.

    Args:
        sigmas: sqrt((1 - a) / a) of every training timestep, the smallest first, for cumulated
            products a.
        prediction_type: "epsilon" or "v_prediction".

    Raises:
        HostError: If there are not 1000 levels: the table is a distilled model's or no table.
    """
    if sigmas.ndim != 1 or len(sigmas) != SCHEDULE["num_train_timesteps"]:
        raise HostError(
            f"The model has a noise schedule of shape {tuple(sigmas.shape)}; learning needs the "
            "1000 levels it was trained with. Connect the model before any node that changes its "
            "sampling."
        )
    products = 1 / (1 + sigmas.detach().cpu().double().square())
    before = torch.cat([torch.ones(1, dtype=torch.float64), products[:-1]])
    betas = 1 - products / before
    found = {**SCHEDULE, "prediction_type": prediction_type}
    # Betas as the model's authors wrote them, where they are Stable Diffusion's kind.
    start, end = round(betas[0].item(), 6), round(betas[-1].item(), 6)
    if 0 < start < end < 1:
        root = torch.linspace(start**0.5, end**0.5, len(betas), dtype=torch.float64)
        exact = (1 - root.square()).cumprod(0)
        if bool(((exact / products) - 1).abs().max() < _SAME_SCHEDULE):
            return found | {"beta_start": start, "beta_end": end}
    return found | {"trained_betas": betas.clamp(0, 0.9999).tolist()}
