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

from ..errors import CidmError
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

    Raises:
        CidmError: If there are fewer concepts than regions, or none.
    """
    if not crops or len(references) < len(crops):
        raise CidmError(
            f"There are {len(crops)} regions and reference photos of {len(references)} concepts. "
            "Give photos for the concept of each region, in the order of the regions."
        )
    table = [
        [torch.stack([image_alignment(seen[None], known) for seen in rows]) for known in references]
        for rows in crops
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in table], dim=1)


def present(
    cosines: Float[Tensor, "pictures regions concepts"], own: Sequence[int] | None = None
) -> Bool[Tensor, "pictures regions"]:
    """Whether each region's own concept is the nearest of all; a tie counts as present.

    Args:
        cosines: From `similarities`.
        own: For each region, the index of the concept that belongs into it. Default: the k-th
            concept belongs into the k-th region.

    Raises:
        CidmError: If `own` does not name a concept for each region.
    """
    return _own(cosines, own) >= cosines.amax(dim=-1)


def confused(
    cosines: Float[Tensor, "pictures regions concepts"], own: Sequence[int] | None = None
) -> Bool[Tensor, "pictures regions"]:
    """Whether the nearest concept of a region is ANOTHER one of the same scene.

    This is attribute confusion: concepts that swapped places or lent each other their looks. A
    region that resembles a concept which is not in the scene is neither present nor confused.

    Args:
        cosines: From `similarities`, of all concepts that could be taken for one of the scene's.
        own: As in `present`.

    Raises:
        CidmError: As `present`.
    """
    right = _own(cosines, own)
    scene = sorted(set(range(cosines.shape[1]) if own is None else own))
    nearest = cosines.amax(dim=-1)
    return (cosines[:, :, scene].amax(dim=-1) >= nearest) & (right < nearest)


def _own(cosines: Tensor, own: Sequence[int] | None) -> Tensor:
    """(pictures, regions): each region's similarity with its own concept."""
    regions, concepts = cosines.shape[1:]
    index = list(range(regions)) if own is None else list(own)
    if len(index) != regions or not all(0 <= k < concepts for k in index):
        raise CidmError(
            f"{regions} regions belong to the concepts {index}, of {concepts} in all. Name one "
            "concept for each region, counted from 0."
        )
    return cosines[:, range(regions), index]
