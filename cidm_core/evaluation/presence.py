"""Whether each concept of a picture of several is in its own region, from embeddings.

A region's crop is compared with the reference photos of every concept; a concept is present where
its own photos are the nearest. This tells swapped and mixed concepts, which a score of the whole
picture cannot see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from ..regions import Region
from .alignment import image_alignment


def crop(picture: Image.Image, region: Region) -> Image.Image:
    """The part of a picture inside a region's box, or inside the box around its mask.

    Every pixel that the box touches is kept, at least one.
    """
    x0, y0, x1, y1 = region.box if region.box is not None else _bounds(region.mask)
    left, top = math.floor(x0 * picture.width + 1e-6), math.floor(y0 * picture.height + 1e-6)
    right, bottom = math.ceil(x1 * picture.width - 1e-6), math.ceil(y1 * picture.height - 1e-6)
    return picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def _bounds(mask: Float[Tensor, "height width"]) -> tuple[float, float, float, float]:
    """Smallest box around what is painted at half strength or more, as shares."""
    painted = mask >= 0.5 * mask.max()
    rows, columns = painted.any(1).nonzero(), painted.any(0).nonzero()
    height, width = mask.shape
    return (
        int(columns[0]) / width,
        int(rows[0]) / height,
        (int(columns[-1]) + 1) / width,
        (int(rows[-1]) + 1) / height,
    )


def similarities(
    crops: Sequence[Float[Tensor, "pictures dim"]],
    references: Sequence[Float[Tensor, "photos dim"]],
) -> Float[Tensor, "pictures regions concepts"]:
    """Mean cosine of each region's crop with each concept's photos, in [-1, 1].

    Args:
        crops: For each region, the embeddings of its crop in every picture.
        references: For each concept, the embeddings of its photos; the k-th belongs into the
            k-th region.
    """
    table = [
        [torch.stack([image_alignment(seen[None], known) for seen in rows]) for known in references]
        for rows in crops
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in table], dim=1)


def present(
    cosines: Float[Tensor, "pictures regions concepts"],
) -> Bool[Tensor, "pictures regions"]:
    """Whether each region's own concept, the k-th of the k-th region, is the nearest of all.

    A tie counts as present.

    Args:
        cosines: From `similarities`.
    """
    return cosines.diagonal(dim1=1, dim2=2) >= cosines.amax(dim=-1)
