"""Subjects and common things of plain colours, by which tests of composites tell them apart."""

import numpy as np
from PIL import Image

from cidm_core.composite_options import CompositeOptions
from cidm_core.training.composites.cutouts import CutOut
from cidm_core.training.data import Photo, TrainingSubject

RED, GREEN, BLUE, GOLD = (220, 30, 30), (30, 160, 60), (40, 70, 220), (230, 180, 20)
FEW = CompositeOptions(global_pairs=4, region_pairs=3, meeting_pairs=2, side_px=64)


def photo(color, size=(60, 48), box=(10, 8, 40, 44)):
    """A box of one colour on grey, and the mask of it."""
    picture = Image.new("RGB", size, (128, 128, 128))
    picture.paste(color, box)
    mask = np.zeros(size[::-1], np.float32)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return Photo.from_image(picture, "", mask)


def subject(color, words, class_words="toy", photos=2, **changes):
    return TrainingSubject([photo(color)] * photos, words, class_words, **changes)


def thing(color, label):
    return CutOut(Image.new("RGBA", (20, 30), (*color, 255)), label=label)


SUBJECTS = subject(RED, "<r1> <r2>"), subject(GREEN, "<g1> <g2>")
COMMON = thing(BLUE, "chef"), thing(GOLD, "jean jacket")
COLORS = {"<r1> <r2>": RED, "<g1> <g2>": GREEN, "chef": BLUE, "jean jacket": GOLD}


def is_color(picture, color):
    """Where a picture has a colour, (height, width)."""
    return (np.abs(np.asarray(picture, np.int16) - color).max(2) < 60) & ~is_white(picture)


def is_white(picture):
    return np.asarray(picture).min(2) > 250
