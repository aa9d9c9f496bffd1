"""Reference photos of the concepts of a bank: from a socket, or a folder for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from ...cidm_core.errors import PhotoError
from ..host import comfy as host
from ..host.pictures import to_pictures

Photos = Mapping[str, Sequence[Image.Image]]


def photos_by_concept(names: Sequence[str], references: Sequence[Tensor], folder: str) -> Photos:
    """Photos by concept.

    Raises:
        PhotoError: If there are none, or it is not clear of what they are.
    """
    pictures = [picture for batch in references for picture in to_pictures(batch)]
    if pictures and folder:
        raise PhotoError(
            f"Both references ({len(pictures)}) and the photo folder {folder!r} are given. "
            "Disconnect the references, or leave the folder empty."
        )
    if folder:
        return _in_folder(names, folder)
    if not pictures:
        raise PhotoError(
            "There are no photos to compare with. Connect references, or choose a photo folder."
        )
    if len(names) > 1:
        raise PhotoError(
            f"The references are photos of one concept, and {len(names)} are measured "
            f"({', '.join(names)}). Name one in concepts, or choose a photo folder with a folder "
            "for each."
        )
    return {names[0]: pictures}


def _in_folder(names: Sequence[str], folder: str) -> Photos:
    """Photos of sub-folders with the concepts' names; of a single concept, of the folder itself."""
    from ...cidm_core.training.data import Photo

    root = host.input_folder(folder)
    found = {name: root / name for name in names if (root / name).is_dir()}
    if not found and len(names) == 1:
        found = {names[0]: root}
    if not found:
        raise PhotoError(
            f"The photo folder {folder!r} has no folder named as a concept ({', '.join(names)}). "
            "Make one for each that is to be in the picture, or name one concept in concepts."
        )
    return {
        name: [photo.image for photo in Photo.from_folder(path)] for name, path in found.items()
    }
