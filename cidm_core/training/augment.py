"""One photo to one training picture: cropped, fitted whole on black, or resized on purpose.

CIDM methods section 2, "Data". The released code crops only the bottom of upright photos and
leaves them oblong; here, as its text says, a crop is a random square of the short edge. Pictures
of another shape (`buckets`) are cropped to the largest part of that shape. Resizing is Custom
Diffusion's (see `views`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..config import TrainConfig
from ..errors import PhotoError
from ..sizes import PictureSizes
from .data import Photo
from .views import View, drawn_views

_BLACK, _GREY = 0.0, 127.5  # -1 and 0 for the model


@dataclass(frozen=True, eq=False)
class Variant:
    """One augmented view of a photo.

    Attributes:
        pixels: (3, height, width) in [-1, 1]; padding is black, -1, and mid-grey, 0, around a
            shrunk photo.
        image_mask: (height, width), 1 where the photo is and 0 on padding. Of a shrunk photo only
            whole latent cells that lie well inside it count.
        concept_mask: (height, width) in 0..1, 0 where `image_mask` is; None if the photo has none.
        sizes: What SDXL is told of it: the photo's own size and, of a part that fills the picture,
            where it begins in the photo as it was scaled. Neither padding nor shrinking takes
            anything away at the frame, so both count as no crop.
        phrase: What goes before the caption to say how large the concept is; mostly "".
    """

    pixels: Float[Tensor, "3 height width"]
    image_mask: Float[Tensor, "height width"]
    concept_mask: Float[Tensor, "height width"] | None
    sizes: PictureSizes
    phrase: str


def augment(
    photo: Photo,
    size_px: tuple[int, int],
    cell_px: int,
    config: TrainConfig,
    generator: torch.Generator,
) -> Variant:
    """One view of a photo, as `config.augmentation` says, perhaps mirrored.

    The mask is moved along. A view that would leave nothing of it gives way to a larger one, at
    last to the whole photo on black, so that the masked loss always has something to look at. How
    many numbers a call draws depends on the settings only. Call it on `photo.loaded()` to make
    several variants of a photo on disk.

    Args:
        photo: The photo.
        size_px: (width, height) of the picture to be made; for resizing a square.
        cell_px: Side of a latent cell.
        config: Its augmentation, `crop_probability` and `flip_probability`.
        generator: Of the draws.

    Raises:
        PhotoError: If the photo cannot be read.
    """
    photo = photo.loaded()
    views = drawn_views(photo.image.size, size_px, config, generator)
    chance = config.flip_probability
    if chance and float(torch.rand((), generator=generator)) < chance:
        photo = _mirrored(photo)
    image, mask = photo.image, photo.mask
    view, concept_mask = views[0], None
    if mask is not None:
        masks = (_concept_mask(mask, each, size_px, cell_px) for each in views)
        pairs = list(zip(views, masks, strict=True))
        view, concept_mask = next((pair for pair in pairs if pair[1].max() > 0), pairs[-1])
    colours = np.asarray(_scaled(image, view, Image.Resampling.LANCZOS))
    canvas = _on_canvas(colours, view, size_px, _GREY if view.shrunk else _BLACK)
    pixels = (canvas / 127.5 - 1).permute(2, 0, 1).contiguous()
    (width, height), (to_width, to_height) = image.size, size_px
    sizes = PictureSizes((height, width), view.crop, (to_height, to_width))
    return Variant(pixels, _image_mask(view, size_px, cell_px), concept_mask, sizes, view.phrase)


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


def _mirrored(photo: Photo) -> Photo:
    """Left and right of a loaded photo and its mask exchanged."""
    mask = photo.mask_values
    return replace(
        photo,
        pixels=photo.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        mask_values=None if mask is None else np.ascontiguousarray(mask[:, ::-1]),
    )


def _scaled(image: Image.Image, view: View, kernel: Image.Resampling) -> Image.Image:
    return image.resize((view.width, view.height), kernel, box=view.box, reducing_gap=3.0)


def _concept_mask(
    mask: NDArray[np.float32], view: View, size_px: tuple[int, int], cell_px: int
) -> Tensor:
    scaled = np.asarray(_scaled(Image.fromarray(mask), view, Image.Resampling.BOX)).clip(0, 1)
    placed = _on_canvas(scaled, view, size_px, 0.0)
    return placed * _image_mask(view, size_px, cell_px) if view.shrunk else placed


def _image_mask(view: View, size_px: tuple[int, int], cell_px: int) -> Tensor:
    mask = torch.zeros(size_px[::-1])
    mask[view.counted(cell_px)] = 1
    return mask


def _on_canvas(values: NDArray[Any], view: View, size_px: tuple[int, int], around: float) -> Tensor:
    """The values at their place, and what is around them."""
    picture = np.full((*size_px[::-1], *values.shape[2:]), around, dtype=np.float32)
    picture[view.top : view.top + view.height, view.left : view.left + view.width] = values
    return torch.from_numpy(picture)
