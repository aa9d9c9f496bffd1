"""Contrast of pictures and texts, as CLIP learns it, for words that learn (CLIF).

Paper: Lin et al. 2024, https://arxiv.org/abs/2405.06914, section 3.2; the loss is CLIP's own
(Radford et al. 2021, https://arxiv.org/abs/2103.00020). Readings: docs/EQUATIONS.md#clif.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def contrastive_loss(
    images: Float[Tensor, "pairs dim"],
    texts: Float[Tensor, "texts dim"],
    groups: Int[Tensor, " pairs"],
    scale: float,
    *,
    normalise: bool = True,
) -> Float[Tensor, ""]:
    """`1/2 [CE(s f g^T, P) + CE(s g f^T, P)]`, with P even over what belongs together.

    With a group for each pair P is the identity, CLIP's own. Pairs of one group are no negatives of
    each other: each counts as right.

    Args:
        images: Features f; float32 at least.
        texts: Features g; those behind the pairs' own belong to no image and are negatives only.
        groups: Per pair, equal where either text would do for either image.
        scale: s, CLIP's `exp(logit_scale)`, about 100.
        normalise: Whether features have length 1, as in CLIP; the released code forgets it.
    """
    if normalise:
        images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    with torch.autocast(images.device.type, enabled=False):  # times 100, bf16 is too coarse
        logits = scale * images @ texts.to(images).T
    alike = groups[:, None] == groups[None]
    targets = alike.to(logits) / alike.sum(1, keepdim=True)
    pairs = len(groups)
    of_images = -(F.pad(targets, (0, len(texts) - pairs)) * logits.log_softmax(1)).sum(1).mean()
    of_texts = -(targets * logits[:, :pairs].T.log_softmax(1)).sum(1).mean()
    return (of_images + of_texts) / 2


def retrieval(
    images: Float[Tensor, "pairs dim"],
    texts: Float[Tensor, "texts dim"],
    right: Int[Tensor, " pairs"],
    allowed: Bool[Tensor, "pairs texts"] | None = None,
) -> float:
    """Share of images whose most similar text, by the cosine, is the right one (recall at 1).

    A tie with another text counts as wrong. NaN without images.

    Args:
        images: Features.
        texts: Of each distinct text.
        right: Number of each image's text.
        allowed: Which texts each image has to choose among, its own included; default all.
    """
    if not len(images):
        return torch.nan
    alike = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    own = alike.gather(1, right[:, None])
    others = torch.ones_like(alike, dtype=torch.bool) if allowed is None else allowed.clone()
    others.scatter_(1, right[:, None], False)
    better = (alike >= own) & others
    return (~better.any(1)).double().mean().item()


def cosines(features: Float[Tensor, "words dim"]) -> Float[Tensor, "words words"]:
    """How alike texts are to each other: cosines of their features."""
    unit = F.normalize(features, dim=-1)
    return (unit @ unit.T).clamp(-1, 1)


def mean_off_diagonal(square: Float[Tensor, "n n"]) -> float:
    """Mean over pairs of different things; NaN for a single one."""
    count = len(square)
    total = square.sum() - square.diagonal().sum()
    return float(total / (count * (count - 1))) if count > 1 else torch.nan
