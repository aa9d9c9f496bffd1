"""Masks of every kind mean what their makers meant, or are refused by name."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from cidm_core.errors import PhotoError, RegionError
from cidm_core.masks import HOLES, VISIBLE, mask_of, read_mask
from cidm_core.regions import Region

EXIF_ORIENTATION = 0x0112


def right(value=1, dtype=np.uint8):
    """(24, 40), the right half of which has a value."""
    mask = np.zeros((24, 40), dtype)
    mask[:, 20:] = value
    return mask


def photo_with_a_hole(mode="RGB"):
    """A noisy photo whose right half is transparent."""
    noise = np.random.default_rng(0).integers(60, 200, (24, 40, 3), np.uint8)
    picture = Image.fromarray(noise).convert(mode).convert("RGBA")
    picture.putalpha(Image.fromarray(255 - right(255)))
    return picture


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_masks_turn_with_their_photos(tmp_path, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    turns = {1: 0, 6: 1, 3: 2, 8: -1}[orientation]
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(right(255), turns)))
    stored.save(tmp_path / "m.png", exif=exif)
    for found in (read_mask(tmp_path / "m.png"), mask_of(Image.open(tmp_path / "m.png"), "Mask")):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, right())


def test_masks_keep_their_greys_and_transparency_is_outside(tmp_path):
    mask = Image.new("LA", (32, 32), (255, 0))
    mask.paste((255, 255), (0, 0, 16, 32))
    mask.save(tmp_path / "a.png")
    found = read_mask(tmp_path / "a.png")
    assert found[:, :16].min() == 1
    assert found[:, 16:].max() == 0
    grey = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    Image.fromarray(grey).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png"), grey / np.float32(255))


WHITE = Image.new("L", (40, 24), 255)
KINDS = {
    "bool": right(dtype=bool),
    "uint8": right(255),
    "uint8 of 0 and 1": right(),
    "int64 of 0 and 1": right(dtype=np.int64),
    "int64 of 0 and 255": right(255, np.int64),
    "int32 of 0 and 1": right(dtype=np.int32),
    "uint16 of 0 and 1": right(dtype=np.uint16),
    "uint16 of 0 and 255": right(255, np.uint16),
    "uint16": right(65535, np.uint16),
    "float64": right(dtype=np.float64),
    "tensor of bool": torch.from_numpy(right()).bool(),
    "tensor of int64": torch.from_numpy(right()).long(),
    "tensor of bfloat16": torch.from_numpy(right()).bfloat16()[None],
    "picture of 0 and 1": Image.fromarray(right()),
    "picture of 16 bits": Image.fromarray(right(65535, np.uint16)),
    "picture of 16 bits of 0 and 1": Image.fromarray(right(1, np.uint16)),
    "white on nothing": Image.merge(
        "LA", [Image.new("L", (40, 24), 255), Image.fromarray(right(255))]
    ),
    "red on black": Image.merge(
        "RGB", [Image.fromarray(each) for each in (right(255), right(0), right(0))]
    ),
    "three channels": np.repeat(right(255)[..., None], 3, axis=2),
}


@pytest.mark.parametrize("mask", KINDS.values(), ids=KINDS.keys())
def test_a_mask_is_one_where_it_applies(mask):
    np.testing.assert_array_equal(mask_of(mask, "Mask"), right())
    np.testing.assert_array_equal(Region("a dog", mask=mask).mask, right())


def test_labels_in_a_palette_are_a_mask(tmp_path):
    picture = Image.fromarray(right(), "P")
    picture.putpalette([0, 0, 0, 0, 0, 128])
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), right())


@pytest.mark.parametrize("label", [1, 38])
def test_labels_in_files_are_masks(tmp_path, label):
    Image.fromarray(right(label)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), right())


def test_soft_values_stay_as_they_are():
    soft = np.linspace(0, 1, 24 * 40, dtype=np.float32).reshape(24, 40)
    np.testing.assert_array_equal(mask_of(soft, "Mask"), soft)
    np.testing.assert_array_equal(mask_of(torch.from_numpy(soft)[None], "Mask"), soft)
    assert mask_of(right(0.1, np.float32), "Mask").max() == np.float32(0.1)
    assert mask_of(right(128), "Mask").max() == np.float32(128) / np.float32(255)


def test_paint_of_one_colour_on_nothing_keeps_its_soft_edge():
    alpha = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (24, 1))
    paint = Image.new("RGBA", (40, 24), (0, 200, 30))
    paint.putalpha(Image.fromarray(alpha))
    np.testing.assert_array_equal(mask_of(paint, "Mask"), alpha / np.float32(255))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_photo_with_a_hole(caplog, mode):
    photo = photo_with_a_hole(mode)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(mask_of(photo, f"Mask 'a {mode}'", HOLES), right())
        np.testing.assert_array_equal(mask_of(photo, f"Mask 'b {mode}'", VISIBLE), 1 - right())
    assert [r.message for r in caplog.records] == [
        f"Mask 'a {mode}' is a photo with transparent parts: its holes count as white.",
        f"Mask 'b {mode}' is a photo with transparent parts: what is visible counts as white.",
    ]
    with pytest.raises(RegionError, match="is a photo"):
        Region("a dog", mask=photo)


def test_a_picture_in_colours_is_read_by_its_brightness_and_told_of(caplog):
    photo = photo_with_a_hole().convert("RGB")
    grey = np.asarray(photo.convert("L")) / np.float32(255)
    np.testing.assert_array_equal(mask_of(photo, "Mask 'c'"), grey)
    assert [r.message for r in caplog.records] == [
        "Mask 'c' is a picture in colours; its brightness is taken as the mask."
    ]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (photo_with_a_hole(), "m is a photo with transparent parts.*white where it applies"),
        (np.arange(24 * 40, dtype=np.uint8).reshape(24, 40) % 4, "4 values up to 3 of 255: labels"),
        (np.full((24, 40), 300), "values from 300 to 300; expected 0 to 255"),
        (np.full((24, 40), -1), "expected 0 to 255"),
        (np.full((24, 40), 2.0), "expected 0 to 1"),
        (np.full((24, 40), np.inf), "NaN or infinite"),
        (np.zeros((2, 24, 40)), "shape"),
    ],
)
def test_what_is_no_mask_is_refused_by_name(mask, words):
    with pytest.raises(PhotoError, match=words):
        mask_of(mask, "m")
