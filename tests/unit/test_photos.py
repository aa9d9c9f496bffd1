"""Folders of photos with their captions and masks."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cidm_core.errors import PhotoError
from cidm_core.training.data import Photo, TrainingSubject, match_captions, with_masks

CIFC = Path(__file__).parents[2].parent / "shared" / "data" / "cifc"


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


@pytest.mark.skipif(not CIFC.is_dir(), reason=f"the CIFC photos are not at {CIFC}")
@pytest.mark.parametrize(
    ("concept", "class_words", "words", "count"),
    [
        ("dog", "dog", "<dog1> <dog2>", 5),
        ("duck_toy", "duck toy", "<duck1> <duck2> <duck3>", 4),
        ("painting", "painting", "<painting1> <painting2>", 7),
        ("drawing", "drawing", "<drawing1> <drawing2>", 6),
        ("teddybear", "teddy bear", "<bear1> <bear2> <bear3>", 7),
        ("cat", "cat", "<cat1> <cat2>", 5),
    ],
)
def test_real_photos(concept, class_words, words, count):
    photos = Photo.from_folder(CIFC / "images" / concept, CIFC / "captions" / concept)
    bound = TrainingSubject(photos, words, class_words).bound()
    assert len(photos) == count
    assert names(photos) == sorted(names(photos))
    for photo, before in zip(bound, photos, strict=True):
        assert photo.image.mode == "RGB"
        assert min(photo.image.size) >= 512
        assert photo.caption.count(words) == 1
        assert photo.caption.replace(words, class_words) == before.caption


def test_natural_order_hidden_files_and_strangers(folder, caplog):
    for name in ("10.jpg", "B3.JPG", "b20.Jpeg"):
        shutil.copy(folder / "1.jpg", folder / name)
    (folder / ".3.jpg").write_bytes(b"")
    (folder / "notes.doc").write_bytes(b"")
    (folder / "1.txt").write_text("a dog")
    (folder / "inside").mkdir()
    with caplog.at_level(logging.WARNING):
        photos = Photo.from_folder(str(folder))
    assert names(photos) == ["1.jpg", "2.png", "10.jpg", "B3.JPG", "b20.Jpeg"]
    assert "notes.doc" in caplog.text
    assert "inside" not in caplog.text


def test_captions_beside_the_photos(folder, caplog):
    (folder / "1.txt").write_text("a dog")
    with caplog.at_level(logging.WARNING):
        photos = Photo.from_folder(folder, class_words="dog")
    assert [photo.caption for photo in photos] == ["a dog", "dog"]
    assert "2.png" in caplog.text
    assert [p.caption for p in Photo.from_folder(folder)] == ["a dog", ""]


def test_photos_without_captions_are_bound_to_the_concept_words(folder, caplog):
    photos = Photo.from_folder(folder)
    bound = TrainingSubject(photos, "<d1> <d2>", "dog").bound()
    assert [p.caption for p in bound] == ["<d1> <d2>"] * 2
    assert not caplog.records


def test_captions_in_a_folder_of_their_own(folder, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "2.txt").write_text("from there")
    (folder / "2.txt").write_text("from here")
    assert [p.caption for p in Photo.from_folder(folder, tmp_path / "c")] == ["", "from there"]


@pytest.mark.parametrize("name", ["captions.txt", "captions.json", "metadata.jsonl"])
def test_a_captions_file_in_the_folder(folder, name):
    text = {
        "captions.txt": "1.jpg: one\n2.png: two",
        "captions.json": '{"1.jpg": "one", "2": "two"}',
        "metadata.jsonl": '{"file_name": "1.jpg", "text": "one"}\n'
        '{"file_name": "train/2.png", "text": "two"}',
    }[name]
    (folder / name).write_text(text)
    (folder / "2.txt").write_text("its own")
    assert [p.caption for p in Photo.from_folder(folder)] == ["one", "its own"]
    (folder / "2.txt").unlink()
    assert [p.caption for p in Photo.from_folder(folder, folder / name)] == ["one", "two"]


def test_the_caption_of_a_photo_named_captions(folder):
    shutil.copy(folder / "1.jpg", folder / "captions.jpg")
    (folder / "captions.txt").write_text("a page of captions")
    assert Photo.from_folder(folder)[-1].caption == "a page of captions"


def test_captions_by_name_and_accents_composed_in_either_way(folder, caplog):
    Image.new("RGB", (24, 24)).save(folder / "cafe\u0301.png")
    captions = {"1.jpg": "one", "caf\u00e9.png": "coffee", "9.jpg": "gone"}
    with caplog.at_level(logging.WARNING):
        assert [p.caption for p in Photo.from_folder(folder, captions)] == ["one", "", "coffee"]
    assert "9.jpg" in caplog.text
    assert match_captions([folder / "1.jpg"], captions) == ["one"]


@pytest.mark.parametrize("captions", [{"x.jpg": "a dog"}, "empty"])
def test_captions_that_fit_no_photo(folder, tmp_path, captions):
    (tmp_path / "empty").mkdir()
    given = tmp_path / captions if isinstance(captions, str) else captions
    with pytest.raises(PhotoError, match=r"name none of the 2 photos.*'1\.jpg'"):
        Photo.from_folder(folder, given)


def test_captions_that_are_not_there(folder, tmp_path):
    with pytest.raises(PhotoError, match="nowhere' are not there"):
        Photo.from_folder(folder, tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["1.TXT", "1.jpg.txt", "1.Jpg.TXT", "1.png.txt", "1.caption"])
def test_captions_under_near_names_are_read(folder, name, caplog):
    (folder / name).write_text("a dog")
    (folder / "2.txt").write_text("two")
    assert [p.caption for p in Photo.from_folder(folder)] == ["a dog", "two"]
    assert not caplog.records


def test_captions_in_other_case_and_with_other_accents(folder, caplog):
    for name in ("Dog.JPG", "caf\u00e9.png"):
        Image.new("RGB", (24, 24)).save(folder / name)
    (folder / "dog.txt").write_text("a dog")
    (folder / "cafe\u0301.txt").write_text("coffee")
    found = {p.path.name: p.caption for p in Photo.from_folder(folder)}
    assert found == {"1.jpg": "", "2.png": "", "Dog.JPG": "a dog", "caf\u00e9.png": "coffee"}
    assert [p.caption for p in Photo.from_folder(folder, {"DOG.jpg": "x"})].count("x") == 1


def test_the_nearest_name_wins_and_the_others_are_told_of(folder, caplog):
    shutil.copy(folder / "1.jpg", folder / "a.jpg")
    shutil.copy(folder / "1.jpg", folder / "A.jpg")
    texts = {"1.txt": "exact", "1.jpg.txt": "b", "1.TXT": "c", "a.txt": "small", "9.txt": "gone"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    found = {p.path.name: p.caption for p in Photo.from_folder(folder)}
    assert found == {"1.jpg": "exact", "2.png": "", "a.jpg": "small", "A.jpg": ""}
    assert "Captions of photos that have nearer ones: 1.TXT, 1.jpg.txt." in caplog.text
    assert "Captions without a photo: 9.txt." in caplog.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.json", '{"1.jpg": "one", "a/b/2": {"caption": "two", "tags": "x"}}'),
        (
            "Metadata.JSONL",
            '{"file_name": "1.jpg", "text": "one"}\n{"file_name": "2", "caption": "two"}',
        ),
    ],
)
def test_metadata_files_are_read(folder, name, text):
    (folder / name).write_text(text)
    assert [p.caption for p in Photo.from_folder(folder)] == ["one", "two"]


def test_what_is_not_read_is_said_in_one_line_each(folder, caplog):
    (folder / "masks").mkdir()
    mask(folder / "masks" / "1.png")
    (folder / "nothing").mkdir()
    (folder / "metadata.json").write_text("[1, 2]")
    (folder / "1.json").write_text("{}")
    (folder / "tags.csv").write_text("")
    mask(folder / "7_mask.png")
    photos = Photo.from_folder(folder)
    assert names(photos) == ["1.jpg", "2.png", "7_mask.png"]
    told = [record.message.replace(str(folder), "F") for record in caplog.records]
    assert told == [
        "Not read in 'F', no pictures of a known kind: tags.csv.",
        "Not searched, subfolders of 'F': masks.",
        "Taken as photos, because there is no photo they could be masks of: 7_mask.png.",
        "'F/metadata.json' is not read as captions. Captions 'F/metadata.json' are no JSON object "
        "of file name to caption.",
        "Not read in 'F': 1.json.",
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("1_mask.png", "1.mask.png", "1-masklabel.png", "1_Mask.PNG", "1-mask.jpg", "1 mask.png"),
        *("1.jpg_mask.png", "1.png_mask.png", "mask_1.png", "1 (mask).png", "1_masks.webp"),
    ],
)
def test_masks_beside_the_photos_are_no_photos(folder, name, caplog):
    mask(folder / name)
    with caplog.at_level(logging.WARNING):
        photos = Photo.from_folder(folder)
    assert names(photos) == ["1.jpg", "2.png"]
    assert photos[0].mask.shape == (24, 40)
    assert photos[1].mask is None
    assert "2.png" in caplog.text


def test_masks_of_other_trainers_in_a_folder_of_their_own(folder, tmp_path, caplog):
    (tmp_path / "m").mkdir()
    mask(tmp_path / "m" / "1-masklabel.png")
    mask(tmp_path / "m" / "9.png")
    photos = Photo.from_folder(folder, masks=tmp_path / "m")
    assert [photo.has_mask for photo in photos] == [True, False]
    assert "Masks without a photo: 9.png." in caplog.text


def test_a_cut_out_as_mask_means_what_is_visible(folder, caplog):
    cut = Image.effect_noise((40, 24), 80).convert("RGBA")
    cut.paste((0, 0, 0, 0), (0, 0, 20, 24))
    cut.save(folder / "1_mask.png")
    photo = Photo.from_folder(folder)[0]
    np.testing.assert_array_equal(photo.mask.mean(0), [0] * 20 + [1] * 20)
    assert caplog.text.count("what is visible counts as white") == 1


def test_an_animation_is_told_of_once(folder, caplog):
    frames = [Image.new("RGB", (32, 32), (i, 0, 0)) for i in (0, 90, 200)]
    frames[0].save(folder / "3.gif", save_all=True, append_images=frames[1:])
    for photo in Photo.from_folder(folder):
        photo.loaded()
    assert caplog.text.count("3.gif' has several frames") == 1


def test_a_mask_without_its_photo_is_a_photo(folder):
    mask(folder / "gas_mask.png")
    assert names(Photo.from_folder(folder)) == ["1.jpg", "2.png", "gas_mask.png"]


def test_masks_in_a_folder_of_their_own_at_another_scale(folder, tmp_path):
    (tmp_path / "m").mkdir()
    half = np.zeros((48, 80), np.uint8)
    half[:, :40] = 255
    Image.fromarray(half).save(tmp_path / "m" / "1.png")
    photos = Photo.from_folder(folder, masks=tmp_path / "m")
    assert photos[0].mask.shape == (24, 40)
    assert photos[0].mask[:, :18].min() == 1
    assert photos[0].mask[:, 22:].max() == 0


def test_masks_that_fit_no_photo(folder, tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(PhotoError, match=r"none of the 2 photos.*'1\.png'"):
        Photo.from_folder(folder, masks=tmp_path / "m")
    with pytest.raises(PhotoError, match="none of the 2 photos"):
        Photo.from_folder(folder, masks=folder)  # photos are not their own masks


def test_one_mask_of_several_is_told_by_its_number():
    photos = [Photo.from_image(np.zeros((20, 20, 3), np.uint8))] * 3
    masks = [np.full((20, 20), value, np.uint8) for value in (255, 0, 255)]
    with pytest.raises(PhotoError, match="Mask 2 of 3 is black everywhere"):
        with_masks(photos, masks)


def test_a_mask_of_next_to_nothing_is_told_of(caplog):
    pixels, speck = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    speck[:4, :4] = 255
    Photo.from_image(pixels, mask=speck).loaded()
    assert not caplog.records
    speck[1:] = 0
    Photo.from_image(pixels, mask=speck).loaded()
    assert "leaves 0.098 % of its photo: next to nothing is learned" in caplog.text


@pytest.mark.parametrize(
    ("size", "value", "words"),
    [((24, 40), 255, "24 x 40 px, its photo 40 x 24"), ((40, 24), 0, "black everywhere")],
)
def test_masks_that_cannot_be_used(folder, size, value, words):
    mask(folder / "1_mask.png", size, value)
    with pytest.raises(PhotoError, match=rf"1_mask\.png' .*{words}"):
        Photo.from_folder(folder)


@pytest.mark.parametrize(
    ("name", "content"), [("3.jpg", b""), ("3.png", b"\x89PNG\r\n\x1a\n"), ("3.jpg", b"hello")]
)
def test_one_bad_photo_is_named_not_skipped(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(PhotoError, match=name):
        Photo.from_folder(folder)


def test_a_photo_cut_off_behind_its_header_is_found_at_once(folder):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "3.jpg")
    data = (folder / "3.jpg").read_bytes()
    (folder / "3.jpg").write_bytes(data[:-600])
    with pytest.raises(PhotoError, match=r"3\.jpg' is damaged or cut off"):
        Photo.from_folder(folder)


def test_a_folder_named_as_a_photo(folder):
    (folder / "3.png").mkdir()
    with pytest.raises(PhotoError, match=r"3\.png' is a folder"):
        Photo.from_folder(folder)


def test_a_bad_caption_is_named(folder):
    (folder / "2.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PhotoError, match=r"2\.txt"):
        Photo.from_folder(folder)


def test_folders_without_photos(folder, tmp_path):
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    with pytest.raises(PhotoError, match=r"holds no photo\. Its subfolders.*\.jpg"):
        Photo.from_folder(tmp_path / "empty")
    with pytest.raises(PhotoError, match="cannot be read"):
        Photo.from_folder(tmp_path / "nowhere")
    with pytest.raises(PhotoError, match=r"1\.jpg' is a file"):
        Photo.from_folder(folder / "1.jpg")


def test_pixels_are_read_when_asked_for_and_a_removed_file_is_named(folder):
    photos = Photo.from_folder(folder)
    assert all(photo.pixels is None for photo in photos)
    kept = photos[0].loaded()
    (folder / "1.jpg").unlink()
    with pytest.raises(PhotoError, match=r"1\.jpg' is not there"):
        _ = photos[0].image
    assert kept.image.size == (40, 24)


def test_two_thousand_photos(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "0.bmp")
    data = (tmp_path / "0.bmp").read_bytes()
    for i in range(1, 2000):
        (tmp_path / f"{i}.bmp").write_bytes(data)
    photos = Photo.from_folder(tmp_path)
    assert names(photos) == [f"{i}.bmp" for i in range(2000)]


def test_photos_from_memory():
    pixels = torch.rand(1, 24, 40, 3, generator=torch.Generator().manual_seed(0))
    area = np.zeros((24, 40), np.float32)
    area[:12] = 1
    photo = Photo.from_image(pixels, " a\ndog ", mask=area)
    assert photo.caption == "a dog"
    assert photo.path is None
    found = torch.from_numpy(np.asarray(photo.image) / 255)
    torch.testing.assert_close(found, pixels[0].double(), atol=0.002, rtol=0)
    np.testing.assert_array_equal(photo.mask, area)
    soft = torch.linspace(0, 1, 24 * 40).reshape(24, 40)
    held = Photo.from_image(pixels, mask=soft).mask
    np.testing.assert_array_equal(held, np.rint(soft.numpy() * 255) / np.float32(255))
    rgba = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert Photo.from_image(rgba).image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image": np.zeros((4, 4, 3))}, "at least 16 px"),
        ({"image": np.zeros((9, 20, 20, 3))}, "shape"),
        ({"image": np.zeros((20, 20, 3)), "mask": np.zeros((20, 20))}, "black everywhere"),
        ({"image": np.zeros((20, 20, 3)), "mask": np.ones((20, 60))}, "another shape"),
        ({"image": np.zeros((20, 20, 3)), "caption": "x" * 3000}, "3000 characters"),
    ],
)
def test_photos_from_memory_that_cannot_be_used(arguments, words):
    with pytest.raises(PhotoError, match=words):
        Photo.from_image(**arguments)


def test_an_empty_photo_says_how_to_make_one():
    with pytest.raises(PhotoError, match="from_image"):
        _ = Photo(None, "a dog").image
