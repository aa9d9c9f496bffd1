"""Regions: where in the picture a prompt applies, as a box or a mask.

Boxes are `(x0, y0, x1, y1)` as shares of the picture, 0..1, from the upper left corner.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .errors import PhotoError, RegionError
from .masks import mask_of
from .ops.attention import resize_mask

Box = tuple[float, float, float, float]
_TOLERANCE = 1e-6  # what rounding may add to a coordinate
_Row = TypeVar("_Row")
_Made = TypeVar("_Made")


@dataclass(frozen=True, eq=False)
class Region:
    """A prompt and the box or the mask in which it applies.

    Attributes:
        prompt: What the region shows.
        box: `(x0, y0, x1, y1)` in 0..1. Give a box or a mask.
        mask: (height, width) of any size, stretched over the picture; a tensor, an array or a
            PIL picture, as `mask_of` reads them. Kept as float tensor.
        negative: The region's own negative prompt; default is the picture's.

    Raises:
        RegionError: If a coordinate is not a number or outside the picture, the box has no
            width or height, the mask is empty or has values outside 0..1, or the prompt is blank.
    """

    prompt: str
    box: Sequence[float] | None = None
    mask: Any = None
    negative: str | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise RegionError("A region has no prompt. Say what it should show.")
        if (self.box is None) == (self.mask is None):
            found = "neither" if self.box is None else "both"
            raise RegionError(f"Region {self.prompt!r} has {found}. Give it a box or a mask.")
        if self.box is not None:
            object.__setattr__(self, "box", _checked_box(self.box, self.prompt))
        else:
            object.__setattr__(self, "mask", _checked_mask(self.mask, self.prompt))

    def mask_at(
        self, height: int, width: int, feather: float = 0.0, cell_px: int = 8
    ) -> Float[Tensor, "height width"]:
        """The region on a grid of latent cells, in 0..1; `cell_px` is for error texts.

        A box without feather holds the cells whose centre lies in it (0 or 1), so boxes that
        touch share no cell. Feather, 0 (hard) to 0.5, is the width of the soft edge as a share of
        the shorter side: the ramp is centred on the edge, and never wider than the box; edges on
        the border of the picture stay hard. Masks are area averages; feather blurs them.

        Raises:
            RegionError: If the region is smaller than a latent cell or feather is out of range.
        """
        if not 0.0 <= feather <= 0.5:
            raise RegionError(f"feather is {feather}; give a share of the shorter side, 0 to 0.5.")
        soft = feather * min(height, width)
        if self.box is None:
            return _mask_cells(self.mask, height, width, soft, cell_px, self.prompt)
        x0, y0, x1, y1 = self.box
        cells = ((x1 - x0) * width, (y1 - y0) * height)
        if min(cells) < 1 - _TOLERANCE:
            raise RegionError(
                f"Region {self.prompt!r} is smaller than a latent cell: its box is "
                f"{cells[0] * cell_px:.1f} x {cells[1] * cell_px:.1f} px in a picture of "
                f"{width * cell_px} x {height * cell_px} px. Make it at least "
                f"{cell_px} x {cell_px} px."
            )
        soft = min(soft, *cells)
        return _span(y0, y1, height, soft)[:, None] * _span(x0, x1, width, soft)[None, :]


def masks_at(
    regions: Sequence[Region], height: int, width: int, feather: float = 0.0, cell_px: int = 8
) -> Float[Tensor, "regions height width"]:
    """`Region.mask_at` for all regions; errors name the region's number.

    Raises:
        RegionError: As `Region.mask_at`.
    """
    masks = each_region(regions, lambda region: region.mask_at(height, width, feather, cell_px))
    return torch.stack(masks) if masks else torch.zeros(0, height, width)


def each_region(rows: Sequence[_Row], make: Callable[[_Row], _Made]) -> list[_Made]:
    """`make` of every row; errors name the region's number."""
    made: list[_Made] = []
    for number, row in enumerate(rows, start=1):
        try:
            made.append(make(row))
        except (TypeError, ValueError) as error:
            raise RegionError(f"Region {number} of {len(rows)}: {error}") from None
    return made


def parse_region(text: str) -> Region:
    """Read the command line's `"x0,y0,x1,y1:prompt"`.

    Raises:
        RegionError: If the text has another form, or as `Region`.
    """
    try:
        numbers, prompt = text.split(":", maxsplit=1)
        x0, y0, x1, y1 = (float(part) for part in numbers.split(","))
    except ValueError:
        raise RegionError(
            f"Cannot read the region {text!r}. Write four numbers from 0 to 1 and a prompt, "
            "for example '0.05,0.3,0.45,0.95:a dog on the bed'."
        ) from None
    return Region(prompt.strip(), box=(x0, y0, x1, y1))


def _checked_box(box: Sequence[float], prompt: str) -> Box:
    """Four finite floats inside the picture with positive width and height."""
    if len(box) != 4:
        raise RegionError(
            f"The box of region {prompt!r} has {len(box)} numbers. Give four: x0, y0, x1, y1."
        )
    x0, y0, x1, y1 = values = [float(v) for v in box]
    shown = "(" + ", ".join(f"{v:g}" for v in values) + ")"
    if not all(math.isfinite(v) for v in values):
        raise RegionError(f"The box {shown} of region {prompt!r} must hold finite numbers, 0 to 1.")
    if min(values) < -_TOLERANCE or max(values) > 1 + _TOLERANCE:
        raise RegionError(
            f"The box {shown} of region {prompt!r} reaches outside the picture. "
            "Coordinates are shares of its width and height, 0 to 1."
        )
    for axis, low, high in (("x", x0, x1), ("y", y0, y1)):
        if not low < high:
            extent = "width" if axis == "x" else "height"
            raise RegionError(
                f"The box {shown} of region {prompt!r} has no {extent}: {axis}0 is {low:g}, "
                f"{axis}1 is {high:g}. Give {axis}1 > {axis}0."
            )
    x0, y0, x1, y1 = (min(max(v, 0.0), 1.0) for v in values)
    return x0, y0, x1, y1


def _checked_mask(mask: Any, prompt: str) -> Float[Tensor, "height width"]:
    """A float tensor of our own with values in 0..1, some of them above 0."""
    try:
        values = torch.from_numpy(mask_of(mask, f"The mask of region {prompt!r}"))
    except PhotoError as error:
        raise RegionError(str(error)) from None
    if not values.any():
        raise RegionError(f"The mask of region {prompt!r} is empty. Paint where it should apply.")
    return values


def _span(low: float, high: float, cells: int, soft: float) -> Float[Tensor, " cells"]:
    """One axis of a box: 1 inside, 0 outside, with ramps `soft` cells wide on inner edges."""
    if soft <= 0:
        start, stop = (math.ceil(edge * cells - 0.5 - _TOLERANCE) for edge in (low, high))
        start = min(start, cells - 1)
        span = torch.zeros(cells)
        span[start : max(stop, start + 1)] = 1
        return span
    centre = torch.arange(cells) + 0.5
    span = torch.ones(cells)
    if low > _TOLERANCE:
        span = span * _ramp((centre - low * cells) / soft + 0.5)
    if high < 1 - _TOLERANCE:
        span = span * _ramp((high * cells - centre) / soft + 0.5)
    return span


def _ramp(t: Tensor) -> Tensor:
    """Smoothstep: 0 up to 0, 1 from 1 on; `ramp(t) + ramp(1 - t) = 1`, so neighbours tile."""
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def _mask_cells(
    mask: Tensor, height: int, width: int, soft: float, cell_px: int, prompt: str
) -> Float[Tensor, "height width"]:
    """Area averages of a mask, blurred over `soft` cells; thin masks keep their peak."""
    cells = resize_mask(mask[None], height, width)
    covered = float(cells.sum())
    if covered < 1 - 1e-4:
        raise RegionError(
            f"Region {prompt!r} is smaller than a latent cell: its mask covers "
            f"{covered * cell_px**2:.0f} px of {width * cell_px} x {height * cell_px}. "
            f"Paint at least {cell_px} x {cell_px} px."
        )
    reach = round(soft / 2)
    if reach == 0:
        return cells[0]
    kernel = 2 * reach + 1
    padded = F.pad(cells[None], (reach,) * 4, mode="replicate")
    soft_cells = F.avg_pool2d(padded, kernel, stride=1)[0, 0]
    return (soft_cells * (cells.max() / soft_cells.max())).clamp(max=1)
