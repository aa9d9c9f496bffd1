"""Masks of named parts beside photos, which the composites of CLIF are cut from."""

import pytest
from PIL import Image

from cidm_core.errors import PhotoError
from cidm_core.training.data import Photo


@pytest.fixture
def folder(tmp_path):
    """Two photos in a folder of their own."""
    place = tmp_path / "photos"
    place.mkdir()
    for name, size in (("1.jpg", (40, 24)), ("2.png", (24, 40))):
        Image.new("RGB", size, (200, 30, 30)).save(place / name)
    return place


def mask(path, size=(40, 24), value=255):
    Image.new("L", size, value).save(path)


def names(photos):
    return [photo.path.name for photo in photos]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("1_mask_hair.png", "hair"),
        ("1_mask_Left_Ear.png", "left ear"),
        ("1.mask.red cap.png", "red cap"),
        ("1.jpg_mask_eye_2.webp", "eye 2"),
        ("1_MASK_h\u00e1t.png", "h\u00e1t"),
    ],
)
def test_masks_of_parts_are_neither_photos_nor_masks(folder, name, part, caplog):
    mask(folder / name)
    one, two = Photo.from_folder(folder)
    assert names([one, two]) == ["1.jpg", "2.png"]
    assert (one.has_mask, list(one.parts), dict(two.parts)) == (False, [part], {})
    assert one.part_masks()[part].shape == (24, 40)
    assert not caplog.records


def test_masks_of_parts_beside_whole_ones_here_or_in_their_own_folder(folder, tmp_path, caplog):
    (tmp_path / "m").mkdir()
    for place in (folder, tmp_path / "m"):
        mask(place / "1_mask.png")
        mask(place / "1_mask_hair.png", (80, 48))
    mask(tmp_path / "m" / "1_mask_face.png")
    here, there = Photo.from_folder(folder)[0], Photo.from_folder(folder, masks=tmp_path / "m")[0]
    assert (here.mask_path.name, list(here.parts)) == ("1_mask.png", ["hair"])
    assert here.part_masks()["hair"].shape == (24, 40)
    assert there.mask_path == tmp_path / "m" / "1_mask.png"
    assert sorted(there.parts) == ["face", "hair"]
    assert "without a photo" not in caplog.text


def test_masks_of_parts_that_do_not_fit(folder, caplog):
    mask(folder / "7_mask_hair.png")
    mask(folder / "1_mask_hair.png", (24, 40))
    mask(folder / "1.jpg_mask_hair.png")
    photos = Photo.from_folder(folder)
    assert names(photos) == ["1.jpg", "2.png", "7_mask_hair.png"]
    assert "masks of: 7_mask_hair.png." in caplog.text
    assert "second masks of the same part: 1_mask_hair.png." in caplog.text
    (folder / "1.jpg_mask_hair.png").unlink()
    with pytest.raises(PhotoError, match=r"1_mask_hair\.png' is 24 x 40 px, its photo 40 x 24"):
        Photo.from_folder(folder)[0].part_masks()
