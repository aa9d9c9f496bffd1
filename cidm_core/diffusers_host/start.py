"""A picture to start from: its size, how much of it is redrawn, and where."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..as_text import warn_once
from ..config import SampleConfig
from ..errors import FamilyError, HostError, RegionError
from ..images import Pixels, picture_of
from ..masks import HOLES, mask_of, same_shape
from ..ops.attention import resize_mask
from ..regions import Region
from ..sizes import PictureSizes
from .base import Base

logger = logging.getLogger(__name__)

REGIONS = "regions"  # as a mask: redraw where the regions are
PARTLY = 0.6  # of a start picture without a mask is redrawn, unless the user says how much
TOLD = (  # settings, in the order of `PictureSizes.ids`
    *("original_height_px", "original_width_px"),
    *("crop_top_px", "crop_left_px"),
    *("target_height_px", "target_width_px"),
)
Size = tuple[int, int]  # width, height


@dataclass(frozen=True, eq=False)
class StartPicture:
    """A picture at the size drawn, and where to redraw it (1), (height, width) in pixels."""

    picture: Image.Image
    area: Tensor | None = None

    def cells(self, cell_px: int) -> Tensor | None:
        """The latent cells to redraw: those of which any pixel is."""
        return None if self.area is None else F.max_pool2d(self.area[None, None], cell_px)[0, 0]

    def around(self, drawn: Image.Image) -> Image.Image:
        """The picture's own pixels put back, which the autoencoder would change slightly."""
        if self.area is None:
            return drawn
        alpha = Image.fromarray((self.area.numpy() * 255).round().astype(np.uint8))
        return Image.composite(drawn, self.picture, alpha)


@dataclass(frozen=True, eq=False)
class Drawing:
    """What to draw, settled: sizes and denoise are numbers, regions lie in the picture drawn."""

    config: SampleConfig
    regions: Sequence[Region] = ()
    start: StartPicture | None = None


def settle(
    base: Base,
    config: SampleConfig,
    regions: Sequence[Region] = (),
    image: Pixels | None = None,
    mask: Pixels | str | None = None,
) -> Drawing:
    """Fit size, regions and mask to a start picture, if there is one.

    The picture drawn has the start picture's shape and the model's number of pixels; where width or
    height are given, what does not fit is cropped evenly. Masks go with it.

    Raises:
        HostError: A bad size, a mask without a picture, or one that leaves nothing to redraw.
        PhotoError: Picture or mask cannot be used.
        RegionError: The mask is to be that of regions, and there are none.
    """
    picture = None if image is None else picture_of(image, "Start picture")
    size = picture_px(base, config, None if picture is None else picture.size)
    is_given = config.width_px is not None and config.height_px is not None
    config = replace(config, width_px=size[0], height_px=size[1])
    if picture is None:
        if mask is not None:
            raise HostError("A mask needs a start picture. Give one, or leave the mask out.")
        if config.denoise not in (None, 1):
            warn_once(logger, f"denoise is {config.denoise}, but there is no start picture.")
        return Drawing(replace(config, denoise=1.0), regions)
    usual = PARTLY if mask is None else 1.0
    denoise = usual if config.denoise is None else config.denoise
    if denoise == 1 and mask is None:
        warn_once(
            logger, "denoise is 1: all of the start picture is redrawn, nothing of it will show."
        )
    if is_given and not same_shape(picture.size, size):
        told = "The start picture is {} x {} px: only its middle shows in {} x {} px."
        logger.warning(told.format(*picture.size, *size))
    placed = _Placed(picture.size, size)
    regions = [placed.region(each) for each in regions]
    start = StartPicture(placed.crop(picture), _area(mask, regions, placed))
    return Drawing(replace(config, denoise=denoise), regions, start)


def picture_px(base: Base, config: SampleConfig, shape: Size | None = None) -> Size:
    """(width, height) of the pictures; what is not given has the shape of a start picture.

    Raises:
        HostError: If a side is no multiple of the latent cell.
        FamilyError: If they are too large for the model, or it is told sizes that it cannot read.
    """
    _check_told(base, config)
    side, cell = base.family.resolution_px, base.family.latent_px
    width, height = config.width_px, config.height_px
    if shape is not None and not (width and height):
        across, down = shape
        scale = side / math.sqrt(across * down)
        scale = width / across if width else height / down if height else scale
        width = width or max(1, round(across * scale / cell)) * cell
        height = height or max(1, round(down * scale / cell)) * cell
    width, height = width or side, height or side
    if width % cell or height % cell:
        fit = f"{max(1, width // cell) * cell} x {max(1, height // cell) * cell}"
        raise HostError(
            f"Pictures of {base.family.name} need sides that are multiples of {cell} px; "
            f"{width} x {height} was asked. Use {fit}."
        )
    base.family.check_size(width, height)
    return width, height


def told_sizes(config: SampleConfig, height_px: int, width_px: int) -> PictureSizes:
    """What SDXL is told of a picture's size: what is not given is that of a picture left whole."""
    given = {name: getattr(config, name) for name in TOLD}
    usual = dict(zip(TOLD, PictureSizes.whole(height_px, width_px).ids, strict=True))
    ids = [usual[name] if value is None else value for name, value in given.items()]
    return PictureSizes((ids[0], ids[1]), (ids[2], ids[3]), (ids[4], ids[5]))


def _check_told(base: Base, config: SampleConfig) -> None:
    given = [name for name in TOLD if getattr(config, name) is not None]
    if given and not any(row.pooled for row in base.family.encoders):
        raise FamilyError(
            f"{base.family.name} is not told the size of a picture, so {' and '.join(given)} would "
            "do nothing. Leave it out, or use an SDXL model."
        )


class _Placed:
    """A start picture in the picture drawn: scaled to cover it, cropped around its centre."""

    def __init__(self, shape: Size, drawn: Size) -> None:
        self.shape, self.drawn = shape, drawn
        scale = max(wanted / side for wanted, side in zip(drawn, shape, strict=True))
        width, height = (
            max(wanted, round(side * scale)) for wanted, side in zip(drawn, shape, strict=True)
        )
        self.scaled = width, height
        self.left, self.top = (width - drawn[0]) // 2, (height - drawn[1]) // 2

    def crop(self, picture: Image.Image) -> Image.Image:
        width, height = self.drawn
        scaled = picture.resize(self.scaled, Image.Resampling.LANCZOS)
        return scaled.crop((self.left, self.top, self.left + width, self.top + height))

    def mask(self, mask: Tensor) -> Tensor:
        """A mask of the picture goes where the picture goes; one of the drawn shape fits as it is.

        Raises:
            HostError: If it is of neither shape.
        """
        height, width = mask.shape
        if same_shape((width, height), self.shape):
            across, down = self.scaled
            whole = resize_mask(mask[None], down, across)[0]
            right, bottom = self.left + self.drawn[0], self.top + self.drawn[1]
            return whole[self.top : bottom, self.left : right]
        if same_shape((width, height), self.drawn):
            return resize_mask(mask[None], self.drawn[1], self.drawn[0])[0]
        raise HostError(
            f"The mask is {width} x {height} px, the start picture {self.shape[0]} x "
            f"{self.shape[1]} px: another shape. Make the mask from the picture itself."
        )

    def region(self, region: Region) -> Region:
        """A region whose mask was made for the start picture goes with it."""
        if region.mask is None:
            return region
        height, width = region.mask.shape
        shape = width, height
        if same_shape(shape, self.drawn) or not same_shape(shape, self.shape):
            return region
        return replace(region, mask=self.mask(region.mask))


def _area(mask: Pixels | str | None, regions: Sequence[Region], placed: _Placed) -> Tensor | None:
    """Where to redraw, (height, width) in pixels, 0..1."""
    if mask is None:
        return None
    width, height = placed.drawn
    if isinstance(mask, str):
        if mask != REGIONS or not regions:
            raise RegionError(f"Mask {mask!r} needs regions. Draw one, or give a mask picture.")
        return torch.stack([r.mask_at(height, width, 0.0, 1) for r in regions]).amax(0)
    area = placed.mask(torch.from_numpy(mask_of(mask, "Mask", HOLES)))
    if area.sum() < 1 - 1e-4:
        raise HostError("The mask leaves nothing to redraw. Paint white where to redraw.")
    return area
