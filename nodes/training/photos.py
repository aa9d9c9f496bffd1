"""A subject as node inputs, and its photos from them: IMAGE batches or lists, or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ...cidm_core.config import KINDS
from ...cidm_core.errors import PhotoError
from ..host import comfy as host
from ..host.inputs import photo_folder_input, text_input

if TYPE_CHECKING:
    from ...cidm_core.training.data import Photo


_MOST_ON_SHEET = 60


def images_input() -> io.Input:
    """The socket of photos."""
    return io.Image.Input(
        "images",
        optional=True,
        tooltip="Photos of the concept: a batch, or a list as dataset loaders give it. "
        "Leave open when using a photo folder.",
    )


def prior_input() -> io.Input:
    """The socket of prior pictures."""
    return io.Image.Input(
        "prior",
        optional=True,
        tooltip="Prior pictures: other things of the class, such as other dogs, for methods that "
        "hold the class by them. Left open, such a method lets the model draw some.",
    )


_CAPTIONS = (
    "What each photo shows, with the class words in it: one line per photo, or a list. Empty: the "
    "concept words alone."
)


def concept_inputs(captions: str = _CAPTIONS) -> list[io.Input]:
    """What a subject is: where its photos are, what they show, and its words."""
    return [
        photo_folder_input(
            "Instead of images: a sub-folder of the input directory. Captions (dog1.txt) and masks "
            "(dog1_mask.png) beside the photos are used."
        ),
        text_input("captions", captions, multiline=True),
        io.Mask.Input(
            "masks",
            optional=True,
            tooltip="One mask per photo, white on the concept: the rest is then not learned.",
        ),
        io.String.Input(
            "words",
            default="<dog1> <dog2>",
            tooltip="New words that will call the concept, identity first, noun last.",
        ),
        io.String.Input(
            "class_words",
            default="dog",
            tooltip="What it is in plain words. These words in the captions become the new ones.",
        ),
        io.Combo.Input("kind", options=list(KINDS), default=KINDS[0], tooltip="What is learned."),
    ]


def prior_of(images: Sequence[Tensor]) -> list[Photo]:
    """Prior pictures, without captions, from IMAGE tensors."""
    from ...cidm_core.training.data import Photo

    return [Photo.from_image(row.clamp(0, 1)) for row in rows_of(images, 4)]


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

    rows = rows_of(images, 4)
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
    return with_masks(photos, rows_of(masks, 3))


def masks_output() -> io.Output:
    """The socket of what `masks_sheet` draws."""
    return io.Image.Output(
        "masks_picture", tooltip="The photos with their masks, and what is learned of each."
    )


def masks_sheet(photos: Sequence[Photo]) -> Image.Image:
    """A picture of photos with their masks; of very many photos, the first ones."""
    from ...cidm_core.pictures.masks import MaskedPhoto, masks_picture

    held = [photo.loaded() for photo in photos[:_MOST_ON_SHEET]]
    rows = [
        MaskedPhoto(p.path.name if p.path else f"photo {k}", p.image, p.mask_values)
        for k, p in enumerate(held, start=1)
    ]
    part = f"The first {len(held)} of {len(photos)} photos" if len(held) < len(photos) else ""
    return masks_picture(rows, part)


def rows_of(batches: Sequence[Tensor], ndim: int) -> list[Tensor]:
    """The pictures of batches, of `ndim` axes each, or of pictures by themselves."""
    return [row for each in batches for row in (each if each.ndim >= ndim else each[None])]
