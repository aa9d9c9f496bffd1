"""What the pixels of a photo tell: how sharp it is, and which other photos show the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

_SHARP_PX = 512  # short side at which sharpness is judged; smaller photos as they are
_LEAST_PX = 128  # of a smaller one neither sharpness nor likeness can be told
_TILES = 8  # along each side
_SHARPEST = 10  # every tenth tile: a background may be out of focus
_REBLUR_PX = 1.5
# 34 photos and paintings reach 24 and more, at JPEG quality 40 too; blurred by 2 px (of 640) 3.4 at
# most, and by 3 px 1.8. Fog, a fifth of the contrast, leaves at least 6.
BLURRED = 5.0

_HASH_PX, _HASH = 32, 8
_VIEW_PX = 128
# Bits of 64. The same 34 photos differ from one another by 20 and more, parts of one from another
# by 16; a photo differs from its copy, saved at JPEG quality 30 or scaled, by 4, from a part that
# has 75 % or more of its sides by a median of 8 to 10 and 14 at most.
ALIKE = 12
_PARTS = (0.9, 0.8, 0.7)
_COSINES = np.cos(
    np.pi / _HASH_PX * np.outer(np.arange(_HASH + 1), np.arange(_HASH_PX) + 0.5)
).astype(np.float32)

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Looks:
    """What a photo is recognised by.

    Attributes:
        digest: Of its pixels.
        parts: Hashes of it and of parts of it, (parts, 64); of a small one none.
    """

    digest: bytes
    parts: NDArray[np.bool_]


def looks_of(image: Image.Image) -> Looks:
    """Recognise a picture by its coarse structure (a perceptual hash by a cosine transform)."""
    digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
    if min(image.size) < _LEAST_PX:
        return Looks(digest, np.empty((0, _HASH**2), bool))
    view = image.convert("L").resize((_VIEW_PX, _VIEW_PX), Image.Resampling.BOX)
    return Looks(digest, np.array([_hash(view, box) for box in _boxes()]))


def are_alike(first: Looks, second: Looks) -> bool:
    """Whether two pictures show the same, perhaps one of them a part of the other."""
    pairs = ((first.parts[:1], second.parts), (second.parts[:1], first.parts))
    if not all(len(whole) for whole, _ in pairs):
        return False
    return any((whole != parts).sum(axis=1).min() <= ALIKE for whole, parts in pairs)


def sharpness(image: Image.Image, mask: NDArray[np.float32] | None = None) -> float | None:
    """How many times its finest detail shrinks by a small blur; below `BLURRED` there is none.

    The variance of the Laplacian in the sharpest tiles of the picture, over that after the blur: a
    ratio, so that dark and pale pictures are judged like others.

    Args:
        image: A photo.
        mask: Where the concept is; only there it is looked at.

    Returns:
        None for a picture too small to tell.
    """
    side = min(image.size)
    if side < _LEAST_PX:
        return None
    grey = image.convert("L")
    if side > _SHARP_PX:
        size = tuple(round(each * _SHARP_PX / side) for each in image.size)
        grey = grey.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    blurred = grey.filter(ImageFilter.GaussianBlur(_REBLUR_PX))
    ratios = _detail(grey) / (_detail(blurred) + 1)
    if mask is not None:
        seen = Image.fromarray(mask).resize((_TILES, _TILES), Image.Resampling.BOX)
        inside = np.asarray(seen) >= 0.5
        ratios = ratios[inside] if inside.any() else ratios
    ordered = np.sort(ratios.ravel())
    return float(ordered[-max(1, len(ordered) // _SHARPEST) :].mean())


def _detail(grey: Image.Image) -> NDArray[np.float32]:
    """Variance of the Laplacian in each tile."""
    at = np.asarray(grey, dtype=np.float32)
    inner = at[1:-1, 1:-1]
    edges = at[1:-1, :-2] + at[1:-1, 2:] + at[:-2, 1:-1] + at[2:, 1:-1] - 4 * inner
    rows, columns = (length // _TILES for length in edges.shape)
    tiles = edges[: rows * _TILES, : columns * _TILES].reshape(_TILES, rows, _TILES, columns)
    return tiles.var(axis=(1, 3))


def _boxes() -> Iterator[tuple[float, float, float, float]]:
    """All of a view, then its parts in steps of a twentieth."""
    yield (0, 0, _VIEW_PX, _VIEW_PX)
    for share in _PARTS:
        side = _VIEW_PX * share
        starts = np.linspace(0, _VIEW_PX - side, round((1 - share) * 20) + 1).tolist()
        for top in starts:
            yield from ((left, top, left + side, top + side) for left in starts)


def _hash(view: Image.Image, box: tuple[float, float, float, float]) -> Bits:
    """Which of the coarsest waves are above the median, (64,)."""
    small = view.resize((_HASH_PX, _HASH_PX), Image.Resampling.BOX, box=box)
    waves = (_COSINES @ np.asarray(small, dtype=np.float32) @ _COSINES.T)[1:, 1:]
    return (waves > np.median(waves)).ravel()
