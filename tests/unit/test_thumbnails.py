"""Thumbnails: made once, kept beside the bank where that is possible, of good and bad pictures."""

from __future__ import annotations

import io
import os
import struct
import zlib

import pytest
from PIL import Image

from cidm_core.errors import CidmError
from cidm_core.pictures import thumbnails
from cidm_core.pictures.thumbnails import FOLDER, LARGE_PX, SMALL_PX, read_small, thumbnail


@pytest.fixture(autouse=True)
def forgotten():
    """What an earlier test has left in memory does not count."""
    thumbnails._thumbnail.cache_clear()


@pytest.fixture
def preview(tmp_path):
    """Function (size, mode, colour) -> a picture file in a bank's folder."""

    def make(size=(640, 320), mode="RGB", colour=(200, 40, 40), **options):
        path = tmp_path / "dog.png"
        Image.new(mode, size, colour).save(path, options.pop("format", "PNG"), **options)
        return path

    return make


def opened(data):
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def kept(folder):
    return sorted((folder / FOLDER).glob("*")) if (folder / FOLDER).exists() else []


def test_a_picture_is_made_small_in_its_own_shape(preview, tmp_path):
    picture = opened(thumbnail(preview(), tmp_path))
    assert picture.format == "JPEG"
    assert picture.size == (SMALL_PX, SMALL_PX // 2)
    assert picture.getpixel((100, 60)) == pytest.approx((200, 40, 40), abs=4)
    assert opened(thumbnail(preview(), tmp_path, LARGE_PX)).size == (LARGE_PX, LARGE_PX // 2)


def test_a_tiny_picture_loses_nothing(preview, tmp_path):
    picture = opened(thumbnail(preview((32, 32)), tmp_path))
    assert (picture.format, picture.size) == ("PNG", (32, 32))
    assert picture.getpixel((0, 0)) == (200, 40, 40)


def test_it_is_made_once_and_found_by_the_next_process(preview, tmp_path, monkeypatch):
    path = preview()
    first = thumbnail(path, tmp_path)
    assert len(kept(tmp_path)) == 1
    monkeypatch.setattr(thumbnails, "read_small", None)
    assert thumbnail(path, tmp_path) == first
    thumbnails._thumbnail.cache_clear()
    assert thumbnail(path, tmp_path) == first


def test_another_picture_has_another_thumbnail(preview, tmp_path):
    path = preview()
    thumbnail(path, tmp_path)
    preview(colour=(40, 40, 200))
    os.utime(path, ns=(1, 1))
    assert opened(thumbnail(path, tmp_path)).getpixel((9, 9))[2] > 150


def test_a_kept_one_that_a_crash_cut_off_is_made_again(preview, tmp_path):
    path = preview()
    whole = thumbnail(path, tmp_path)
    (file,) = kept(tmp_path)
    for rest in (b"", whole[:50]):
        file.write_bytes(rest)
        thumbnails._thumbnail.cache_clear()
        assert thumbnail(path, tmp_path) == whole


def test_where_nothing_can_be_written_it_is_in_memory(preview, tmp_path, monkeypatch):
    (tmp_path / FOLDER).write_text("in the way")
    path = preview()
    first = thumbnail(path, tmp_path)
    monkeypatch.setattr(thumbnails, "read_small", None)
    assert thumbnail(path, tmp_path) == first
    assert (tmp_path / FOLDER).read_text() == "in the way"


def test_very_many_do_not_stay(preview, tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "_MOST_KEPT", 4)
    path = preview((200, 200))
    for time in range(9):
        os.utime(path, ns=(time, time))
        thumbnail(path, tmp_path)
    assert 0 < len(kept(tmp_path)) <= 4


@pytest.mark.parametrize(
    ("mode", "colour"),
    [
        ("L", 128),
        ("LA", (128, 255)),
        ("P", 3),
        ("1", 1),
        ("I;16", 40000),
        ("RGBA", (200, 40, 40, 128)),
    ],
)
def test_pictures_of_every_mode(preview, tmp_path, mode, colour):
    picture = opened(thumbnail(preview((300, 300), mode, colour), tmp_path))
    assert (picture.mode, picture.size) == ("RGB", (SMALL_PX, SMALL_PX))


def test_transparency_is_white(preview, tmp_path):
    picture = opened(thumbnail(preview((300, 300), "RGBA", (0, 0, 0, 0)), tmp_path))
    assert picture.getpixel((9, 9)) == (255, 255, 255)


def test_a_photo_that_lies_on_its_side_stands_up():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.new("RGB", (400, 200)).save(data, "JPEG", exif=exif)
    assert read_small(data, "It", 100).size == (50, 100)


def test_ten_thousand_pixels_a_side(tmp_path):
    large = Image.new("L", (10_000, 10_000), 60)
    large.save(tmp_path / "dog.png", compress_level=1)
    assert opened(thumbnail(tmp_path / "dog.png", tmp_path)).size == (SMALL_PX, SMALL_PX)


def bomb(side):
    """A PNG that says it is huge and holds next to nothing."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no PNG, JPEG or WebP"),
        (b"<html>", "is no PNG, JPEG or WebP"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "is no PNG|is damaged"),
        (bomb(12_000), "more than 128 megapixels"),
        (bomb(60_000), "more than 128 megapixels"),
        (bomb(500), "is damaged"),
    ],
)
def test_what_is_no_picture_is_told_and_looked_at_once(tmp_path, monkeypatch, data, said):
    path = tmp_path / "dog.png"
    path.write_bytes(data)
    with pytest.raises(CidmError, match=f"'dog.png' ({said})|'dog.png' has {said}"):
        thumbnail(path, tmp_path)
    monkeypatch.setattr(thumbnails, "read_small", None)
    with pytest.raises(CidmError, match=r"dog\.png"):
        thumbnail(path, tmp_path)
    assert not kept(tmp_path)


def test_no_picture(tmp_path):
    with pytest.raises(CidmError, match=r"There is no picture 'dog.png'"):
        thumbnail(tmp_path / "dog.png", tmp_path)
    (tmp_path / "dog.png").mkdir()
    with pytest.raises(CidmError, match=r"dog\.png"):
        thumbnail(tmp_path / "dog.png", tmp_path)
