"""Routing: whose low-rank update a token of a prompt, or a place in the picture, is given.

Beyond the paper: Eq. 3 (CIDM, Dong et al. 2024, https://arxiv.org/abs/2410.17594, section 4.2)
gives all tokens and all places of a prompt the same weights, so that concepts named together
change each other's words and places. Here the weights become those of single positions, for
`aggregation.low_rank_branch`. Choices and evidence: docs/EQUATIONS.md#routing.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import attention

BARE = -1  # owner of a token that keeps the base weights
PROMPT = -2  # owner of a token that keeps the weights of its prompt


def token_weights(
    weights: Float[Tensor, "*batch concepts"], owners: Int[Tensor, "tokens"]
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


def box_weights(
    outside: Float[Tensor, "columns"],
    regions: Float[Tensor, "regions columns"],
    masks: Float[Tensor, "regions cells"],
) -> Float[Tensor, "cells columns"]:
    """Weights of every place, so that inside region u the update is `sum_k w_uk delta_k`.

    The same shares as in regional cross-attention (`attention.blend_regions`): soft edges go from
    one region's weights to the other's, overlapping regions are averaged.

    Args:
        outside: Weights where no region is.
        regions: Weights of each region.
        masks: Where the regions are, 0..1.
    """
    cells = masks.shape[-1]
    return attention.blend_regions(
        outside.expand(cells, -1), regions[:, None].expand(-1, cells, -1), masks
    )
