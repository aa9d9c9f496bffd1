"""Start pictures: the size drawn, where a mask goes, how much is redrawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.diffusers_host.start import settle
from cidm_core.errors import HostError, PhotoError, RegionError
from cidm_core.regions import Region

SIDE = 64


def config(**given):
    return SampleConfig(**{"steps": 3, "seed": 5, **given})


@pytest.fixture
def base(tiny_base, monkeypatch):
    """The tiny model, as if it were made for 64 px."""
    from dataclasses import replace

    monkeypatch.setattr(tiny_base, "family", replace(tiny_base.family, resolution_px=SIDE))
    return tiny_base


def ramp(width, height):
    """Red tells the column, green the row, in hundredths of the picture."""
    red = np.tile(np.linspace(0, 200, width), (height, 1))
    green = np.tile(np.linspace(0, 200, height)[:, None], (1, width))
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], -1).astype(np.uint8))


def stripe(width, height, left, right):
    mask = np.zeros((height, width), np.uint8)
    mask[:, left:right] = 255
    return mask


@pytest.mark.parametrize(
    ("shape", "given", "drawn"),
    [
        ((640, 640), {}, (64, 64)),
        ((1000, 990), {}, (64, 64)),
        ((1920, 1080), {}, (88, 48)),
        ((1080, 1920), {}, (48, 88)),
        ((40, 20), {}, (88, 48)),
        ((3000, 100), {}, (352, 8)),
        ((1920, 1080), {"width_px": 128}, (128, 72)),
        ((1920, 1080), {"height_px": 64}, (112, 64)),
        ((1920, 1080), {"width_px": 64, "height_px": 64}, (64, 64)),
    ],
)
def test_a_start_picture_is_drawn_in_its_own_shape(base, shape, given, drawn, caplog):
    found = settle(base, config(**given), image=ramp(*shape))
    assert (found.config.width_px, found.config.height_px) == found.start.picture.size == drawn
    told = "The start picture is 1920 x 1080 px: only its middle shows in 64 x 64 px."
    assert (told in caplog.text) == (len(given) == 2)


def test_without_a_start_picture_nothing_changes(base):
    found = settle(base, config(width_px=128))
    assert (found.config.width_px, found.config.height_px, found.start) == (128, 64, None)


@pytest.mark.parametrize("scale", [1, 2, 0.5])
@pytest.mark.parametrize("given", [{}, {"width_px": 64, "height_px": 64}])
def test_a_mask_goes_where_its_photo_goes(base, given, scale):
    width, height = round(192 * scale), round(64 * scale)
    mask = stripe(width, height, width // 3, width // 2)
    found = settle(base, config(**given), image=ramp(192, 64), mask=mask).start
    columns = found.area.mean(0)
    red = np.asarray(found.picture)[..., 0].mean(0)
    inside, outside = red[columns.numpy() == 1], red[columns.numpy() == 0]
    assert 200 / 3 - 5 < inside.min() <= inside.max() < 105
    assert not ((outside > 200 / 3 + 5) & (outside < 95)).any()


def test_a_mask_of_the_shape_drawn_fits_as_it_is(base):
    wanted = {"width_px": 64, "height_px": 64}
    found = settle(base, config(**wanted), image=ramp(192, 64), mask=stripe(128, 128, 64, 128))
    assert torch.equal(found.start.area, torch.from_numpy(stripe(64, 64, 32, 64) / 255).float())


def test_a_mask_of_a_region_goes_with_the_photo(base):
    region = Region("a dog", mask=stripe(192, 64, 64, 96))
    box = Region("a cat", box=(0, 0, 0.5, 1))
    square = {"width_px": 64, "height_px": 64}
    found = settle(base, config(**square), [region, box], ramp(192, 64), "regions")
    np.testing.assert_array_equal(found.regions[0].mask, stripe(64, 64, 0, 32) / 255)
    assert found.regions[1] is box
    as_they_are = settle(base, config(**square), [region, box])
    assert as_they_are.regions[0] is region


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (
            stripe(64, 32, 0, 9),
            HostError,
            "64 x 32 px, the start picture 64 x 64",
        ),
        (stripe(64, 64, 0, 0), HostError, "leaves nothing to redraw"),
        ("regions", RegionError, "needs regions"),
        ("mask.png", RegionError, "needs regions"),
        (np.full((64, 64), 300), PhotoError, "expected 0 to 255"),
    ],
)
def test_masks_that_do_not_fit(base, mask, error, words):
    with pytest.raises(error, match=words):
        settle(base, config(), image=ramp(64, 64), mask=mask)


def test_how_much_is_redrawn(base, caplog):
    picture, mask = ramp(64, 64), stripe(64, 64, 0, 9)
    assert settle(base, config()).config.denoise == 1
    assert settle(base, config(), image=picture).config.denoise == 0.6
    assert settle(base, config(), image=picture, mask=mask).config.denoise == 1
    assert settle(base, config(denoise=0.2), image=picture).config.denoise == 0.2
    assert not caplog.records
    settle(base, config(denoise=1), image=picture)
    settle(base, config(denoise=0.25))
    assert [record.message for record in caplog.records] == [
        "denoise is 1: all of the start picture is redrawn, nothing of it will show.",
        "denoise is 0.25, but there is no start picture.",
    ]


def exif_rotated(picture, path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return Image.open(path)


def test_start_pictures_of_every_kind_are_read_alike(base, tmp_path):
    picture = ramp(64, 64)
    array = np.asarray(picture)
    clear = np.dstack([array, np.full((64, 64), 255, np.uint8)])
    clear[:, 32:, 3] = 0
    kinds = [
        exif_rotated(picture, tmp_path / "phone.png"),
        array,
        array.astype(np.uint16) * 257,
        torch.from_numpy(array / 255.0)[None],
    ]
    for kind in kinds:
        np.testing.assert_array_equal(settle(base, config(), image=kind).start.picture, array)
    on_white = np.asarray(settle(base, config(), image=clear).start.picture)
    assert (on_white[:, 32:] == 255).all()
    assert (on_white[:, :32] == array[:, :32]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, np.float32])
def test_masks_of_zero_and_one_redraw_the_ones(base, dtype):
    mask = np.zeros((64, 64), dtype)
    mask[:, 32:] = 1
    picture = ramp(64, 64)
    drawn = np.asarray(generate(base, {}, "a dog", config=config(), image=picture, mask=mask)[0])
    assert (drawn[:, :32] == np.asarray(picture)[:, :32]).all()
    assert np.abs(drawn.astype(int) - np.asarray(picture))[:, 32:].mean() > 3


def test_a_photo_with_a_hole_is_redrawn_in_the_hole(base, caplog):
    photo = ramp(64, 64).convert("RGBA")
    photo.putalpha(Image.fromarray(stripe(64, 64, 0, 32)))
    found = settle(base, config(), image=ramp(64, 64), mask=photo)
    assert torch.equal(found.start.area, torch.from_numpy(stripe(64, 64, 32, 64) / 255).float())
    assert "Mask is a photo with transparent parts: its holes count as white." in caplog.text


@pytest.mark.parametrize("scheduler", ["euler_ancestral", "dpmpp_2m_sde", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("image", [None, ramp(64, 64)])
def test_each_picture_of_a_seed_can_be_drawn_alone(base, scheduler, image):
    asked = config(num_images=2, scheduler=scheduler, seed=7)
    together = generate(base, {}, ["a dog", "a cat"], config=asked, image=image)
    for i in range(2):
        alone = generate(base, {}, "a cat", config=asked.alone(i), image=image)[0]
        difference = np.asarray(alone, int) - np.asarray(together[2 + i], int)
        assert np.abs(difference).max() <= 2
    assert asked.alone(2).seed == 9
    assert config(seed=2**53).alone(1).seed == 0  # a seed that can be given again
