"""Photos of a concept from a node's inputs: IMAGE batches or lists, or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from ...cidm_core.errors import PhotoError
from ..host import comfy as host

if TYPE_CHECKING:
    from ...cidm_core.training.data import Photo


def photos_of(
    images: Sequence[Tensor],
    folder: str,
    captions: Sequence[str],
    masks: Sequence[Tensor],
    class_words: str,
) -> list[Photo]:
    """The photos to learn from.

    Args:
        images: IMAGE tensors (photos, height, width, channels), of one size each.
        folder: A sub-folder of the input directory instead, with captions and masks beside.
        captions: One per photo, or a single text with one line per photo, or one line for all.
        masks: MASK tensors (photos, height, width); none, or one for every photo.
        class_words: Caption of photos in a folder that have none.

    Raises:
        PhotoError: If there is no photo, both kinds are given, or the numbers do not fit.
    """
    from ...cidm_core.training.data import Photo

    rows = [row for image in images for row in _batch(image, 4)]
    if rows and folder:
        raise PhotoError(
            f"Both images ({len(rows)}) and the photo folder {folder!r} are given. Disconnect the "
            "images, or leave the folder empty."
        )
    if folder:
        photos = Photo.from_folder(host.input_folder(folder), class_words=class_words)
    elif rows:
        photos = [Photo.from_image(row) for row in rows]
    else:
        raise PhotoError(
            "There are no photos to learn from. Connect images, or choose a photo folder; three "
            "to five photos of the concept are enough."
        )
    photos = _with_captions(photos, captions)
    return _with_masks(photos, [row for mask in masks for row in _batch(mask, 3)])


def _batch(tensor: Tensor, ndim: int) -> list[Tensor]:
    return list(tensor if tensor.ndim >= ndim else tensor[None])


def _with_captions(photos: list[Photo], captions: Sequence[str]) -> list[Photo]:
    texts = list(captions)
    if len(texts) == 1:
        texts = texts[0].strip().splitlines()
    if not any(text.strip() for text in texts):
        return photos
    if len(texts) not in (1, len(photos)):
        raise PhotoError(
            f"There are {len(photos)} photos and {len(texts)} captions. Give one caption per photo "
            "(a list, or one per line), a single one for all, or none."
        )
    texts *= len(photos) if len(texts) == 1 else 1
    # Line breaks and control characters have no place in a caption.
    clean = [" ".join(text.split()) for text in texts]
    return [replace(photo, caption=text) for photo, text in zip(photos, clean, strict=True)]


def _with_masks(photos: list[Photo], masks: list[Tensor]) -> list[Photo]:
    from ...cidm_core.training.data import Photo

    if not masks:
        return photos
    if len(masks) != len(photos):
        raise PhotoError(
            f"There are {len(photos)} photos and {len(masks)} masks. Give one mask per photo, "
            "white on the concept, or none."
        )
    return [
        Photo.from_image(photo.image, photo.caption, mask)
        for photo, mask in zip(photos, masks, strict=True)
    ]
