"""Prior preservation: photos of the subject and pictures of its class in one loss.

Paper: Custom Diffusion, Kumari et al. 2023, https://arxiv.org/abs/2212.04488, section 3.2; the
idea is DreamBooth's (https://arxiv.org/abs/2208.12242).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def with_prior(
    errors: Float[Tensor, " batch"],
    is_prior: Bool[Tensor, " batch"] | None,
    pictures: int,
    weight: float = 1.0,
    scale: float = 1.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The two terms of the loss: `scale / n * sum over photos` and `weight / n * sum over priors`.

    The first authors' code has scale 1. diffusers' script divides the photos' masked error by the
    mask alone, which has one channel where the error has four: their scale is 4, the prior's is 1.

    Args:
        errors: Of each picture, from `diffusion.masked_errors`.
        is_prior: Which of them are prior pictures; None: no picture is.
        pictures: n, the rows of the batch; where prior pictures come in pairs with photos, half.
        weight: Of the prior pictures.
        scale: Of the photos.
    """
    if is_prior is None:
        return scale * errors.sum() / pictures, errors.new_zeros(())
    prior = is_prior.to(errors)
    photos = scale * ((1 - prior) * errors).sum() / pictures
    return photos, weight * (prior * errors).sum() / pictures


def without_start(features: Float[Tensor, "batch tokens width"]) -> Tensor:
    """The same keys or values, of which those of the prompt's start token give no gradient.

    All published code detaches them: every prompt begins with that token, so what it learned would
    change every prompt.
    """
    return torch.cat([features[:, :1].detach(), features[:, 1:]], 1)
