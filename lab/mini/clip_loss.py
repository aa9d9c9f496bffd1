"""mini-clip's losses: captions against pictures, and pictures against pictures."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.1


def caption_loss(
    pictures: Float[Tensor, "batch dim"],
    right: Float[Tensor, "batch dim"],
    wrong: Float[Tensor, "batch dim"],
    has_wrong: Bool[Tensor, " batch"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """CLIP's symmetric loss, and the choice between a picture's right and wrong caption.

    The wrong caption is also one more candidate in the picture's row, and the choice between the
    two alone is added because there it is one of many, so that side and texture are learned late.

    Args:
        pictures: Unit embeddings of pictures.
        right: Unit embeddings of their captions.
        wrong: Unit embeddings of captions wrong in one aspect (colour, side, ...); they count for
            their own picture alone, as they may be true of another.
        has_wrong: Whether a picture has a wrong caption.
        scale: What cosines are multiplied with.

    References:
        Radford et al. 2021, CLIP; Yuksekgonul et al. 2023, NegCLIP.
    """
    logits = scale * pictures @ right.T
    tempting = scale * (pictures * wrong).sum(-1)
    extra = tempting.masked_fill(~has_wrong, float("-inf"))[:, None]
    goal = torch.arange(len(pictures))
    to_text = F.cross_entropy(torch.cat([logits, extra], dim=1), goal)
    to_picture = F.cross_entropy(logits.T, goal)
    choice = (F.softplus(tempting - logits.diagonal()) * has_wrong).sum() / has_wrong.sum().clamp(1)
    return (to_text + to_picture) / 2 + choice


def identity_loss(
    pictures: Float[Tensor, "batch dim"], group: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Supervised contrast (Khosla et al. 2020, L_out): other views of one look are the positives.

    Args:
        pictures: Unit embeddings.
        group: Equal for views of one look; -1 for pictures that are only negatives.
    """
    own = torch.eye(len(pictures), dtype=torch.bool)
    logits = (pictures @ pictures.T / TEMPERATURE).masked_fill(own, float("-inf"))
    positive = (group[:, None] == group[None]) & (group[:, None] >= 0) & ~own
    counts = positive.sum(1)
    chances = F.log_softmax(logits, dim=1).masked_fill(~positive, 0.0)
    return -(chances.sum(1) / counts.clamp(min=1))[counts > 0].mean()
