"""The timestep-dependent rank mask of T-LoRA: fewer ranks act where there is more noise.

Paper: T-LoRA, Soboleva et al. 2025, https://arxiv.org/abs/2507.05964: W_t = W + B M_t A with
M_t = diag(1, ..., 1, 0, ..., 0), r(t) ones. Not part of CIDM: docs/EQUATIONS.md#rank-mask.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Real
from torch import Tensor


def fewest_ranks(rank: int, share: float) -> int:
    """r_min: how many of `rank` ranks act at the noisiest timestep, `share * rank` rounded."""
    return math.floor(share * rank + 0.5)


def active_ranks(
    timesteps: Real[Tensor, "*batch"], rank: int, fewest: int, levels: int
) -> Real[Tensor, "*batch"]:
    """How many ranks act: `r(t) = floor((r - r_min) * (T - t) / T) + r_min`.

    All of them at t = 0 only, r_min at t close to T. Whole timesteps are counted without rounding.

    Args:
        timesteps: t, 0 (clean) to `levels` (noise); what lies beyond counts as the limit.
        rank: r.
        fewest: r_min, 0 to `rank`; with `rank` all act at all times.
        levels: T, the model's number of timesteps.
    """
    left = levels - timesteps.clamp(0, levels)
    return torch.div((rank - fewest) * left, levels, rounding_mode="floor") + fewest


def rank_mask(
    timesteps: Real[Tensor, "*batch"], rank: int, fewest: int, levels: int
) -> Bool[Tensor, "*batch rank"]:
    """The diagonal of M_t: the first r(t) ranks act. Arguments as for `active_ranks`."""
    active = active_ranks(timesteps, rank, fewest, levels)
    return torch.arange(rank, device=timesteps.device) < active[..., None]


def column_mask(
    timestep: float, ranks: Sequence[tuple[int, int]], levels: int
) -> Bool[Tensor, "columns"]:
    """The masks of several concepts side by side, as `aggregation.concatenate` puts their factors.

    Args:
        timestep: t.
        ranks: r and r_min of each concept.
        levels: T.
    """
    t = torch.tensor(float(timestep), dtype=torch.float64)
    return torch.cat([rank_mask(t, rank, fewest, levels) for rank, fewest in ranks])
