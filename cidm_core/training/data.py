"""Photos of one concept: pictures, captions and optional concept masks of a folder.

Pixels are decoded when asked for, so that a folder of thousands does not fill the memory; every
file is decoded once at the start all the same, so that no bad one turns up in mid-training.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..as_text import listed
from ..concept import Subject
from ..errors import PhotoError
from ..images import Pixels, check_size, picture_of, read_image
from ..masks import VISIBLE, fitted, mask_of, read_mask
from ..paths import user_path
from ..words import new_words
from .caption_files import clean
from .captions import bind_all, is_nameless
from .folders import list_photos, masks_in, match_captions, parts_in

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture, what it shows, and where in it the concept is.

    Made by `from_folder` and `from_image`. `image` and `mask` are decoded at each access of a photo
    on disk; `loaded()` gives a copy that keeps them.

    Attributes:
        path: Its file; None for a picture from memory.
        caption: One line; "" when nobody wrote one.
        mask_path: File of its concept mask.
        pixels: Upright RGB picture, when held in memory.
        mask_values: Concept mask, (height, width) in 0..1, when held in memory.
        kind: "object", "style" or "human" chooses the caption's templates; "" leaves it as it is.
        subject: Number of the subject it belongs to, of those that are learned together.
        parts: Files of the masks of its named parts: "hair", "left ear".
    """

    path: Path | None
    caption: str
    mask_path: Path | None = None
    pixels: Image.Image | None = None
    mask_values: NDArray[np.float32] | None = None
    kind: str = ""
    subject: int = 0
    parts: Mapping[str, Path] = field(default_factory=dict[str, Path])

    @property
    def image(self) -> Image.Image:
        """The upright RGB picture.

        Raises:
            PhotoError: If its file is gone or cannot be used.
        """
        if self.pixels is not None:
            return self.pixels
        if self.path is None:
            raise PhotoError("A photo needs a file or a picture. Use Photo.from_image.")
        return read_image(self.path)

    @property
    def has_mask(self) -> bool:
        return self.mask_values is not None or self.mask_path is not None

    @property
    def mask(self) -> NDArray[np.float32] | None:
        """Where the concept is: (height, width) of the picture in 0..1; None for everywhere.

        Raises:
            PhotoError: If its file is gone or cannot be used, or it is black everywhere.
        """
        return self.loaded().mask_values if self.has_mask else None

    def part_masks(self) -> dict[str, NDArray[np.float32]]:
        """The masks of its named parts, each as `mask`."""
        return {name: _from_file(path, self.image.size) for name, path in self.parts.items()}

    def loaded(self) -> Photo:
        """A copy that holds its picture and mask in memory."""
        image, mask = self.image, self.mask_values
        if mask is None and self.mask_path is not None:
            mask = _from_file(self.mask_path, image.size)
        return replace(self, pixels=image, mask_values=mask)

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        captions: str | os.PathLike[str] | Mapping[str, str] | None = None,
        masks: str | os.PathLike[str] | None = None,
        class_words: str | None = None,
    ) -> list[Photo]:
        """All photos of a folder in natural order (2.jpg before 10.jpg); subfolders are left out.

        Args:
            folder: Hidden files and files that are no pictures are passed over.
            captions: A folder of same-named .txt files, a captions file (`read_captions`), or
                captions by file name. By default .txt files beside the photos, or a file named as
                one of `folders.CAPTION_FILES` in the folder.
            masks: A folder of same-named pictures, white on the concept. By default files such as
                `dog1_mask.png` or `dog1.mask.png` beside `dog1.jpg`. In either place,
                `dog1_mask_left_ear.png` is of a part of it, the left ear.
            class_words: Caption of photos that have none.

        Raises:
            PhotoError: If there is no photo, or one of the files cannot be used (it is named).
        """
        folder = user_path(folder)
        pictures, beside, parts = list_photos(folder)
        texts = match_captions(pictures, folder if captions is None else captions)
        if captions is not None and not any(texts):
            given = "given" if isinstance(captions, Mapping) else f"'{captions}'"
            raise PhotoError(
                f"Captions {given} name none of the {len(pictures)} photos in '{folder}'. "
                f"Use the photos' file names, such as '{pictures[0].name}'."
            )
        mask_paths = beside if masks is None else masks_in(user_path(masks), pictures)
        parts = parts if masks is None else parts_in(user_path(masks), pictures)
        instead = clean(class_words or "", "Class words")
        photos = [
            Photo(path, text or instead, mask_paths.get(path), parts=parts.get(path, {}))
            for path, text in zip(pictures, texts, strict=True)
        ]
        for photo in photos:
            photo.loaded()
        bare = [path.name for path, text in zip(pictures, texts, strict=True) if not text]
        if 0 < len(bare) < len(pictures):
            logger.warning("No caption for %s; the class words stand in.", listed(bare))
        without = [path.name for path in pictures if path not in mask_paths]
        if 0 < len(without) < len(pictures):
            logger.warning("No mask for %s; the whole photo counts there.", listed(without))
        return photos

    @classmethod
    def from_image(
        cls,
        image: Pixels,
        caption: str = "",
        mask: Pixels | None = None,
        where: str = "Mask in memory",
    ) -> Photo:
        """A photo from memory.

        Args:
            image: PIL picture, array or tensor, as `picture_of` reads them.
            caption: What it shows.
            mask: The same kinds, as `mask_of` reads them; white or 1 on the concept.
            where: What messages call the mask.

        Raises:
            PhotoError: If shape, range or size do not fit.
        """
        picture = picture_of(image, "Photo in memory")
        check_size(picture.size, "Photo in memory")
        values = None
        if mask is not None:
            values = mask_of(mask, where, VISIBLE)
            white = np.float32(255)  # as a mask file keeps it
            values = np.divide(np.rint(values * white), white, dtype=np.float32)
            values = fitted(values, picture.size, where)
        return cls(None, clean(caption, "Caption"), None, picture, values)


@dataclass(frozen=True, eq=False)
class TrainingSubject:
    """A subject and the photos it is learned from.

    Attributes:
        photos: 3 to 5 are enough; `Photo.from_folder`.
        words: Concept words, identity first, class noun last; may be none where a method allows it.
        class_words: The plain words they stand for in the captions.
        kind: "object", "style" or "human"; chooses the caption templates.
        mapping: Replacements in captions instead of class words by words.
        prior: Pictures of other things of the class, for methods that preserve what the model knows
            of it.
        modifier: Whether captions keep the class words behind the words; the method decides, as
            of all that follows.
        on_request: Whether its class words call it only where drawing asks for it.
    """

    photos: Sequence[Photo]
    words: str | Sequence[str] = ()
    class_words: str = ""
    kind: str = "object"
    mapping: Mapping[str, str] | None = None
    prior: Sequence[Photo] = ()
    modifier: bool = False
    on_request: bool = False

    @property
    def subject(self) -> Subject:
        """What the concept will say of it.

        Raises:
            ConceptError: The words cannot be used.
        """
        words = new_words(self.words) if self.words else ()
        flags = self.modifier and bool(words), self.on_request and not words
        return Subject(words, self.class_words, self.kind, *flags)

    @property
    def bare_caption(self) -> str:
        """What stands for a caption that nobody wrote."""
        return self._bound([""])[0]

    def bound(self) -> list[Photo]:
        """The photos with their kind, and captions that hold the words (`captions.bind_all`).

        Raises:
            PhotoError: If there are no photos, or no caption names the subject.
        """
        if not self.photos:
            raise PhotoError(
                "There are no photos to learn from. Give three to five of the concept."
            )
        bound = self._bound([photo.caption for photo in self.photos])
        pairs = zip(self.photos, bound, strict=True)
        return [replace(photo, caption=caption, kind=self.kind) for photo, caption in pairs]

    def is_nameless(self, caption: str) -> bool:
        """Whether a caption lacks the subject, so that its words go before it."""
        return is_nameless(
            caption, self.words, self.class_words, self.mapping, modifier=self.modifier
        )

    def _bound(self, captions: Sequence[str]) -> list[str]:
        return bind_all(
            captions, self.words, self.class_words, self.mapping, modifier=self.modifier
        )


def with_captions(photos: Sequence[Photo], captions: Sequence[str]) -> list[Photo]:
    """The photos with other captions.

    Args:
        photos: They keep their own captions if nothing is written in `captions`.
        captions: One for each photo, or a single text with a line for each or one line for all.

    Raises:
        PhotoError: If their number does not fit.
    """
    texts = list(captions)
    if len(texts) == 1:
        texts = texts[0].strip().splitlines()
    if not any(text.strip() for text in texts):
        return list(photos)
    if len(texts) not in (1, len(photos)):
        raise PhotoError(
            f"There are {len(photos)} photos and {len(texts)} captions. Give one caption per photo "
            "(a list, or one per line), a single one for all, or none."
        )
    texts *= len(photos) if len(texts) == 1 else 1
    pairs = zip(photos, texts, strict=True)
    return [replace(photo, caption=clean(text, "A caption")) for photo, text in pairs]


def with_masks(photos: Sequence[Photo], masks: Sequence[Pixels]) -> list[Photo]:
    """The photos in memory with a concept mask each; without masks as they are.

    Raises:
        PhotoError: If their number does not fit, or one has another shape than its photo.
    """
    if not masks:
        return list(photos)
    if len(masks) != len(photos):
        raise PhotoError(
            f"There are {len(photos)} photos and {len(masks)} masks. Give one mask per photo, "
            "white on the concept, or none."
        )
    pairs = enumerate(zip(photos, masks, strict=True), start=1)
    return [
        Photo.from_image(photo.image, photo.caption, mask, f"Mask {number} of {len(masks)}")
        for number, (photo, mask) in pairs
    ]


def _from_file(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    return fitted(read_mask(path, VISIBLE), size, f"Mask '{path}'")
