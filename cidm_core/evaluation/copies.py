"""The nearest-neighbour check: does a system score well because it copies the reference photos?

Image alignment rewards a picture that repeats a photo. So each drawn picture's largest similarity
with any photo is set against what is natural: the largest similarity of each photo with another
photo of the concept, and of pictures from other seeds with each other. A picture is a near-copy
when it is more similar to some photo than any two different photos are to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import CidmError

Doubles = NDArray[np.float64]
_SIDE_PX = 32
_NOTHING = 1e-9  # what rounding leaves of a flat picture


@dataclass(frozen=True)
class CopyCheck:
    """How near drawn pictures come to the reference photos, in one measure of similarity.

    Attributes:
        nearest: Mean over the pictures of the largest similarity with a photo.
        photos: Mean over the photos of the largest similarity with another photo.
        seeds: Mean over the pictures of the largest similarity with another picture; None if
            that was not asked.
        threshold: Largest similarity of any two different photos.
        share: Share of the pictures that are nearer than that to some photo.
    """

    nearest: float
    photos: float
    seeds: float | None
    threshold: float
    share: float

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


def copy_check(
    to_photos: Doubles, among_photos: Doubles, among_pictures: Doubles | None = None
) -> CopyCheck:
    """The check, from similarities (`cosines`, `correlations` or `closeness`).

    Args:
        to_photos: (pictures, photos).
        among_photos: (photos, photos); at least two photos.
        among_pictures: (pictures, pictures).

    Raises:
        CidmError: If shapes do not fit, or there are fewer than two photos.
    """
    pictures, photos = to_photos.shape
    if among_photos.shape != (photos, photos) or photos < 2 or not pictures:
        raise CidmError(
            f"The copy check needs pictures and two photos or more; it got {pictures} pictures, "
            f"{photos} photos, and similarities of photos of shape {among_photos.shape}."
        )
    natural = _nearest_other(among_photos)
    nearest = to_photos.max(axis=1)
    threshold = float(natural.max())
    seeds = None if among_pictures is None else float(_nearest_other(among_pictures).mean())
    share = float((nearest > threshold).mean())
    return CopyCheck(float(nearest.mean()), float(natural.mean()), seeds, threshold, share)


def _nearest_other(square: Doubles) -> Doubles:
    """(n,): largest entry of each row off the diagonal.

    Raises:
        CidmError: If the matrix is not square or has fewer than two rows.
    """
    if square.ndim != 2 or square.shape[0] != square.shape[1] or len(square) < 2:
        raise CidmError(f"Similarities of shape {square.shape} are not of two or more pictures.")
    others = square.astype(np.float64)
    np.fill_diagonal(others, -np.inf)
    return others.max(axis=1)


def cosines(first: Tensor, second: Tensor) -> Doubles:
    """(first, second): cosine of every pair of embeddings (n, dim), in float64."""
    a, b = (each.detach().cpu().double().numpy() for each in (first, second))
    return _unit(a) @ _unit(b).T


def pixels(pictures: Sequence[Image.Image], side_px: int = _SIDE_PX) -> Doubles:
    """(pictures, side * side * 3) in 0..1: every picture at one common size."""
    size = (side_px, side_px)
    resized = [p.convert("RGB").resize(size, Image.Resampling.BOX) for p in pictures]
    flat = [np.asarray(p, dtype=np.float64).reshape(-1) / 255 for p in resized]
    return np.stack(flat) if flat else np.zeros((0, side_px * side_px * 3))


def correlations(first: Doubles, second: Doubles) -> Doubles:
    """(first, second): Pearson correlation of the pixels of every pair; 0 for flat pictures."""
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (first, second))
    return _unit(a) @ _unit(b).T


def closeness(first: Doubles, second: Doubles) -> Doubles:
    """(first, second): one minus the mean absolute difference of the pixels, in 0..1."""
    return np.stack([1 - np.abs(second - row).mean(axis=1) for row in first])


def _unit(rows: Doubles) -> Doubles:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > _NOTHING)
