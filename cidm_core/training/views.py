"""Which part of a photo a training picture shows, and where: the geometry of `augment`.

Resize augmentation is Custom Diffusion's (Kumari et al. 2023, arXiv 2212.04488). Its code bases
differ; this is the one of the paper's results, in which pictures from 0.6 of the frame up to the
whole of it are not shrunk at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..config import TrainConfig

FAR = ("a far away ", "very small ")
"""What is said of a shrunk photo before its caption."""
NEAR = ("zoomed in ", "close up ")
"""What is said of one that is larger than the frame."""


@dataclass(frozen=True)
class View:
    """`box` of the photo goes to (left, top, left + width, top + height) of the picture.

    Attributes:
        box: (left, top, right, bottom) in the photo.
        phrase: Goes before the caption: how large the concept is.
        shrunk: Whether it was made smaller on purpose. Mid-grey is around it instead of black, and
            the cells at its edge do not count.
    """

    box: tuple[float, float, float, float]
    left: int
    top: int
    width: int
    height: int
    phrase: str = ""
    shrunk: bool = False

    @property
    def crop(self) -> tuple[int, int]:
        """(top, left) of the box in the photo as it is scaled; none of a shrunk photo.

        To a shrunk photo nothing is lost at the frame, which is what SDXL is told by a crop.
        """
        if self.shrunk:
            return (0, 0)
        left, top, right, bottom = self.box
        return (
            round(top * self.height / (bottom - top)),
            round(left * self.width / (right - left)),
        )

    def counted(self, cell_px: int) -> tuple[slice, slice]:
        """Rows and columns of pixels that the loss may look at."""
        rows, columns = (self.top, self.height), (self.left, self.width)
        if self.shrunk:
            return _inner_cells(*rows, cell_px), _inner_cells(*columns, cell_px)
        return slice(rows[0], sum(rows)), slice(columns[0], sum(columns))


def drawn_views(
    size: tuple[int, int], size_px: tuple[int, int], config: TrainConfig, source: torch.Generator
) -> list[View]:
    """A view, and those that take its place where it shows nothing of the concept mask.

    Each kind of augmentation always takes the same number of draws: 3 for crops, 5 for resizing.

    Args:
        size: (width, height) of the photo.
        size_px: (width, height) of the picture to be made; a square for resizing.
        config: Says which kind.
        source: Of the draws.
    """
    if config.augmentation == "crop":
        wants_crop, x, y = torch.rand(3, generator=source).tolist()
        whole = _whole(size, size_px, x, y)
        return (
            [_crop(size, size_px, x, y), whole] if wants_crop < config.crop_probability else [whole]
        )
    usual = [_centre(size, size_px), _whole(size, size_px, 0.5, 0.5)]
    if config.augmentation == "none":
        return usual
    return [_resized(usual[0], size_px[0], torch.rand(5, generator=source).tolist()), *usual]


def _resized(square: View, side: int, draws: Sequence[float]) -> View:
    """The photo's square at a random even size, 1/3 to 1.4 of the frame, at a random place.

    A third of the draws is larger than the frame, from 1.2 on.
    """
    which, size_at, phrase_at, x, y = draws
    low, high = (side // 3, side) if which < 2 / 3 else (6 * side // 5, 7 * side // 5 - 1)
    size = low + _shift(high - low, size_at)
    size += size % 2
    if 5 * size < 3 * side:
        left, top = _shift(side - size, x), _shift(side - size, y)
        return View(square.box, left, top, size, size, FAR[_shift(1, phrase_at)], shrunk=True)
    if size <= side:
        return square
    left, top, right, _ = square.box
    pixel = (right - left) / size  # of the enlarged square, in the photo
    left += _shift(size - side, x) * pixel
    top += _shift(size - side, y) * pixel
    box = (left, top, left + side * pixel, top + side * pixel)
    return View(box, 0, 0, side, side, NEAR[_shift(1, phrase_at)])


def _inner_cells(start: int, length: int, cell_px: int) -> slice:
    """The pixels of the cells well inside; of at least one cell.

    As in the released code, the last whole cell is left out, too.
    """
    first, end = start // cell_px + 1, (start + length) // cell_px - 1
    if first >= end:  # in tiny pictures
        first = (start + length // 2) // cell_px
        end = first + 1
    return slice(first * cell_px, end * cell_px)


def _kept(size: tuple[int, int], size_px: tuple[int, int]) -> tuple[float, float]:
    """(width, height) of the largest part of that shape."""
    (width, height), (to_width, to_height) = size, size_px
    if width * to_height < height * to_width:
        return (width, width * to_height / to_width)
    return (height * to_width / to_height, height)


def _crop(size: tuple[int, int], size_px: tuple[int, int], x: float, y: float) -> View:
    """The largest part of that shape, cut out and scaled in one go."""
    kept = _kept(size, size_px)
    left, top = (_shift(int(s - k), at) for s, k, at in zip(size, kept, (x, y), strict=True))
    return View((left, top, left + kept[0], top + kept[1]), 0, 0, *size_px)


def _centre(size: tuple[int, int], size_px: tuple[int, int]) -> View:
    kept = _kept(size, size_px)
    left, top = (int(s - k) // 2 for s, k in zip(size, kept, strict=True))
    return View((left, top, left + kept[0], top + kept[1]), 0, 0, *size_px)


def _whole(size: tuple[int, int], size_px: tuple[int, int], x: float, y: float) -> View:
    (width, height), (to_width, to_height) = size, size_px
    fitted = (max(1, round(width * to_height / height)), to_height)
    if width * to_height >= height * to_width:
        fitted = (to_width, max(1, round(height * to_width / width)))
    left, top = (_shift(to - f, at) for to, f, at in zip(size_px, fitted, (x, y), strict=True))
    return View((0, 0, *size), left, top, *fitted)


def _shift(room: int, at: float) -> int:
    """A whole number in 0..room, from `at` in [0, 1)."""
    return min(int(at * (room + 1)), room)
