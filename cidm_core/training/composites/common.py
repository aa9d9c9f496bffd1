"""Common things, which the model knows already: a folder of cut-outs, and which of them fit."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...as_text import listed
from ...errors import PhotoError
from ...images import SUFFIXES, decode_file, with_alpha
from ...paths import user_path
from ...words import canonical, contains
from ..caption_files import clean
from ..data import Photo, TrainingSubject
from ..folders import files_in, list_photos
from .cutouts import CutOut, cut_out

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"[\s_.-]*\(?\d+\)?$")


def common_things(folder: str | os.PathLike[str]) -> list[CutOut]:
    """Cut-outs of a folder: `chef.png` with transparency, or `chef.jpg` with `chef_mask.png`.

    What captions call a thing is its file's name without a number, "jean jacket" of
    `jean_jacket_2.png`, or the name of the sub-folder that it lies in.

    Raises:
        PhotoError: If there is none, or one cannot be used (it is named).
    """
    folder = user_path(folder)
    inside = files_in(folder)
    places = [(path, label_of(path.name)) for path in inside if path.is_dir() and _holds(path)]
    if any(path.suffix.lower() in SUFFIXES and path.is_file() for path in inside):
        places.insert(0, (folder, ""))
    found = [each for place, label in places for each in _in_place(place, label)]
    if not found:
        raise PhotoError(
            f"Folder '{folder}' holds no common thing. Put cut-outs there, such as chef.png with a "
            "transparent background, or chef.jpg with chef_mask.png."
        )
    return found


def label_of(name: str) -> str:
    """What captions call a thing whose file, without its ending, or folder has this name.

    Raises:
        PhotoError: If that is only a number.
    """
    text = clean(re.sub("[_,]+", " ", _NUMBER.sub("", name)), f"Name '{name}'")
    if not any(character.isalpha() for character in text):
        raise PhotoError(
            f"'{name}' does not say what it is of. Name common things as captions call them, such "
            "as chef.png or chef_2.png."
        )
    return canonical(text)


def unlike(names: Sequence[str], subjects: Sequence[TrainingSubject]) -> list[str]:
    """The names that no subject could be meant by: no dog beside a dog to be learned."""
    taken = [each.class_words for each in subjects if each.class_words.strip()]
    taken += [word for each in subjects for word in each.subject.words]
    return [name for name in names if not any(contains(name, word) for word in taken)]


def fitting(common: Sequence[CutOut], subjects: Sequence[TrainingSubject]) -> list[CutOut]:
    """The common things whose labels are `unlike` the subjects; the others are told of."""
    fit = unlike([thing.label for thing in common], subjects)
    if left := sorted({thing.label for thing in common} - set(fit)):
        logger.warning("Common things that are called as subjects are left out: %s.", listed(left))
    return [thing for thing in common if thing.label in fit]


def _in_place(place: Path, label: str) -> list[CutOut]:
    pictures, masks, _ = list_photos(place, nested=True)
    return [_thing(path, masks.get(path), label or label_of(path.stem)) for path in pictures]


def _thing(path: Path, mask: Path | None, label: str) -> CutOut:
    found = _masked(path, mask) if mask else _transparent(path)
    if found is None:
        raise PhotoError(
            f"Common thing '{path}' has nothing around it, or is nothing: {listed([label])} must "
            "be cut out. Make its background transparent, or paint a mask (chef_mask.png)."
        )
    return CutOut(found, label=label)


def _masked(path: Path, mask: Path) -> Image.Image | None:
    photo = Photo(path, "", mask).loaded()
    assert photo.mask_values is not None
    return cut_out(photo.image, photo.mask_values)


def _transparent(path: Path) -> Image.Image | None:
    image, where = decode_file(path, "Common thing")
    if not image.has_transparency_data:
        return None
    rgba = with_alpha(image, where)
    alpha = np.asarray(rgba.getchannel("A"), dtype=np.float32)
    alpha /= 255
    return cut_out(rgba.convert("RGB"), alpha)


def _holds(folder: Path) -> bool:
    """Whether there is a picture in it."""
    return any(path.suffix.lower() in SUFFIXES for path in files_in(folder))
