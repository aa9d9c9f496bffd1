"""What SDXL is told of a picture: its original size, where it was cropped, what is seen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PictureSizes:
    """Lengths in pixels: sizes are (height, width), the crop is (top, left).

    Attributes:
        original: Size of the picture before it was scaled and cropped.
        crop: Where the part that is seen begins, in the scaled picture.
        target: Size of what is seen.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]

    @classmethod
    def whole(cls, height_px: int, width_px: int) -> PictureSizes:
        """A picture that nothing was cut off, at its own size."""
        return cls((height_px, width_px), (0, 0), (height_px, width_px))

    @property
    def ids(self) -> tuple[int, ...]:
        """In the order that SDXL was trained with."""
        return (*self.original, *self.crop, *self.target)
