"""Photos of a concept from a node's inputs: IMAGE batches or lists, or a folder."""

from __future__ import annotations

from collections.abc import Sequence
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
    from ...cidm_core.training.data import Photo, with_captions, with_masks

    rows = [row for image in images for row in _batch(image, 4)]
    if rows and folder:
        raise PhotoError(
            f"Both images ({len(rows)}) and the photo folder {folder!r} are given. Disconnect the "
            "images, or leave the folder empty."
        )
    if folder:
        photos = Photo.from_folder(host.input_folder(folder), class_words=class_words)
    elif rows:
        photos = [Photo.from_image(row.clamp(0, 1)) for row in rows]
    else:
        raise PhotoError(
            "There are no photos to learn from. Connect images, or choose a photo folder; three "
            "to five photos of the concept are enough."
        )
    photos = with_captions(photos, captions)
    return with_masks(photos, [row for mask in masks for row in _batch(mask, 3)])


def _batch(tensor: Tensor, ndim: int) -> list[Tensor]:
    return list(tensor if tensor.ndim >= ndim else tensor[None])
