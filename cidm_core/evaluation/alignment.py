"""Alignment of pictures with texts and with reference photos, from embeddings.

Definitions of CLIPScore (Hessel et al. 2021) and Custom Diffusion (Kumari et al. 2023), as the
CIDM paper's benchmark uses them. No encoder is known here.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CLIP_SCORE_WEIGHT = 2.5


def text_alignment(
    pictures: Float[Tensor, "pictures dim"],
    texts: Float[Tensor, "pictures dim"],
    weight: float = CLIP_SCORE_WEIGHT,
) -> Float[Tensor, ""]:
    """CLIPScore: mean of `weight * max(cos(picture_i, text_i), 0)`, in [0, weight]."""
    cosine = (F.normalize(pictures, dim=-1) * F.normalize(texts, dim=-1)).sum(-1)
    return weight * cosine.clamp(min=0).mean()


def image_alignment(
    pictures: Float[Tensor, "pictures dim"], photos: Float[Tensor, "photos dim"]
) -> Float[Tensor, ""]:
    """Mean cosine over all pairs of a drawn picture and a reference photo, in [-1, 1]."""
    return (F.normalize(pictures, dim=-1) @ F.normalize(photos, dim=-1).T).mean()


def pair_similarity(
    first: Float[Tensor, "pictures dim"], second: Float[Tensor, "pictures dim"]
) -> Float[Tensor, ""]:
    """Mean cosine of the pictures that belong together, in [-1, 1]."""
    return (F.normalize(first, dim=-1) * F.normalize(second, dim=-1)).sum(-1).mean()
