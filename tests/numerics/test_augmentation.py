"""Resize augmentation of Custom Diffusion, against whole numbers and plain loops.

The reference is written from the specification of its released code; what was drawn is read off
the pictures: a white photo on mid-grey shows its size and its place.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from cidm_core.config import TrainConfig
from cidm_core.training.augment import augment, to_latent_mask
from cidm_core.training.data import Photo
from cidm_core.training.views import drawn_views

RESIZE = TrainConfig(augmentation="resize")
FAR, NEAR = {"a far away ", "very small "}, {"zoomed in ", "close up "}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def resized(photo, side=128, cell=8, seed=0, config=RESIZE):
    return augment(photo, (side, side), cell, config, rng(seed))


def white(width=48, height=32, mask=None):
    return Photo.from_image(np.full((height, width, 3), 255, np.uint8), mask=mask).loaded()


def ramp(width, height):
    """Red grows to the right by one per pixel, green downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    return Photo.from_image(pixels).loaded()


def reference_sizes(side):
    """Every size with its chance."""
    chances = Counter()
    small = range(side // 3, side + 1)
    for raw in small:
        chances[raw + raw % 2] += 2 / 3 / len(small)
    large = range(int(np.floor(1.2 * side)), int(np.floor(1.4 * side)))
    for raw in large:
        chances[raw + raw % 2] += 1 / 3 / len(large)
    return chances


def case(size, side):
    return "A" if size < 0.6 * side else "B" if size > side else "C"


def reference_mask(side, cell, size, cx, cy):
    mask = np.zeros((side // cell, side // cell))
    for row in range((cy - size // 2) // cell + 1, (cy + size // 2) // cell - 1):
        for column in range((cx - size // 2) // cell + 1, (cx + size // 2) // cell - 1):
            mask[row, column] = 1
    return mask


def test_cases_and_sizes_come_as_often_as_they_should():
    source, count, side = rng(4), 6000, 512
    views = [drawn_views((640, 512), (side, side), RESIZE, source)[0] for _ in range(count)]
    sizes = [round(512 * view.width / (view.box[2] - view.box[0])) for view in views]
    chances = reference_sizes(side)
    assert set(sizes) <= set(chances)
    expected = Counter()
    for size, chance in chances.items():
        expected[case(size, side)] += chance
    assert expected["A"] == pytest.approx(0.266, abs=5e-4)
    assert expected["B"] == pytest.approx(1 / 3)
    assert expected["C"] == pytest.approx(0.400, abs=5e-4)
    found = Counter(case(size, side) for size in sizes)
    for name, chance in expected.items():
        error = (chance * (1 - chance) / count) ** 0.5
        assert abs(found[name] / count - chance) < 3 * error, name
    assert min(sizes) == 170
    assert max(sizes) == 716
    phrases = Counter(view.phrase for view in views)
    for pair, name in ((FAR, "A"), (NEAR, "B")):
        first, second = (phrases[phrase] for phrase in pair)
        assert first + second == found[name]
        assert abs(first - second) < 3 * found[name] ** 0.5
    assert set(phrases) == FAR | NEAR | {""}


def test_places_of_shrunk_photos_are_all_places_alike():
    source, side = rng(1), 64
    views = [drawn_views((64, 64), (side, side), RESIZE, source)[0] for _ in range(3000)]
    shrunk = [view for view in views if view.shrunk]
    for room in ("left", "top"):
        at = np.array([getattr(v, room) / (side - v.width) for v in shrunk])
        assert at.min() == 0
        assert at.max() == 1
        assert at.mean() == pytest.approx(0.5, abs=3 / (12 * len(at)) ** 0.5)
    windows = [v for v in views if v.phrase in NEAR]
    lefts = {round(v.box[0] * 64 / (v.box[2] - v.box[0])) for v in windows}
    assert min(lefts) == 0
    assert max(lefts) == 88 - 64  # all of an enlarged photo can be seen


@pytest.mark.parametrize(("side", "cell"), [(512, 8), (128, 8), (128, 4)])
def test_a_shrunk_photo_lies_on_grey_and_its_inner_cells_count(side, cell):
    found = 0
    for seed in range(16):
        variant = resized(white(), side, cell, seed)
        if variant.phrase not in FAR:
            continue
        found += 1
        grey, photo = variant.pixels == 0, variant.pixels == 1
        assert (grey ^ photo).all()  # exactly mid-grey
        rows, columns = (np.flatnonzero(photo[0].any(d)) for d in (1, 0))
        size = len(rows)
        assert len(columns) == size
        assert size in reference_sizes(side)
        assert case(size, side) == "A"
        cx, cy = int(columns[0]) + size // 2, int(rows[0]) + size // 2
        expected = reference_mask(side, cell, size, cx, cy)
        assert expected.any()
        cells = to_latent_mask(variant.image_mask, cell)
        np.testing.assert_array_equal(cells.numpy(), expected)
        assert variant.sizes.crop == (0, 0)
        assert variant.sizes.original == (32, 48)
    assert found >= 2


@pytest.mark.parametrize(("size", "cx", "cy"), [(170, 85, 427), (172, 86, 90), (306, 200, 359)])
def test_mask_indices_by_hand(size, cx, cy):
    """s = 170 at (85, 427): columns 0 // 8 + 1 = 1 to 170 // 8 - 1 = 20, rows 43 to 63."""
    view = next(
        view
        for view in (drawn_views((9, 9), (512, 512), RESIZE, rng(i))[0] for i in range(99))
        if view.shrunk
    )
    placed = type(view)(view.box, cx - size // 2, cy - size // 2, size, size, shrunk=True)
    mask = torch.zeros(512, 512)
    mask[placed.counted(8)] = 1
    expected = reference_mask(512, 8, size, cx, cy)
    np.testing.assert_array_equal(to_latent_mask(mask, 8).numpy(), expected)
    if size == 170:
        rows, columns = np.flatnonzero(expected.any(1)), np.flatnonzero(expected.any(0))
        assert (columns[0], columns[-1] + 1) == (1, 20)
        assert (rows[0], rows[-1] + 1) == (43, 63)


def test_tiny_pictures_keep_a_cell():
    for seed in range(40):
        variant = resized(white(), 32, 4, seed)
        assert to_latent_mask(variant.image_mask, 4).max() == 1


def test_an_enlarged_photo_shows_a_window_and_says_where():
    """The ramp tells the window's edges: one red value per pixel of the photo."""
    found = 0
    for seed in range(30):
        variant = resized(ramp(200, 120), 64, 8, seed)
        if variant.phrase not in NEAR:
            continue
        found += 1
        assert variant.image_mask.all()
        red, green = ((variant.pixels[i] + 1) * 127.5 for i in (0, 1))
        pixel = float(red[0, -2] - red[0, 1]) / 61  # of the picture, in the photo
        enlarged = 120 / pixel
        assert 1.2 * 64 - 2 < enlarged < 1.4 * 64 + 2
        top, left = variant.sizes.crop
        middle = (float(green[31:33, 0].mean()) + 0.5, float(red[0, 31:33].mean()) + 0.5)
        assert middle[0] / pixel - 32 == pytest.approx(top, abs=1.5)
        assert middle[1] / pixel - 32 == pytest.approx(left, abs=1.5)
        assert left >= 40 / pixel - 1  # the photo's centre square begins at 40
        assert variant.sizes.original == (120, 200)
        assert variant.sizes.target == (64, 64)
    assert found >= 5


def test_otherwise_the_centre_square_fills_the_picture():
    none = TrainConfig(augmentation="none")
    seen = [resized(ramp(200, 120), 64, 8, seed) for seed in range(20)]
    plain = [variant for variant in seen if not variant.phrase]
    assert len(plain) >= 4
    expected = augment(ramp(200, 120), (64, 64), 8, none, rng())
    for variant in plain:
        assert torch.equal(variant.pixels, expected.pixels)
        assert variant.image_mask.all()
        assert variant.sizes.crop == (0, round(40 * 64 / 120))


def test_the_concept_mask_follows_the_photo_and_counts_where_the_photo_does():
    """Left half of the photo is the concept."""
    area = np.zeros((64, 64), np.float32)
    area[:, :32] = 1
    shrunk = 0
    for seed in range(30):
        variant = resized(white(64, 64, area), 128, 8, seed)
        mask, counted = variant.concept_mask, variant.image_mask
        assert mask.sum() > 0
        assert (mask[counted == 0] == 0).all()
        if variant.phrase in FAR:
            shrunk += 1
            columns = np.flatnonzero((variant.pixels[0] == 1).any(0))
            middle = int(columns[0]) + len(columns) // 2
            assert torch.equal(mask[:, :middle], counted[:, :middle])
            assert (mask[:, middle:] == 0).all()
    assert shrunk >= 4


def test_a_view_that_misses_the_concept_is_the_plain_one():
    """A concept in the outermost corner is in no inner cell, and in few windows."""
    area = np.zeros((512, 512), np.float32)
    area[:3, :3] = 1
    photo = white(512, 512, area)
    plain = 0
    for seed in range(12):
        variant = resized(photo, 128, 8, seed)
        assert variant.concept_mask[0, 0] > 0
        assert variant.phrase not in FAR
        plain += not variant.phrase
    assert plain >= 9


def test_always_five_draws_and_one_more_for_mirroring():
    for chance, count in ((0.0, 5), (0.5, 6)):
        config = TrainConfig(augmentation="resize", flip_probability=chance)
        for seed in range(8):
            source, other = rng(seed), rng(seed)
            first = augment(ramp(96, 64), (64, 64), 8, config, source)
            torch.rand(5, generator=other)
            if chance:
                torch.rand((), generator=other)
            assert torch.equal(source.get_state(), other.get_state()), count
            again = augment(ramp(96, 64), (64, 64), 8, config, rng(seed))
            assert torch.equal(first.pixels, again.pixels)
            assert first.phrase == again.phrase


def test_mirroring_keeps_the_place_and_turns_the_photo():
    area = np.zeros((64, 64), np.float32)
    area[:, 40:] = 1
    colours = np.repeat(area[..., None], 3, 2)  # white where the concept is
    photo = Photo.from_image((colours * 255).astype(np.uint8), mask=area).loaded()
    mirrored = TrainConfig(augmentation="resize", flip_probability=1.0)
    for seed in range(12):
        plain, other = resized(photo, seed=seed), resized(photo, seed=seed, config=mirrored)
        assert plain.phrase == other.phrase
        assert torch.equal(plain.image_mask, other.image_mask)
        for variant in (plain, other):
            inside = variant.concept_mask == 1
            assert variant.pixels[0, inside].min() > 0
        if plain.phrase in FAR:
            assert not torch.equal(plain.concept_mask, other.concept_mask)


def test_a_photo_on_its_side_is_turned_first(tmp_path):
    """EXIF orientation 6: stored 96 x 64, upright it is 64 x 96."""
    stored = ramp(96, 64).image
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "dog.png", exif=exif)
    stored.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    upright, turned = sorted(Photo.from_folder(tmp_path), key=lambda p: p.path.name == "dog.png")
    for config in (RESIZE, TrainConfig(augmentation="none", flip_probability=0.5)):
        for seed in range(4):
            one, other = resized(upright, 64, 8, seed, config), resized(turned, 64, 8, seed, config)
            assert torch.equal(one.pixels, other.pixels)
            assert one.sizes == other.sizes
            assert one.sizes.original == (96, 64)
