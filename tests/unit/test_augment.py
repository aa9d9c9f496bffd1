"""One photo to one training picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from cidm_core.config import TrainConfig
from cidm_core.errors import PhotoError
from cidm_core.training.augment import augment, to_latent_mask
from cidm_core.training.data import Photo


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp(width, height, mask=None):
    """Red grows to the right, green grows downwards, blue is full: never black."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).astype(np.uint8)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return Photo.from_image(pixels, mask=mask)


def cropped(photo, size_px, probability, source, **settings):
    config = TrainConfig(crop_probability=probability, **settings)
    return augment(photo, size_px, 4, config, source)


def spread(channel):
    return float(channel.max() - channel.min())


def test_pixels_are_in_minus_one_to_one():
    variant = cropped(ramp(64, 64), (32, 32), 0.5, rng())
    assert variant.pixels.shape == (3, 32, 32)
    assert variant.pixels.dtype == torch.float32
    assert (variant.pixels[2] == 1).all()
    assert variant.pixels[0, 0, 0] < -0.95
    assert variant.pixels[0, 0, -1] > 0.95
    assert variant.concept_mask is None
    assert (variant.image_mask == 1).all()


@pytest.mark.parametrize(("size", "cut"), [((128, 64), 0), ((64, 128), 1)])
def test_a_crop_is_a_square_of_the_short_edge(size, cut):
    starts = set()
    for seed in range(30):
        variant = cropped(ramp(*size), (32, 32), 1.0, rng(seed))
        assert (variant.image_mask == 1).all()
        assert spread(variant.pixels[cut]) == pytest.approx(1.0, abs=0.06)  # half of the long edge
        assert spread(variant.pixels[1 - cut]) == pytest.approx(2.0, abs=0.06)  # all of the short
        starts.add(round(float(variant.pixels[cut].min()), 2))
    assert len(starts) > 15
    assert min(starts) < -0.85
    assert max(starts) > -0.15


@pytest.mark.parametrize(("size", "long"), [((128, 64), 1), ((64, 128), 0)])
def test_otherwise_the_whole_photo_lies_somewhere_on_black(size, long):
    places, photo, source = set(), ramp(*size), rng()
    for _ in range(150):
        variant = cropped(photo, (32, 32), 0.0, source)
        inside = variant.image_mask == 1
        assert set(variant.image_mask.unique().tolist()) == {0.0, 1.0}
        assert (variant.pixels[:, ~inside] == -1).all()
        assert (variant.pixels[2, inside] == 1).all()
        rows, columns = inside.any(1), inside.any(0)
        extent = (int(rows.sum()), int(columns.sum()))
        assert extent == ((32, 16) if long == 0 else (16, 32))
        for channel in (0, 1):
            assert spread(variant.pixels[channel, inside]) > 1.8
        places.add(int((columns if long == 0 else rows).int().argmax()))
    assert places == set(range(17))


def test_the_share_of_crops_is_the_probability():
    photo = ramp(128, 64).loaded()
    source = rng()
    whole = [float(cropped(photo, (16, 16), 0.3, source).image_mask.mean()) < 1 for _ in range(400)]
    assert 0.62 < np.mean(whole) < 0.78


def test_same_generator_same_variant_and_always_three_draws():
    for probability in (0.0, 0.5, 1.0):
        source, other = rng(5), rng(5)
        torch.rand(3, generator=other)
        first = cropped(ramp(128, 64), (32, 32), probability, source)
        assert torch.equal(source.get_state(), other.get_state())
        again = cropped(ramp(128, 64), (32, 32), probability, rng(5))
        assert torch.equal(first.pixels, again.pixels)
        assert torch.equal(first.image_mask, again.image_mask)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_concept_mask_moves_with_the_photo(probability):
    """The mask is drawn where red is above the middle, so pixels tell where it must lie."""
    area = np.zeros((64, 128), np.float32)
    area[:, 64:] = 1
    for seed in range(12):
        variant = cropped(ramp(128, 64, area), (32, 32), probability, rng(seed))
        mask, red = variant.concept_mask, variant.pixels[0]
        inside = variant.image_mask == 1
        assert (mask[inside & (red > 0.1)] == 1).all()
        assert (mask[inside & (red < -0.1)] == 0).all()
        assert mask[~inside].sum() == 0


def test_a_crop_that_misses_the_concept_becomes_the_whole_photo():
    area = np.zeros((32, 512), np.float32)
    area[:, :4] = 1
    photo = ramp(512, 32, area)
    found = [cropped(photo, (32, 32), 1.0, rng(seed)) for seed in range(30)]
    assert all(variant.concept_mask.sum() > 0 for variant in found)
    assert sum(bool((variant.image_mask == 0).any()) for variant in found) > 20


@pytest.mark.parametrize("size", [(16, 16), (17, 500), (500, 17), (31, 33), (512, 16)])
@pytest.mark.parametrize("size_px", [8, 32, 100])
def test_awkward_shapes(size, size_px):
    photo = ramp(*size, mask=np.ones(size[::-1]))
    for probability in (0.0, 1.0):
        variant = cropped(photo, (size_px, size_px), probability, rng())
        assert variant.pixels.shape == (3, size_px, size_px)
        assert torch.isfinite(variant.pixels).all()
        assert variant.pixels.abs().max() <= 1
        assert variant.image_mask.sum() > 0
        torch.testing.assert_close(variant.concept_mask, variant.image_mask)


def test_a_photo_on_disk_is_read_with_its_mask(tmp_path):
    Image.new("RGB", (40, 24), (255, 255, 255)).save(tmp_path / "1.png")
    Image.new("L", (40, 24), 255).save(tmp_path / "1_mask.png")
    (photo,) = Photo.from_folder(tmp_path)
    variant = cropped(photo, (16, 16), 0.0, rng())
    assert torch.equal(variant.concept_mask, variant.image_mask)
    (tmp_path / "1.png").unlink()
    with pytest.raises(PhotoError, match=r"1\.png' is not there"):
        cropped(photo, (16, 16), 0.0, rng())


def test_latent_masks_are_cell_means():
    mask = torch.zeros(16, 24)
    mask[:8, :8] = 1
    mask[8:12, 8:16] = 1
    expected = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    assert torch.equal(to_latent_mask(mask, 8), expected)
    stacked = to_latent_mask(torch.stack([mask, 1 - mask]), 8)
    assert torch.equal(stacked, torch.stack([expected, 1 - expected]))


def test_latent_masks_need_whole_cells():
    with pytest.raises(PhotoError, match=r"24 x 20 px .* multiple of 8"):
        to_latent_mask(torch.ones(20, 24), 8)


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("size_px", [(48, 24), (24, 48)])
def test_other_shapes_than_squares(size_px, probability):
    """Cropped: the largest part of that shape, and told where; whole: all of it, and no crop."""
    for seed in range(6):
        variant = cropped(ramp(96, 64), size_px, probability, rng(seed))
        assert variant.pixels.shape == (3, *size_px[::-1])
        assert variant.sizes.original == (64, 96)
        assert variant.sizes.target == size_px[::-1]
        if not probability:
            assert variant.sizes.crop == (0, 0)
            assert (variant.image_mask == 0).any()
            continue
        assert variant.image_mask.all()
        top, left = variant.sizes.crop
        scale = max(size_px[0] / 96, size_px[1] / 64)
        assert 0 <= top <= 64 * scale - size_px[1] + 1
        assert 0 <= left <= 96 * scale - size_px[0] + 1
        # The ramp's red tells where the left edge lies: -1 at the photo's, 1 at its right one.
        seen = (float(variant.pixels[0, :, 0].mean()) + 1) / 2 * 96 * scale
        assert abs(seen - left) < 3


def test_mirrored_photos_take_their_masks_along():
    """Both from the same draws: only the one for mirroring comes after them."""
    area = np.zeros((64, 128), np.float32)
    area[:, 100:] = 1
    photo, mirrors = ramp(128, 64, area), 0
    for seed in range(20):
        plain = cropped(photo, (32, 32), 0.0, rng(seed))
        other = cropped(photo, (32, 32), 0.0, rng(seed), flip_probability=0.5)
        always = cropped(photo, (32, 32), 0.0, rng(seed), flip_probability=1.0)
        assert torch.equal(always.pixels[2], plain.pixels[2])  # the same place
        torch.testing.assert_close(always.pixels, plain.pixels.flip(2), atol=0.02, rtol=0)
        assert torch.equal(always.concept_mask, plain.concept_mask.flip(1))
        mirrored = torch.equal(other.pixels, always.pixels)
        assert mirrored or torch.equal(other.pixels, plain.pixels)
        mirrors += mirrored
    assert 5 <= mirrors <= 15


@pytest.mark.parametrize("size", [(97, 64), (64, 97), (64, 64)])
def test_none_is_the_centre_square_and_draws_nothing(size):
    source = rng()
    variant = cropped(ramp(*size), (32, 32), 0.5, source, augmentation="none")
    assert torch.equal(source.get_state(), rng().get_state())
    square = [(side - 64) // 2 for side in size]
    box = (*square, square[0] + 64, square[1] + 64)
    image = ramp(*size).image.crop(box).resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=3.0)
    expected = torch.from_numpy(np.asarray(image) / np.float32(127.5) - 1).permute(2, 0, 1)
    torch.testing.assert_close(variant.pixels, expected, atol=0.02, rtol=0)
    assert variant.image_mask.all()
    assert variant.sizes.crop == (square[1] // 2, square[0] // 2)
    assert variant.phrase == ""
    again = cropped(ramp(*size), (32, 32), 0.5, source, augmentation="none")
    assert torch.equal(again.pixels, variant.pixels)


def test_a_centre_without_the_concept_gives_way_to_the_whole_photo():
    area = np.zeros((64, 256), np.float32)
    area[:, :8] = 1
    for kind in ("none", "resize"):
        for seed in range(6):
            variant = cropped(ramp(256, 64, area), (32, 32), 0.5, rng(seed), augmentation=kind)
            assert variant.concept_mask.sum() > 0
            assert variant.phrase == ""
            assert variant.pixels[:, 0].max() == -1  # black above it
