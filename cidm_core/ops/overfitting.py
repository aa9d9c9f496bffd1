"""How far learning carried a model off: from what it was elsewhere, and at the concept itself.

The two metrics that Infusion names (Zeng et al. 2024, https://arxiv.org/abs/2404.14007): the latent
Fisher divergence and the 2-Wasserstein distance. Their formulas were not to be had; these are the
usual ones of those names.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import CidmError


def score_gaps(
    noise: Float[Tensor, "batch channels height width"],
    base_noise: Float[Tensor, "batch channels height width"],
    alpha_cumprod: Float[Tensor, ""],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """`||s - s0||^2 / d` and `||eps - eps0||^2 / d` of each picture, with `s = -eps / sqrt(1 - a)`.

    The mean of the first over prompts, timesteps and noised pictures of the base model is the
    latent Fisher divergence, that of the second its form without weights. d, the number of
    entries of a picture's latents, makes sizes comparable.

    Args:
        noise: What the customised model takes for noise in z_t.
        base_noise: What the base model does.
        alpha_cumprod: a_t of the timestep.
    """
    plain = (noise.double() - base_noise.double()).square().mean((1, 2, 3))
    return plain / (1 - alpha_cumprod.double()), plain


def gaussian_distance(x: Float[Tensor, "m dim"], y: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """2-Wasserstein distance of the Gaussians that two sets of features suggest.

    `W^2 = ||m1 - m2||^2 + tr(S1 + S2 - 2 (S1^(1/2) S2 S1^(1/2))^(1/2))` (Dowson and Landau 1982)
    with the sets' means and covariances, the latter over n - 1. With `S1 = A^T A` and
    `S2 = B^T B` the last trace is the nuclear norm of `A B^T`, so no matrix of dim x dim is needed,
    and it makes no difference that few samples leave a covariance without full rank.

    Few samples look further apart than their kinds are: their directions hardly meet.

    Raises:
        CidmError: If a set has fewer than two members.
    """
    if min(len(x), len(y)) < 2:
        raise CidmError(
            f"Sets of {len(x)} and {len(y)} pictures have no spread. Give two or more of each."
        )
    (mean_x, a), (mean_y, b) = _fitted(x.double()), _fitted(y.double())
    # A set and itself: the singular values are those of A A^T, and the difference rounds to 0.
    spread = a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    return ((mean_x - mean_y).square().sum() + spread).clamp(min=0).sqrt()


def _fitted(
    features: Float[Tensor, "n dim"],
) -> tuple[Float[Tensor, " dim"], Float[Tensor, "n dim"]]:
    """The mean, and a factor A of the covariance `A^T A`."""
    mean = features.mean(0)
    return mean, (features - mean) / (len(features) - 1) ** 0.5
