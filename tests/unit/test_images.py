"""Picture files of every kind, whole and broken."""

import contextlib
import io
import logging
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from cidm_core import images
from cidm_core.errors import PhotoError
from cidm_core.images import picture_of, read_image
from cidm_core.masks import read_mask

EXIF_ORIENTATION = 0x0112
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def scene(width=40, height=24):
    """Unlike any of its own rotations and reflections."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    return pixels


def stored(upright, orientation):
    """What a camera writes for an upright picture, from the words of the EXIF standard."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),  # row 0 is the left side, column 0 the top
        6: np.rot90(upright, 1),  # row 0 is the right side, column 0 the top
        7: np.rot90(upright, 1)[:, ::-1],  # row 0 is the right side, column 0 the bottom
        8: np.rot90(upright, -1),  # row 0 is the left side, column 0 the bottom
    }[orientation]


def save_oriented(pixels, orientation, path, **options):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored(pixels, orientation)))
    picture.save(path, exif=exif, **options)
    return path


def png(width, height, *, bit_depth=1, colour=0, row=None, rows=None):
    """A PNG whose rows are all the same, packed in blocks: quick however large it is."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(1)
    block = (row or bytes(1 + (width * bit_depth + 7) // 8)) * min(height, 500)
    data = b"".join(packer.compress(block) for _ in range(-(-(rows or height) // 500)))
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", data + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(
        suffix, {}
    )
    path = save_oriented(scene(), orientation, tmp_path / f"x.{suffix}", **options)
    found = np.asarray(read_image(path)).astype(int)
    assert found.shape == (24, 40, 3)
    assert np.abs(found - scene()).max() <= (60 if suffix == "jpg" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "block", [b"MM\0*\xff\xff\xff\xff garbage", b"XX broken", b"II*\0\x08\0\0\0\xff\xff"]
)
def test_unreadable_exif_does_not_cost_the_photo(tmp_path, block):
    path = tmp_path / "x.jpg"
    Image.fromarray(scene()).save(path, exif=b"Exif\0\0" + block)
    assert read_image(path).size == (40, 24)


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), WHITE),  # hidden colour does not shine through
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (0, 0), WHITE),
        ("LA", (80, 255), (80, 80, 80)),
    ],
)
def test_alpha_lies_over_white(tmp_path, mode, pixel, expected):
    Image.new(mode, (20, 20), pixel).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").getpixel((7, 7)) == expected


def test_palette_with_transparency(tmp_path):
    picture = Image.new("P", (20, 20), 0)
    picture.putpalette([*RED, *GREEN, *BLUE])
    picture.paste(1, (10, 0, 20, 20))
    picture.save(tmp_path / "x.png", transparency=0)
    picture.save(tmp_path / "x.gif", transparency=0)
    for name in ("x.png", "x.gif"):
        found = read_image(tmp_path / name)
        assert (found.getpixel((2, 2)), found.getpixel((15, 2))) == (WHITE, GREEN)


def test_transparent_colour_key_of_rgb(tmp_path):
    Image.new("RGB", (20, 20), RED).save(tmp_path / "x.png", transparency=RED)
    assert read_image(tmp_path / "x.png").getpixel((3, 3)) == WHITE


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_sixteen_bits_are_scaled_not_saturated(tmp_path, suffix, dtype):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(dtype), (32, 1))
    Image.fromarray(ramp).save(tmp_path / f"x.{suffix}")
    found = np.asarray(read_image(tmp_path / f"x.{suffix}"))[0, :, 0]
    np.testing.assert_array_equal(found, np.rint(ramp[0].astype(float) / 257))
    np.testing.assert_allclose(
        read_mask(tmp_path / f"x.{suffix}")[0], ramp[0].astype(float) / 65535, atol=1e-6
    )


def test_a_dark_sixteen_bit_picture_stays_dark(tmp_path):
    Image.fromarray(np.full((20, 20), 0x2000, np.uint16)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").getpixel((5, 5)) == (32, 32, 32)


def test_sixteen_bit_colour_keeps_its_high_bytes(tmp_path):
    """Pillow writes no 16-bit RGB; the row is the filter byte and 32 pixels of 6 bytes."""
    row = b"\0" + struct.pack(">HHH", 0x4012, 0x8034, 0xFFFF) * 32
    (tmp_path / "x.png").write_bytes(png(32, 32, bit_depth=16, colour=2, row=row))
    assert read_image(tmp_path / "x.png").getpixel((4, 4)) == (0x40, 0x80, 0xFF)


@pytest.mark.parametrize(("peak", "white"), [(1.0, 1.0), (200.0, 255.0), (60000.0, 65535.0)])
def test_float_tiff_is_scaled_by_the_range_it_seems_to_use(tmp_path, peak, white):
    ramp = np.tile(np.linspace(0, peak, 32, dtype=np.float32), (32, 1))
    Image.fromarray(ramp).save(tmp_path / "x.tiff")
    assert read_image(tmp_path / "x.tiff").getpixel((31, 0))[0] == round(peak / white * 255)


def test_nan_in_a_float_tiff_is_named(tmp_path):
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(PhotoError, match=r"x\.tiff.*NaN"):
        read_image(tmp_path / "x.tiff")


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / f"x.{suffix}")
    red, green, blue = read_image(tmp_path / f"x.{suffix}").getpixel((9, 9))
    assert red > 245
    assert max(green, blue) < 10


def test_adobe_cmyk_is_not_inverted(tmp_path):
    """Adobe writes CMYK JPEGs upside down, and says so in an APP14 segment."""
    buffer = io.BytesIO()
    Image.new("CMYK", (32, 32), (255, 0, 0, 255)).save(buffer, "JPEG", quality=100)
    data = buffer.getvalue()
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    if b"Adobe" not in data:
        data = data[:2] + adobe + data[2:]
    (tmp_path / "x.jpg").write_bytes(data)
    red, green, blue = read_image(tmp_path / "x.jpg").getpixel((9, 9))
    with Image.open(tmp_path / "x.jpg") as picture:
        cyan, magenta, yellow, black = picture.getpixel((9, 9))
    expected = [(255 - ink) * (255 - black) / 255 for ink in (cyan, magenta, yellow)]
    np.testing.assert_allclose((red, green, blue), expected, atol=2)


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "PA", "La", "RGBa", "HSV", "F", "I"])
def test_every_mode_becomes_rgb(mode):
    source = Image.fromarray(scene())
    for step in {"PA": ("P",), "La": ("LA",), "RGBa": ("RGBA",)}.get(mode, ()):
        source = source.convert(step)
    picture = picture_of(source.convert(mode), "Photo")
    assert (picture.mode, picture.size) == ("RGB", (40, 24))


def test_what_cannot_become_rgb_says_so(monkeypatch):
    picture = Image.new("RGB", (20, 20))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: (_ for _ in ()).throw(ValueError("no")))
    with pytest.raises(PhotoError, match=r"Save it as RGB"):
        picture_of(picture, "Photo 'x'")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_give_their_first_frame_and_a_note(tmp_path, caplog, suffix):
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    path = tmp_path / f"x.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **options)
    with caplog.at_level(logging.WARNING):
        found = read_image(path)
    assert found.getpixel((5, 5)) == RED
    assert f"x.{suffix}" in caplog.text
    assert "first" in caplog.text


def test_the_preview_in_a_phone_picture_is_no_animation(tmp_path, caplog):
    frames = [Image.new("RGB", (32, 32), RED), Image.new("RGB", (16, 16), BLUE)]
    frames[0].save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "x.jpg").getpixel((5, 5))[0] > 250
    assert not caplog.records


def test_damage_behind_the_first_frame_does_not_matter(tmp_path):
    frames = [Image.effect_noise((64, 64), 80) for _ in range(3)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    data = (tmp_path / "x.gif").read_bytes()
    (tmp_path / "x.gif").write_bytes(data[: len(data) // 2])
    assert read_image(tmp_path / "x.gif").size == (64, 64)


def test_content_decides_not_the_suffix(tmp_path):
    Image.new("RGB", (32, 32), RED).save(tmp_path / "x.jpg", "PNG")
    assert read_image(tmp_path / "x.jpg").getpixel((1, 1)) == RED


def test_formats_outside_the_list_are_refused(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png", "PPM")
    with pytest.raises(PhotoError, match=r"x\.png.*JPEG, PNG"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize(
    "content", [b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0" * 500, b"GIF89a"]
)
def test_other_content_is_refused(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(PhotoError, match=r"x\.png.*(remove it|Copy it)"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp", "avif"])
def test_truncated_files_are_refused(tmp_path, suffix):
    if f".{suffix}" not in images.SUFFIXES:
        pytest.skip("this Pillow reads no AVIF")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    for share in (0.05, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(PhotoError, match=rf"x\.{suffix}"):
            read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(1)
    for suffix in ("png", "gif", "tiff", "jpg"):
        buffer = io.BytesIO()
        noise = Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8))
        noise.save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
        for _ in range(60):
            data = bytearray(buffer.getvalue())
            for place in rng.integers(0, min(len(data), 200), 3):
                data[place] = rng.integers(0, 256)
            (tmp_path / "x").write_bytes(data)
            with contextlib.suppress(PhotoError):
                assert read_image(tmp_path / "x").mode == "RGB"


def test_empty_file(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(PhotoError, match=r"x\.jpg' is empty \(0 bytes\)"):
        read_image(tmp_path / "x.jpg")


def test_missing_file(tmp_path):
    with pytest.raises(PhotoError, match=r"gone\.jpg' is not there"):
        read_image(tmp_path / "gone.jpg")


def test_folder_named_as_a_picture(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(PhotoError, match=r"x\.png' is a folder"):
        read_image(tmp_path / "x.png")


def test_a_pipe_does_not_hang(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(PhotoError, match="no regular file"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (15, 64), (16, 20_000)])
def test_too_small_or_too_long(tmp_path, size):
    (tmp_path / "x.png").write_bytes(png(*size))
    with pytest.raises(PhotoError, match=rf"x\.png' is {size[0]} x {size[1]} px"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("side", [8001, 12_000, 20_000])
def test_huge_pictures_are_refused_before_decoding(tmp_path, monkeypatch, side):
    """Below, between and above Pillow's own two limits; decoding would be the error."""
    (tmp_path / "bomb.png").write_bytes(png(side, side, rows=1000))

    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PhotoError, match=rf"bomb\.png.*{side**2 / 1e6:.0f} megapixels.*64"):
            read_image(tmp_path / "bomb.png")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_whole_400_megapixel_file_costs_no_memory(tmp_path):
    resource = pytest.importorskip("resource")
    (tmp_path / "bomb.png").write_bytes(png(20_000, 20_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PhotoError, match="400 megapixels"):
        read_image(tmp_path / "bomb.png")
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    )  # kB; decoded: 400 MB


def test_a_gif_frame_larger_than_its_screen_is_measured(tmp_path):
    Image.new("P", (32, 32)).save(tmp_path / "x.gif")
    data = bytearray((tmp_path / "x.gif").read_bytes())
    at = data.index(b"\x2c")
    data[at + 5 : at + 9] = struct.pack("<HH", 12_000, 12_000)
    (tmp_path / "x.gif").write_bytes(data)
    with pytest.raises(PhotoError, match="144 megapixels"):
        read_image(tmp_path / "x.gif")


def test_pillow_is_left_as_it_was(tmp_path):
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    Image.fromarray(scene()).save(tmp_path / "x.png")
    read_image(tmp_path / "x.png")
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters)


@pytest.mark.parametrize(
    "pixels",
    [
        torch.full((1, 20, 30, 3), 0.5),
        torch.full((20, 30, 3), 0.5, dtype=torch.bfloat16),
        np.full((20, 30, 3), 0.5),
        np.full((20, 30), 0.5, np.float32),
        np.full((20, 30, 1), 128, np.uint8),
        torch.full((20, 30, 3), 128, dtype=torch.int64),
        np.full((20, 30, 3), 128 * 257, np.uint16),
        np.full((20, 30), 128, np.uint16),  # 8 bits in a wider type
    ],
)
def test_pixels_from_memory(pixels):
    picture = picture_of(pixels, "Photo")
    assert picture.size == (30, 20)
    assert np.asarray(picture).flat[0] == 128


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_opened_with_pillow_is_read_as_its_file(tmp_path, orientation):
    path = save_oriented(scene(), orientation, tmp_path / "x.png")
    np.testing.assert_array_equal(picture_of(Image.open(path), "Photo"), scene())


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (Image.new("RGBA", (20, 20), (255, 0, 0, 0)), WHITE),
        (np.full((20, 20, 4), [255, 0, 0, 0], np.uint8), WHITE),
        (torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 20, 20, 4), WHITE),
        (Image.fromarray(np.full((20, 20), 0x2000, np.uint16)), (32, 32, 32)),
        (np.full((20, 20), 0x2000, np.uint16), (32, 32, 32)),
        (np.ones((20, 20), bool), WHITE),
        (np.ones((20, 20), ">f4"), WHITE),
    ],
)
def test_pictures_in_memory_keep_transparency_and_depth(pixels, expected):
    assert picture_of(pixels, "Photo").getpixel((3, 3)) == expected


def test_a_palette_with_transparency_in_memory():
    picture = Image.new("P", (20, 20), 0)
    picture.putpalette([*RED, *GREEN])
    picture.info["transparency"] = 0
    picture.paste(1, (10, 0, 20, 20))
    found = picture_of(picture, "Photo")
    assert (found.getpixel((2, 2)), found.getpixel((15, 2))) == (WHITE, GREEN)


def test_a_picture_opened_with_pillow_may_be_cut_off(tmp_path):
    Image.effect_noise((64, 64), 80).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:900])
    with pytest.raises(PhotoError, match="Start picture is damaged or cut off"):
        picture_of(Image.open(tmp_path / "x.png"), "Start picture")


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((2, 20, 20, 3)), "shape"),
        (np.zeros((20, 20, 5)), "shape"),
        (np.zeros((0, 20, 3)), "shape"),
        (np.full((20, 20), "a"), "holds no numbers"),
        (np.full((20, 20, 3), np.nan), "NaN"),
        (np.full((20, 20, 3), 200.0), "expected 0 to 1"),
        (np.full((20, 20, 3), 999), "expected 0 to 255"),
        (np.full((20, 20, 3), -1), "expected 0 to 255"),
    ],
)
def test_pixels_that_cannot_be_a_picture(pixels, words):
    with pytest.raises(PhotoError, match=words):
        picture_of(pixels, "Photo in memory")
