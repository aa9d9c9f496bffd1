"""Photos and captions as training will see them, with what is likely wrong about them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..calls import Name
from ..config import TrainConfig
from ..training.augment import augment
from ..training.buckets import bucket_of
from ..training.captions import told_of_nameless
from ..training.data import Photo, TrainingSubject
from ..training.views import drawn_views
from ..words import canonical
from . import findings as check
from .attributes import strip
from .findings import ESTIMATE, Finding, Reading
from .pixels import Looks, looks_of, sharpness

MOST = 60
"""Photos of a subject whose pictures are kept for showing."""
_KEPT_PX = 320  # longer side of what is kept of each picture
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Frame:
    """How photos become training pictures.

    Attributes:
        side_px: Of the training square.
        cell_px: Of a latent cell.
        buckets: Whether each photo has a shape near its own.
    """

    side_px: int = 512
    cell_px: int = 8
    buckets: bool = False

    def size_of(self, photo: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that a photo is learned at."""
        if not self.buckets:
            return (self.side_px, self.side_px)
        return bucket_of(photo, self.side_px, self.cell_px)


@dataclass(frozen=True, eq=False)
class Picture:
    """What is learned from one photo, made smaller for showing.

    Attributes:
        image: Without augmentation.
        mask: Where in it the concept is, white on black; None for everywhere.
    """

    image: Image.Image
    mask: Image.Image | None


@dataclass(frozen=True, eq=False)
class Seen:
    """One photo as it will be learned.

    Attributes:
        name: Of its file, or "photo 2".
        size: (width, height) of the photo.
        learned_at: (width, height) of the training picture.
        has_mask: Whether a mask says where in it the concept is.
        picture: What is seen of it; kept of the first `MOST` photos.
        caption: As written.
        bound: With the words in place; "" becomes the words alone.
        suggestion: The caption without words of appearance, where it has any.
    """

    name: str
    size: tuple[int, int]
    learned_at: tuple[int, int]
    has_mask: bool
    picture: Picture | None
    caption: str
    bound: str
    suggestion: str | None


@dataclass(frozen=True, eq=False)
class Inspected:
    """A subject's photos as they will be learned, and what was found."""

    subject: TrainingSubject
    photos: list[Seen]
    findings: list[Finding]

    def of_photo(self, number: int | None) -> list[Finding]:
        """The findings of one photo, or those of all of them."""
        return [finding for finding in self.findings if finding.photo == number]


def inspect(
    subjects: Sequence[TrainingSubject],
    frame: Frame,
    reading: Reading = ESTIMATE,
    told: Sequence[str] = (),
) -> list[Inspected]:
    """Look at the photos and captions of subjects.

    Args:
        subjects: As a lesson holds them: their words are where the method puts them.
        frame: How photos become training pictures.
        reading: Says which captions are too long.
        told: What was told while the photos were read; see `hearing`.

    Raises:
        PhotoError: Where training would refuse them, with its own message.
    """
    found, heard = hearing(lambda: [_inspected(each, frame, reading) for each in subjects])
    known = {text for each in found for text in _said(each)}
    more = [Finding("told", text) for text in (*told, *heard) if text not in known]
    return [replace(found[0], findings=[*more, *found[0].findings]), *found[1:]]


def hearing(work: Callable[[], _Result]) -> tuple[_Result, list[str]]:
    """Do something, and collect what is told meanwhile instead of logging it."""
    with _listening() as ear:
        return work(), list(ear.heard)


class _Ear(logging.Handler):
    """Keeps what it hears, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.heard[record.getMessage()] = None


@contextmanager
def _listening() -> Generator[_Ear]:
    """For a while, all that the package tells goes to one place and nowhere else."""
    log, ear = logging.getLogger(__name__.rpartition(".inspection")[0]), _Ear()
    before = log.handlers, log.propagate, log.level
    log.handlers, log.propagate = [ear], False
    log.setLevel(logging.WARNING)
    try:
        yield ear
    finally:
        log.handlers, log.propagate = before[:2]
        log.setLevel(before[2])


def name_of_photo(photo: Photo, number: int) -> str:
    """What messages call a photo, from its number in the list."""
    return photo.path.name if photo.path else f"photo {number + 1}"


def callers(subject: TrainingSubject) -> list[Name]:
    """What a caption may call the subject: its words, its class words, and what stands for them."""
    plain = (subject.class_words, *(subject.mapping or ()))
    phrases = [" ".join(canonical(each).split()) for each in plain]
    return [subject.subject.triggers, *((each,) for each in dict.fromkeys(phrases) if each)]


def suggestion_for(caption: str, subject: TrainingSubject) -> str | None:
    """A caption without words of appearance; None if it has none."""
    found = strip(caption, callers(subject), subject.kind)
    return found.caption if found.words else None


def findings_for(
    photos: Sequence[Photo], subject: TrainingSubject | None, frame: Frame
) -> list[Finding]:
    """What is found before captions are bound, also of captions that cannot be.

    Args:
        photos: With captions as written.
        subject: What they are said to show, where that is known.
        frame: How photos become training pictures.
    """
    names = [name_of_photo(photo, number) for number, photo in enumerate(photos)]
    captions = [photo.caption for photo in photos]
    found = [each for *_, more in _pictures(photos, names, frame) for each in more]
    return [*found, *_of_captions(captions, captions, subject, ESTIMATE)]


def _inspected(subject: TrainingSubject, frame: Frame, reading: Reading) -> Inspected:
    bound = [photo.caption for photo in subject.bound()]
    captions = [photo.caption for photo in subject.photos]
    names = [name_of_photo(photo, number) for number, photo in enumerate(subject.photos)]
    found: list[Finding] = []
    seen: list[Seen] = []
    pictures = _pictures(subject.photos, names, frame)
    for number, (size, picture, more) in enumerate(pictures):
        found += more
        seen.append(
            Seen(
                name=names[number],
                size=size,
                learned_at=frame.size_of(size),
                has_mask=picture.mask is not None,
                picture=picture if number < MOST else None,
                caption=captions[number],
                bound=bound[number],
                suggestion=suggestion_for(captions[number], subject),
            )
        )
    found += _of_captions(captions, bound, subject, reading)
    return Inspected(subject, seen, found)


def _of_captions(
    captions: Sequence[str],
    bound: Sequence[str],
    subject: TrainingSubject | None,
    reading: Reading,
) -> list[Finding]:
    found = check.same(captions)
    for number, caption in enumerate(captions):
        found += check.long(bound[number], reading, number)
        if subject is not None:
            found += check.nameless(subject, caption, number)
            found += check.attributes(caption, callers(subject), subject.kind, number)
    return [*found, *check.why_attributes(found)]


def _pictures(
    photos: Sequence[Photo], names: Sequence[str], frame: Frame
) -> Iterator[tuple[tuple[int, int], Picture, list[Finding]]]:
    """The size of each photo, how it is learned, and what is wrong with its pixels."""
    looks: list[Looks] = []
    few = check.few(len(photos))
    for number, photo in enumerate(photos):
        held = photo.loaded()
        looks.append(looks_of(held.image))
        picture, found = _pictured(held, frame, names[number], number)
        yield (
            held.image.size,
            picture,
            [*(few if not number else ()), *found, *check.duplicate(looks, names)],
        )


def _pictured(photo: Photo, frame: Frame, name: str, number: int) -> tuple[Picture, list[Finding]]:
    size, learned_at = photo.image.size, frame.size_of(photo.image.size)
    config, draws = TrainConfig(augmentation="none"), torch.Generator()
    crop = drawn_views(size, learned_at, config, draws)[0]
    variant = augment(photo, learned_at, frame.cell_px, config, draws)
    found = [
        *check.blurred(sharpness(photo.image, photo.mask_values), number),
        *check.small(crop, number),
        *check.shape(crop, size, number),
    ]
    shown = _small(((variant.pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    if photo.mask_values is None or variant.concept_mask is None:
        return Picture(shown, None), found
    kept = variant.concept_mask.numpy()
    # Where a crop shows nothing of it, all of the photo stands in, on black.
    share = float(kept.sum()) if bool(variant.image_mask.all()) else 0.0
    where = f"Mask '{photo.mask_path}'" if photo.mask_path else f"The mask of {name}"
    found += check.mask(photo.mask_values, share, crop, where, number)
    mask = _small(np.rint(kept * 255).astype(np.uint8))
    return Picture(shown, mask), found


def _said(one: Inspected) -> Iterator[str]:
    """What the findings say already, as it is told elsewhere."""
    trigger = one.subject.bare_caption
    for finding in one.findings:
        yield finding.text
        if finding.kind == "nameless" and finding.photo is not None:
            bound = one.photos[finding.photo].bound
            yield told_of_nameless(bound.removeprefix(f"{trigger}, "), trigger)


def _small(values: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(values)
    picture.thumbnail((_KEPT_PX, _KEPT_PX), Image.Resampling.LANCZOS)
    return picture
