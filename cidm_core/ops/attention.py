"""Cross-attention and its regional form (RCA).

Paper: CIDM, Dong et al. 2024, https://arxiv.org/abs/2410.17594, section 4.3: features inside box u
become `softmax(Q K_u^T / sqrt(d)) V_u`. The paper calls the softmax a sigmoid; the released code
never used RCA: docs/EQUATIONS.md#rca.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def scaled_dot_product(
    query: Float[Tensor, "batch query inner"],
    key: Float[Tensor, "batch key inner"],
    value: Float[Tensor, "batch key inner"],
    heads: int,
) -> Float[Tensor, "batch query inner"]:
    """Multi-head `softmax(Q K^T / sqrt(d)) V` with d = inner / heads."""
    batch, length, inner = query.shape
    q, k, v = (
        x.view(batch, -1, heads, inner // heads).transpose(1, 2) for x in (query, key, value)
    )
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(batch, length, inner)


def blend_regions(
    base: Float[Tensor, "*batch query dim"],
    branches: Float[Tensor, "regions *batch query dim"],
    masks: Float[Tensor, "regions query"],
) -> Float[Tensor, "*batch query dim"]:
    """Replace the features inside every region by that region's own (RCA).

    `base * (1 - min(1, cover)) + sum_u branch_u * m_u / max(1, cover)` with cover = sum_u m_u:
    where regions overlap they are averaged, so their order does not matter. The paper is
    silent on overlaps.
    """
    masks = masks.to(base)
    cover = masks.sum(0)
    shares = masks / cover.clamp(min=1)
    regional = torch.einsum("rq,r...qd->...qd", shares, branches)
    return base * (1 - cover.clamp(max=1))[:, None] + regional


def resize_mask(
    masks: Float[Tensor, "regions height width"], height: int, width: int
) -> Float[Tensor, "regions new_height new_width"]:
    """Bring masks to an attention resolution: area averages down, bilinear up.

    Both are linear and keep constants, so masks that sum to 1 still do afterwards.
    """
    if tuple(masks.shape[1:]) == (height, width) or masks.shape[0] == 0:
        return masks if masks.shape[0] else masks.new_zeros(0, height, width)
    shrinks = height <= masks.shape[1] and width <= masks.shape[2]
    if shrinks:
        return F.interpolate(masks[:, None], (height, width), mode="area")[:, 0]
    return F.interpolate(masks[:, None], (height, width), mode="bilinear", antialias=True)[:, 0]
