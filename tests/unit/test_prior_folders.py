"""Folders of prior pictures, as people have them."""

import logging

import pytest
from PIL import Image

from cidm_core.errors import PhotoError
from cidm_core.training.prior_folders import prior_photos

CAPTIONS = ["a small dog", "", "two dogs: one big", "my\x85old dog"]


def draw(folder, *names):
    """Pictures of colours that their names tell apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (16, 16), (len(names), ord(name[0]), 0)).save(folder / name)


def write(folder, captions, names=None):
    (folder / "caption.txt").write_text("".join(f"{text}\n" for text in captions), "utf-8")
    if names is not None:
        (folder / "images.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")


def read(folder, class_words="dog", kind="object"):
    return [(p.path.name, p.caption, p.kind) for p in prior_photos(folder, class_words, kind=kind)]


def test_captions_beside_the_pictures(tmp_path):
    draw(tmp_path, "2.jpg", "10.jpg")
    (tmp_path / "2.txt").write_text("a dog on grass")
    assert read(tmp_path) == [("2.jpg", "a dog on grass", ""), ("10.jpg", "dog", "object")]


def test_without_captions_the_class_words_are_put_into_templates(tmp_path):
    draw(tmp_path, "a.png")
    assert read(tmp_path, "ink painting", "style") == [("a.png", "ink painting", "style")]
    assert read(tmp_path, "")[0][1] == ""


@pytest.mark.parametrize("root", ["./real_reg/samples_dog", "C:\\data\\samples_dog", ""])
def test_the_retrieval_script_s_layout_from_any_machine(tmp_path, root):
    """Line n belongs to line n, whatever the order of names and wherever the pictures were."""
    names = ["3.jpg", "0.jpg", "12.jpg", "1.jpg"]
    draw(tmp_path / "guide_dog", *names)
    slash = "\\" if "\\" in root else "/"
    write(tmp_path, CAPTIONS, [slash.join([root, "guide_dog", name]) for name in names])
    (tmp_path / "urls.txt").write_text("https://example.org/3.jpg\n" * 4)
    wanted = [
        ("0.jpg", "guide dog", "object"),
        ("1.jpg", "my old dog", ""),
        ("3.jpg", "a small dog", ""),
        ("12.jpg", "two dogs: one big", ""),
    ]
    assert read(tmp_path, "guide dog") == wanted
    assert read(tmp_path / "guide_dog", "guide dog") == wanted  # the folder inside may be given


def test_one_of_several_classes(tmp_path):
    draw(tmp_path / "cat", "0.jpg")
    draw(tmp_path / "dog", "0.jpg")
    write(tmp_path, ["a dog"], ["x/dog/0.jpg"])
    assert read(tmp_path) == [("0.jpg", "a dog", "")]
    photos = prior_photos(tmp_path, "dog")
    assert photos[0].path.parent.name == "dog"


def test_a_folder_that_was_renamed_and_pictures_of_another_format(tmp_path):
    draw(tmp_path / "dogs of mine", "0.png", "1.png")
    write(tmp_path, ["a", "b"], ["x/dog/1.jpg", "x/dog/0.jpg"])
    assert read(tmp_path) == [("0.png", "b", ""), ("1.png", "a", "")]


@pytest.mark.parametrize("below", ["", "images"])
def test_the_diffusers_layout(tmp_path, below):
    draw(tmp_path / "images", "0.jpg", "1.jpg")
    assert [caption for _, caption, _ in read(tmp_path / below)] == ["dog", "dog"]
    write(tmp_path, ["a", "b"], ["x/images/1.jpg", "x/images/0.jpg"])
    assert [caption for _, caption, _ in read(tmp_path / below)] == ["b", "a"]


def test_a_captions_file_of_our_own_above_or_beside(tmp_path):
    draw(tmp_path / "images", "0.jpg", "1.jpg")
    (tmp_path / "captions.txt").write_text("0.jpg: a\n1.jpg: b\n")
    assert [caption for _, caption, _ in read(tmp_path)] == ["a", "b"]


def test_caption_txt_alone_goes_by_the_order_of_names(tmp_path):
    draw(tmp_path, "2.jpg", "10.jpg")
    write(tmp_path, ["two", "ten"])
    assert [caption for _, caption, _ in read(tmp_path)] == ["two", "ten"]
    write(tmp_path, ["two"])
    with pytest.raises(PhotoError, match=r"1 captions, and there are 2 pictures"):
        read(tmp_path)


def test_a_picture_called_caption_has_its_own(tmp_path):
    draw(tmp_path, "caption.jpg", "dog.jpg")
    (tmp_path / "caption.txt").write_text("words on a sign")
    assert read(tmp_path)[0] == ("caption.jpg", "words on a sign", "")


def test_files_that_do_not_fit_each_other(tmp_path):
    draw(tmp_path / "dog", "0.jpg", "1.jpg")
    for captions, names in ((["a"], ["dog/0.jpg", "dog/1.jpg"]), (["a", "b"], ["dog/0.jpg", ""])):
        write(tmp_path, captions, names)
        with pytest.raises(PhotoError, match="line n of one belongs to line n of the other"):
            read(tmp_path)
    write(tmp_path, ["a", "b"], ["dog/0.jpg", "dog/0.jpg"])
    with pytest.raises(PhotoError, match=r"names 0\.jpg twice"):
        read(tmp_path)
    write(tmp_path, [], [])
    with pytest.raises(PhotoError, match="0 lines"):
        read(tmp_path)


def test_fewer_captions_than_pictures(tmp_path, caplog):
    draw(tmp_path / "dog", *(f"{i}.jpg" for i in range(5)))
    write(tmp_path, ["a"], ["dog/0.jpg"])
    with pytest.raises(PhotoError, match=r"4 of 5 pictures .* 1\.jpg, 2\.jpg, 3\.jpg and 1 more"):
        read(tmp_path)
    write(tmp_path, ["a"] * 6, [f"dog/{i}.jpg" for i in range(6)])  # one picture was removed
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path)) == 5
    assert "5.jpg" in caplog.text


def test_names_of_pictures_that_are_elsewhere(tmp_path):
    draw(tmp_path / "dog", "a.jpg")
    write(tmp_path, ["a"], ["dog/0.jpg"])
    with pytest.raises(PhotoError, match=r"names 1 pictures, such as '0\.jpg', and none of them"):
        read(tmp_path)


def test_several_folders_and_none(tmp_path):
    draw(tmp_path / "two" / "cat", "0.jpg")
    draw(tmp_path / "two" / "dog", "0.jpg")
    with pytest.raises(PhotoError, match="several folders of pictures: cat, dog"):
        read(tmp_path / "two")
    (tmp_path / "none" / "inside").mkdir(parents=True)
    with pytest.raises(PhotoError, match="holds no photo"):
        read(tmp_path / "none")
    with pytest.raises(PhotoError, match="cannot be read"):
        read(tmp_path / "gone")


def test_a_file_that_is_no_picture_is_named(tmp_path):
    draw(tmp_path, "0.jpg")
    (tmp_path / "1.jpg").write_bytes(b"<html>not found</html>")  # as downloads go
    with pytest.raises(PhotoError, match=r"1\.jpg"):
        read(tmp_path)
