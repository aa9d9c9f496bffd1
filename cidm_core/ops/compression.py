"""Compressing a change of weights by its singular values.

Custom Diffusion, Kumari et al. 2023, https://arxiv.org/abs/2212.04488, appendix: of
dW = U S V^T as many leading singular values are kept as make up a share of their sum.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def kept_rank(singular: Float[Tensor, " values"], energy: float) -> int:
    """How many leading singular values sum to at most the share `energy` of all.

    The sum is of the values, not of their squares, and the value that goes beyond is not kept;
    even of a share of 1 the last is left out, as in the released code. 0 is possible.

    Args:
        singular: In descending order.
        energy: The share, 0..1.
    """
    total = singular.double().sum()
    if not bool(total > 0):
        return 0
    reached = singular.double().cumsum(0) / total
    return min(int((reached <= energy).sum()), len(singular) - 1)


def spectrum(
    delta: Float[Tensor, "out in"],
) -> tuple[Float[Tensor, "out values"], Float[Tensor, " values"], Float[Tensor, "values in"]]:
    """U, S, V^T of a change, in float64."""
    return torch.linalg.svd(delta.double(), full_matrices=False)


def spectrum_of_factors(
    down: Float[Tensor, "rank in"], up: Float[Tensor, "out rank"]
) -> tuple[Float[Tensor, "out values"], Float[Tensor, " values"], Float[Tensor, "values in"]]:
    """U, S, V^T of `up @ down`, which is never built (QR of both factors)."""
    left, small_up = torch.linalg.qr(up.double())
    right, small_down = torch.linalg.qr(down.double().mT)
    u, s, vt = torch.linalg.svd(small_up @ small_down.mT, full_matrices=False)
    return left @ u, s, vt @ right.mT
