"""Cut-outs of photos: wholes, named parts, and parts that nobody named."""

import numpy as np
import pytest
from composed import BLUE, GOLD, GREEN, RED, is_color, photo, subject
from PIL import Image, ImageDraw

from cidm_core.errors import PhotoError
from cidm_core.training.composites.cutouts import CutOut, cut_out, cut_outs
from cidm_core.training.composites.parts import split
from cidm_core.training.data import Photo, TrainingSubject


def doll():
    """A figure of four colours from head to foot, and its mask."""
    picture, mask = Image.new("RGB", (120, 200), (128, 128, 128)), Image.new("L", (120, 200), 0)
    pen, stencil = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    for color, box in (
        (GOLD, (40, 10, 80, 50)),
        (RED, (25, 50, 95, 110)),
        (BLUE, (35, 110, 85, 150)),
        (GREEN, (35, 150, 85, 190)),
    ):
        pen.rectangle(box, color)
        stencil.rectangle(box, 255)
    return picture, mask


def doll_whole():
    picture, mask = doll()
    picture.putalpha(mask)
    return picture.crop(mask.getbbox())


@pytest.fixture
def folder(tmp_path):
    picture, mask = doll()
    picture.save(tmp_path / "1.png")
    mask.save(tmp_path / "1_mask.png")
    return tmp_path


def test_a_whole_is_cropped_to_its_content_and_soft_masks_are_its_opacity():
    mask = np.zeros((48, 60), np.float32)
    mask[10:30, 20:50], mask[10:12] = 1, np.where(mask[10:12] > 0, 1, 0.5)
    mask[40:] = 0.05  # haze
    found = cut_out(Image.new("RGB", (60, 48), RED), mask)
    assert (found.mode, found.size) == ("RGBA", (60, 20))
    alpha = np.asarray(found.getchannel("A"))
    assert set(np.unique(alpha)) == {0, 128, 255}
    assert (alpha[5, 20:50] == 255).all()
    np.testing.assert_array_equal(np.asarray(found.convert("RGB")), np.full((20, 60, 3), RED))


@pytest.mark.parametrize("value", [0.0, 0.05, 1.0])
def test_a_mask_of_nothing_or_all_cuts_nothing_out(value):
    mask = np.full((48, 60), value, np.float32)
    assert cut_out(Image.new("RGB", (60, 48), RED), mask) is None
    mask[:] = 0
    mask[3:5, 3:40] = 1
    assert cut_out(Image.new("RGB", (60, 48), RED), mask) is None  # a line


def test_large_photos_become_cut_outs_of_1024_px():
    mask = np.zeros((1500, 3000), np.float32)
    mask[:, :2600] = 1
    assert cut_out(Image.new("RGB", (3000, 1500), RED), mask).size == (1024, 591)


def test_masks_of_16_bits(folder):
    values = np.asarray(Image.open(folder / "1_mask.png")).astype(np.uint16) * 257
    Image.fromarray(values).save(folder / "1_mask.png")
    found = cut_outs(TrainingSubject(Photo.from_folder(folder), "<d1>", "doll"), 0)
    assert found[0].picture.size == (71, 181)
    assert set(np.unique(np.asarray(found[0].picture.getchannel("A")))) == {0, 255}


def test_parts_that_masks_name(folder):
    mask = Image.new("L", (120, 200), 0)
    mask.paste(255, (40, 10, 81, 50))
    mask.save(folder / "1_mask_Yellow_Hat.png")
    found = cut_outs(TrainingSubject(Photo.from_folder(folder), "<d1> <d2>", "doll"), 1)
    assert [(each.name, each.subject) for each in found] == [("", 1), ("yellow hat", 1)]
    assert found[1].called(["", "<d1> <d2>"]) == "<d1> <d2>'s yellow hat"
    assert found[1].picture.size == (41, 40)
    assert is_color(found[1].picture.convert("RGB"), GOLD).all()


def test_parts_that_nobody_named_are_two_to_four_areas():
    whole = doll_whole()
    parts = split(whole)
    area = np.asarray(whole.getchannel("A"), float).sum()
    shares = [np.asarray(part.getchannel("A"), float).sum() / area for part in parts]
    assert len(parts) == 4
    assert sum(shares) == pytest.approx(1, abs=0.05)
    assert min(shares) > 0.07
    seen = []
    for part in parts:  # each has a colour of its own
        solid = np.asarray(part)[np.asarray(part)[..., 3] > 200][:, :3]
        common = [
            (np.abs(solid.astype(int) - c).max(1) < 60).mean() for c in (GOLD, RED, BLUE, GREEN)
        ]
        assert max(common) > 0.9
        seen.append(int(np.argmax(common)))
    assert sorted(seen) == [0, 1, 2, 3]
    again = split(doll_whole())
    assert [part.tobytes() for part in parts] == [part.tobytes() for part in again]


def test_parts_of_one_colour_lie_beside_each_other():
    for size in ((200, 40), (40, 200), (90, 90)):
        parts = split(Image.new("RGBA", size, (*RED, 255)))
        assert 2 <= len(parts) <= 4
        for part in parts:
            assert part.width < size[0] or part.height < size[1]
    noise = np.random.default_rng(0).integers(0, 255, (100, 80, 4), np.uint8)
    noise[..., 3] = 255
    assert 1 < len(split(Image.fromarray(noise))) <= 4


def test_islands_are_parts_and_specks_are_none():
    whole = Image.new("RGBA", (100, 60), (0, 0, 0, 0))
    whole.paste((*RED, 255), (0, 0, 40, 60))
    whole.paste((*BLUE, 255), (60, 0, 92, 60))
    whole.paste((*GREEN, 255), (96, 0, 100, 4))
    parts = split(whole)
    assert 2 <= len(parts) <= 4
    assert not any(
        is_color(
            Image.alpha_composite(Image.new("RGBA", p.size, "white"), p).convert("RGB"), GREEN
        ).any()
        for p in parts
    )
    assert split(Image.new("RGBA", (2, 3), (*RED, 255))) == []


def test_what_captions_call_cut_outs():
    one = Image.new("RGBA", (8, 8))
    phrases = ["<x1> <x2>", "<new1> cat"]
    assert CutOut(one, label="jean jacket").called(phrases) == "jean jacket"
    assert CutOut(one, subject=1).called(phrases) == "<new1> cat"
    assert CutOut(one, "part", subject=0).called(phrases) == "part of <x1> <x2>"
    assert CutOut(one, "dress", subject=1).called(phrases) == "<new1> cat's dress"


def test_photos_without_masks_are_named(folder):
    Image.new("RGB", (60, 48), RED).save(folder / "2.jpg")
    photos = [*Photo.from_folder(folder), Photo.from_image(Image.new("RGB", (60, 48)))]
    with pytest.raises(PhotoError, match=r"no mask of '.*2\.jpg', photo 3\. Paint masks"):
        cut_outs(TrainingSubject(photos, "<d1>", "doll"), 0)


def test_masks_that_cut_nothing_out_are_told_of(caplog):
    whole = Photo.from_image(Image.new("RGB", (60, 48), RED), "", np.ones((48, 60), np.float32))
    found = cut_outs(TrainingSubject([whole, photo(RED)], "<d1>", "doll"), 0)
    assert [each.name for each in found].count("") == 1
    assert "The mask of photo 1 leaves nothing of it, or all" in caplog.text
    with pytest.raises(PhotoError, match="No photo's mask cuts its subject out: photo 1"):
        cut_outs(TrainingSubject([whole], "<d1>", "doll"), 0)


def test_unnamed_parts_of_every_photo():
    found = cut_outs(subject(RED, "<r1>", photos=3), 0)
    assert [each.name for each in found].count("") == 3
    assert {each.name for each in found} == {"", "part"}
