"""Routing: whose update a token of a prompt is given.

Beyond the paper: Eq. 3 (CIDM, Dong et al. 2024, https://arxiv.org/abs/2410.17594, section 4.2)
gives all tokens of a prompt the same weights, so that concepts named together change each other's
words. Here every token has weights of its own, for `aggregation.low_rank_branch`. Evidence:
docs/EQUATIONS.md#routing.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BARE = -1  # owner of a token that keeps the base weights
PROMPT = -2  # owner of a token that keeps the weights of its prompt


def token_weights(
    weights: Float[Tensor, "*batch concepts"], owners: Int[Tensor, " tokens"]
) -> Float[Tensor, "*batch tokens concepts"]:
    """Weights of every token, so that `K_j = (W + sum_k 1[j in tokens_k] delta_k) e_j`.

    Args:
        weights: psi(M) of the prompt; leading axes, e.g. layers, are batched.
        owners: Whose token it is: a concept from 0, `BARE`, or `PROMPT`.

    Returns:
        1 for a token's own concept and 0 for all others; under `PROMPT` the prompt's weights.
    """
    owners = owners.to(weights.device)
    concepts = torch.arange(weights.shape[-1], device=weights.device)
    own = (owners[:, None] == concepts).to(weights)
    return torch.where((owners == PROMPT)[:, None], weights[..., None, :], own)
