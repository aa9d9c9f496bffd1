"""One photo to one training picture: a random crop, or fitted whole on black.

CIDM methods section 2, "Data". The released code crops only the bottom of upright photos and
leaves them oblong; here, as its text says, a crop is a random square of the short edge. Pictures
of another shape (`buckets`) are cropped to the largest part of that shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..errors import PhotoError
from ..sizes import PictureSizes
from .data import Photo


@dataclass(frozen=True, eq=False)
class Variant:
    """One augmented view of a photo.

    Attributes:
        pixels: (3, height, width) in [-1, 1]; padding is black, -1.
        image_mask: (height, width), 1 where the photo is and 0 on padding.
        concept_mask: (height, width) in 0..1, 0 on padding; None if the photo has no mask.
        sizes: What SDXL is told of it. Padding takes nothing away, so it counts as no crop.
    """

    pixels: Float[Tensor, "3 height width"]
    image_mask: Float[Tensor, "height width"]
    concept_mask: Float[Tensor, "height width"] | None
    sizes: PictureSizes


@dataclass(frozen=True)
class _Placement:
    """`box` of the photo goes to (left, top, left + width, top + height) of the picture."""

    box: tuple[float, float, float, float]
    left: int
    top: int
    width: int
    height: int

    @property
    def crop(self) -> tuple[int, int]:
        """(top, left) of the box in the photo as it is scaled."""
        left, top, right, bottom = self.box
        return (
            round(top * self.height / (bottom - top)),
            round(left * self.width / (right - left)),
        )


def augment(
    photo: Photo, size_px: tuple[int, int], crop_probability: float, generator: torch.Generator
) -> Variant:
    """A random crop, as large as the shape allows, or the whole photo at a random place on black.

    The mask is moved along. A crop that would leave nothing of it becomes the whole photo, so that
    the masked loss always has something to look at. Every call draws three numbers, whatever comes
    of them. Call it on `photo.loaded()` to make several variants of a photo on disk.

    Args:
        photo: The photo.
        size_px: (width, height) of the picture to be made.
        crop_probability: Chance of a crop.
        generator: Of the draws.

    Raises:
        PhotoError: If the photo cannot be read.
    """
    photo = photo.loaded()
    wants_crop, x, y = torch.rand(3, generator=generator).tolist()
    image, mask = photo.image, photo.mask
    place = _whole(image.size, size_px, x, y)
    if wants_crop < crop_probability:
        crop = _crop(image.size, size_px, x, y)
        if mask is None or _resized_mask(mask, crop).max() > 0:
            place = crop
    colours = np.asarray(_resized(image, place, Image.Resampling.LANCZOS))
    pixels = (_on_black(colours, place, size_px) / 127.5 - 1).permute(2, 0, 1).contiguous()
    image_mask = _on_black(np.ones(colours.shape[:2]), place, size_px)
    concept_mask = None
    if mask is not None:
        concept_mask = _on_black(_resized_mask(mask, place), place, size_px)
    (width, height), (to_width, to_height) = image.size, size_px
    sizes = PictureSizes((height, width), place.crop, (to_height, to_width))
    return Variant(pixels, image_mask, concept_mask, sizes)


def to_latent_mask(
    mask: Float[Tensor, "*batch height width"], latent_px: int
) -> Float[Tensor, "*batch rows columns"]:
    """A mask at latent size: each cell is the mean of its `latent_px` x `latent_px` pixels.

    Raises:
        PhotoError: If the sides are no multiples of `latent_px`.
    """
    height, width = mask.shape[-2:]
    if height % latent_px or width % latent_px:
        raise PhotoError(
            f"A mask of {width} x {height} px has no whole number of latent cells of {latent_px} "
            f"px. Use a training size that is a multiple of {latent_px}."
        )
    flat = mask.float().reshape(-1, 1, height, width)
    pooled = functional.avg_pool2d(flat, latent_px)
    return pooled.reshape(*mask.shape[:-2], height // latent_px, width // latent_px)


def _crop(size: tuple[int, int], size_px: tuple[int, int], x: float, y: float) -> _Placement:
    """The largest part of that shape, cut out and scaled in one go."""
    (width, height), (to_width, to_height) = size, size_px
    kept = (height * to_width / to_height, height)
    if width * to_height < height * to_width:
        kept = (width, width * to_height / to_width)
    left, top = (_shift(int(s - k), at) for s, k, at in zip(size, kept, (x, y), strict=True))
    return _Placement((left, top, left + kept[0], top + kept[1]), 0, 0, to_width, to_height)


def _whole(size: tuple[int, int], size_px: tuple[int, int], x: float, y: float) -> _Placement:
    (width, height), (to_width, to_height) = size, size_px
    fitted = (max(1, round(width * to_height / height)), to_height)
    if width * to_height >= height * to_width:
        fitted = (to_width, max(1, round(height * to_width / width)))
    left, top = (_shift(to - f, at) for to, f, at in zip(size_px, fitted, (x, y), strict=True))
    return _Placement((0, 0, *size), left, top, *fitted)


def _shift(room: int, at: float) -> int:
    """A whole number in 0..room, from `at` in [0, 1)."""
    return min(int(at * (room + 1)), room)


def _resized(image: Image.Image, place: _Placement, kernel: Image.Resampling) -> Image.Image:
    return image.resize((place.width, place.height), kernel, box=place.box, reducing_gap=3.0)


def _resized_mask(mask: NDArray[np.float32], place: _Placement) -> NDArray[np.float32]:
    return np.asarray(_resized(Image.fromarray(mask), place, Image.Resampling.BOX)).clip(0, 1)


def _on_black(values: NDArray[Any], place: _Placement, size_px: tuple[int, int]) -> Tensor:
    """Zeros with the values at their place."""
    picture = np.zeros((*size_px[::-1], *values.shape[2:]), dtype=np.float32)
    picture[place.top : place.top + place.height, place.left : place.left + place.width] = values
    return torch.from_numpy(picture)
