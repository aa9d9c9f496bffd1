"""What stands on a composite: subjects and their parts, cut out of photos by their masks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...as_text import listed
from ...errors import PhotoError
from ..data import Photo, TrainingSubject
from .parts import split

logger = logging.getLogger(__name__)

PART = "part"
"""Name of a part that nobody named."""
_HAZE = 0.1  # soft masks are rarely black anywhere
_INSIDE = 0.5
_EVERYWHERE = 0.98
_LEAST_PX, _MOST_PX = 3, 1024


@dataclass(frozen=True, eq=False)
class CutOut:
    """Something without its background.

    Attributes:
        picture: RGBA, cropped to its content.
        name: Which part of its subject it is: "hair", or `PART`; "" for the whole.
        label: What captions call a common thing: "chef".
        subject: Number of its subject; None for a common thing.
    """

    picture: Image.Image
    name: str = ""
    label: str = ""
    subject: int | None = None

    def called(self, phrases: Sequence[str]) -> str:
        """What captions call it: "chef", "<x1> <x2>", "<x1> <x2>'s hair".

        A part that nobody named is "part of <x1> <x2>": by the words alone it would say that the
        whole subject looks so.

        Args:
            phrases: What captions call each subject.
        """
        if self.subject is None:
            return self.label
        phrase = phrases[self.subject]
        if self.name == PART:
            return f"{PART} of {phrase}"
        return f"{phrase}'s {self.name}" if self.name else phrase


def cut_out(image: Image.Image, mask: NDArray[np.float32]) -> Image.Image | None:
    """What a mask leaves of a picture, as RGBA; None if that is nothing, or all of it.

    Args:
        image: RGB.
        mask: (height, width) in 0..1, which becomes the opacity; below 0.1 there is none.

    Returns:
        The content alone, 1024 px at most.
    """
    alpha = np.where(mask < _HAZE, 0, mask)
    rows, columns = (np.flatnonzero(alpha.any(axis)) for axis in (1, 0))
    if not len(rows) or (mask > _INSIDE).mean() > _EVERYWHERE:
        return None
    box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    if min(box[2] - box[0], box[3] - box[1]) < _LEAST_PX:
        return None
    whole = image.convert("RGB")
    whole.putalpha(Image.fromarray(np.rint(alpha * 255).astype(np.uint8)))
    content = whole.crop(box)
    content.thumbnail((_MOST_PX, _MOST_PX), Image.Resampling.LANCZOS)
    return content


def check_masks(subjects: Sequence[TrainingSubject]) -> None:
    """Make sure that every photo has a mask.

    Raises:
        PhotoError: Naming those without.
    """
    bare = [
        _where(photo, k)
        for subject in subjects
        for k, photo in enumerate(subject.photos, start=1)
        if not photo.has_mask
    ]
    if bare:
        raise PhotoError(
            f"Composites need cut-outs of the subject, and there is no mask of {listed(bare)}. "
            "Paint masks, white on the subject (dog1_mask.png beside dog1.jpg), or have them made "
            "(--segment)."
        )


def cut_outs(subject: TrainingSubject, number: int) -> list[CutOut]:
    """The subject and its parts as each photo shows them.

    Parts are those that masks beside the photos name. Where no photo has such a mask, a whole is
    split in two to four parts without names (`parts.split`) in place of the paper's segments.

    Args:
        subject: Its photos have masks.
        number: Its place among the subjects.

    Raises:
        PhotoError: If photos have no mask, or no mask cuts anything out.
    """
    check_masks([subject])
    names = [_where(photo, k) for k, photo in enumerate(subject.photos, start=1)]
    photos = list(zip(names, subject.photos, strict=True))
    named = any(photo.parts for photo in subject.photos)
    found: list[CutOut] = []
    for name, photo in photos:
        found += _of_photo(photo.loaded(), name, number, named)
    if not any(not each.name for each in found):
        raise PhotoError(
            f"No photo's mask cuts its subject out: {listed(names)}. Paint the subject white and "
            "all around it black."
        )
    return found


def _of_photo(photo: Photo, where: str, number: int, named: bool) -> Iterator[CutOut]:
    assert photo.mask_values is not None
    whole = _told(photo.image, photo.mask_values, where)
    if whole is not None:
        yield CutOut(whole, subject=number)
    if named:
        for name, mask in photo.part_masks().items():
            if (piece := _told(photo.image, mask, f"{where}, {name}")) is not None:
                yield CutOut(piece, name, subject=number)
    elif whole is not None:
        for piece in split(whole):
            yield CutOut(piece, PART, subject=number)


def _told(image: Image.Image, mask: NDArray[np.float32], where: str) -> Image.Image | None:
    found = cut_out(image, mask)
    if found is None:
        logger.warning(
            "The mask of %s leaves nothing of it, or all; no cut-out is made of it.", where
        )
    return found


def _where(photo: Photo, number: int) -> str:
    return f"'{photo.path}'" if photo.path else f"photo {number}"
