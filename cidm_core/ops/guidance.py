"""Classifier-free guidance with region noise estimation (RNE).

Paper: CIDM, Dong et al. 2024, https://arxiv.org/abs/2410.17594, section 4.3, Eq. 4 and 5.
The released code averages the estimates instead and never used Eq. 5: docs/EQUATIONS.md#eq-5.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import RegionError


def classifier_free(
    cond: Float[Tensor, "*shape"], uncond: Float[Tensor, "*#shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """`uncond + scale * (cond - uncond)`: Eq. 4; scale 1 is cond, 0 is uncond.

    `uncond` may be one row for many: all regions share one unconditional estimate.
    """
    return uncond + scale * (cond - uncond)


def combine(
    global_eps: Float[Tensor, "batch channels height width"],
    region_eps: Float[Tensor, "regions batch channels height width"],
    masks: Float[Tensor, "regions height width"],
    alpha: float = 0.1,
    mode: str = "partition",
) -> Float[Tensor, "batch channels height width"]:
    """Blend the global estimate with each region's own inside its mask: Eq. 5.

    Pixel weights as `pixel_weights` gives them. "partition" is affine with weights that sum
    to 1, so noise and denoised estimates may both be given; "literal" is for noise only.

    Args:
        global_eps: Guided estimate E of the whole picture's prompt.
        region_eps: Guided estimates E_u of the regions.
        masks: m_u in 0..1 at latent size.
        alpha: Share of E inside regions, 0..1.
        mode: "partition" or "literal".

    Raises:
        RegionError: If alpha is out of range or the mode is unknown.
    """
    share, shares = pixel_weights(masks.to(global_eps), alpha, mode)
    return share * global_eps + torch.einsum("rhw,rbchw->bchw", shares, region_eps)


def pixel_weights(
    masks: Float[Tensor, "regions height width"], alpha: float, mode: str = "partition"
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "regions height width"]]:
    """The share of E and of each E_u in every pixel.

    "partition": with cover = sum_u m_u, E has `1 - (1 - alpha) * min(1, cover)` and E_u has
    `(1 - alpha) * m_u / max(1, cover)`; they sum to 1. Outside all boxes E stays whole, inside
    n overlapping boxes E has alpha and each region (1 - alpha) / n.
    "literal": alpha and `(1 - alpha) * m_u` as Eq. 5 is printed. Outside all boxes only
    alpha * E is left, and overlaps sum to more than 1.

    Without any region E has 1 everywhere, in both modes.

    Raises:
        RegionError: If alpha is out of range or the mode is unknown.
    """
    if not 0.0 <= alpha <= 1.0:
        raise RegionError(f"alpha is {alpha}; give the share of the whole picture, 0 to 1.")
    if mode not in ("partition", "literal"):
        raise RegionError(f"Region mode {mode!r} is unknown; choose 'partition' or 'literal'.")
    if masks.shape[0] == 0:
        return masks.new_ones(masks.shape[1:]), masks
    if mode == "literal":
        return masks.new_full(masks.shape[1:], alpha), (1 - alpha) * masks
    cover = masks.sum(0)
    return 1 - (1 - alpha) * cover.clamp(max=1), (1 - alpha) * masks / cover.clamp(min=1)
