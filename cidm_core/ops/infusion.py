"""Infusion: attention maps of a stream that does not know the concept, and its masked loss.

Paper: Zeng et al. 2024, https://arxiv.org/abs/2404.14007. Where paper and released code differ or
are silent: docs/EQUATIONS.md#infusion.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def lent(
    features: Float[Tensor, "rows cells dim"], lenders: Int[Tensor, " rows"]
) -> Float[Tensor, "rows cells dim"]:
    """What the queries of cross-attention are made of: `out_C = softmax(W_q x_F K^T / sqrt(d)) V'`.

    The customised stream C has keys like the foundation stream F and takes its queries, and with
    them its maps: only the values differ.

    Args:
        features: Of all rows, x.
        lenders: Per row, the row whose features ask; a row of F its own.
    """
    return features[lenders]


def masked_loss(
    prediction: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
    mask: Float[Tensor, "batch height width"],
) -> Float[Tensor, ""]:
    """`mean((m * prediction - m * target)^2)` over pictures, channels and cells.

    A soft mask counts squared, and a small one makes a small loss: the mean is over all cells.

    Args:
        prediction: What the model predicts; computed in fp32 at least.
        target: What it should.
        mask: Where the concept is, 0..1.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    error = prediction.to(dtype) - target.to(dtype)
    return (mask.to(dtype)[:, None] * error).square().mean()
