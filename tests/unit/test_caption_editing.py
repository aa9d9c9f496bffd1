"""Captions as one text, and back to the files that they came from: all of them, or none."""

import errno
import json

import pytest
from PIL import Image

from cidm_core.errors import PhotoError
from cidm_core.inspection import writing
from cidm_core.inspection.editing import Edit, as_lines, captioned, difference, edits, read_edited
from cidm_core.inspection.writing import Source, write_captions
from cidm_core.training.data import Photo

NAMES = ["1.jpg", "2.png", "3.jpg"]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos"
    place.mkdir()
    for name in NAMES:
        Image.new("RGB", (32, 32), (90, 60, 30)).save(place / name)
    return place


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def change(folder, captions, given=None):
    """Write captions by name; what was written, and what was kept."""
    source = Source.of(folder, given)
    after = {source.names.index(name): text for name, text in captions.items()}
    return write_captions(source, edits(source.texts, after))


def captions_of(folder, given=None):
    return {photo.path.name: photo.caption for photo in Photo.from_folder(folder, given)}


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_text_and_back():
    names = ["1.jpg", "a: b.jpg", "\u00e9t\u00e9 \u732b.png", "none.jpg"]
    captions = ["a dog: sitting", "a #dog", "a dog, \u201cquoted\u201d", ""]
    text = as_lines(names, captions, {None: ["All."], 0: ["Blurred.", "Small."], 3: ["Small."]})
    assert text.splitlines()[:4] == [
        *("# All.", "# 1.jpg: Blurred.", "# 1.jpg: Small.", "1.jpg: a dog: sitting"),
    ]
    assert "# none.jpg has no caption yet." in text
    assert read_edited(text, "x", names) == dict(enumerate(captions[:3]))
    filled = text.replace("# none.jpg: \n", "none.jpg: a dog\n")
    assert read_edited(filled, "x", names)[3] == "a dog"


@pytest.mark.parametrize("name", ["#1.jpg", "a\tb.jpg", "a\nb.jpg", "a\u2028b.jpg", "a\udcffb.jpg"])
def test_names_that_no_line_can_hold_are_told_and_left_alone(name):
    text = as_lines(["1.jpg", name], ["a dog", "a cat"], {1: ["Blurred."]})
    assert "to change its caption here: a cat" in text
    assert read_edited(text.encode().decode(), "x", ["1.jpg", name]) == {0: "a dog"}


@pytest.mark.parametrize("name", ["1.jpg", "a: b.jpg"])
def test_the_line_that_is_offered_for_a_new_caption_is_read(name):
    *_, last = as_lines([name], [""], {}).splitlines()
    assert read_edited(f"{last.removeprefix('# ')}a dog", "x", [name]) == {0: "a dog"}
    assert as_lines(["#1.jpg"], [""], {}) == "# Rename #1.jpg to give it a caption here.\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4.jpg: a dog", "'t' has a caption for '4.jpg', and there is no photo of that name."),
        ("1.jpg: a dog\n1.jpg: a cat", "Captions 't' name '1.jpg' twice."),
        ("1.jpg: a dog\n1: a cat", "'t' names the photo '1.jpg' twice."),
        ("same: a dog", "'same' in 't' may be same.jpg, same.png."),
        ("1.jpg:  ", "The caption of '1.jpg' in 't' is empty."),
        ("1.jpg: \u200b", "The caption of '1.jpg' in 't' is empty."),
        ("a dog", "Line 1 of 't' is 'a dog'; expected 'name.jpg: caption'."),
        ("# nothing\n\n", "Captions 't' hold no caption."),
        (f"1.jpg: {'x' * 2001}", "has 2001 characters; the limit is 2000"),
    ],
)
def test_wrong_lines_are_named(text, said):
    with pytest.raises(PhotoError) as error:
        read_edited(text, "'t'", [*NAMES, "same.jpg", "same.png"])
    assert said in str(error.value)


def test_what_changes_is_shown():
    changed = edits(["a dog", "", "a cat"], {0: "a dog", 1: "a cow", 2: "a cat here"})
    assert changed == [Edit(1, "", "a cow"), Edit(2, "a cat", "a cat here")]
    assert difference(NAMES, changed).splitlines() == [
        *("+ 2.png: a cow", "- 3.jpg: a cat", "+ 3.jpg: a cat here"),
    ]
    assert difference(["a\nb.jpg"], [Edit(0, "", "a cow")]) == "+ 'a\\nb.jpg': a cow"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], ["x", "y", "z"]),
        (["  "], ["x", "y", "z"]),
        (["3.jpg: a: b\n# a note\n1: c"], ["c", "y", "a: b"]),
        (["2.png\ta dog"], ["x", "a dog", "z"]),
        (["a: b\nc\nd"], ["a: b", "c", "d"]),
        (["for all"], ["for all"] * 3),
        (["1.jpg: a", "", "c"], ["1.jpg: a", "", "c"]),  # a list says whose each is
    ],
)
def test_captions_by_name_or_in_order(given, wanted):
    image = Image.new("RGB", (32, 32))
    held = [Photo.from_image(image, text) for text in "xyz"]
    assert [photo.caption for photo in captioned(held, given, NAMES)] == wanted


def test_captions_partly_by_name_are_refused():
    held = [Photo.from_image(Image.new("RGB", (32, 32))) for _ in NAMES]
    with pytest.raises(PhotoError, match=r"and '4\.jpg: a dog' does not"):
        captioned(held, ["1.jpg: a dog\n4.jpg: a dog"], NAMES)
    with pytest.raises(PhotoError, match="There are 3 photos and 2 captions"):
        captioned(held, ["a dog\na cat"], NAMES)


def test_captions_go_back_beside_their_photos(folder):
    write(folder / "1.txt", "a dog\nin two lines")
    write(folder / "3.caption", "a cat")
    files, kept = change(folder, {"1.jpg": "a d\u00f6g", "2.png": "new", "3.jpg": "a cow"})
    assert [path.name for path in files] == ["1.txt", "2.txt", "3.caption"]
    assert captions_of(folder) == {"1.jpg": "a d\u00f6g", "2.png": "new", "3.jpg": "a cow"}
    assert kept.name.startswith(".captions-")
    assert kept.parent == folder
    old = read_edited(kept.read_text("utf-8"), "x", NAMES)
    assert old == {0: "a dog in two lines", 2: "a cat"}
    again = change(folder, {NAMES[number]: text for number, text in old.items()})[1]
    assert again != kept
    assert captions_of(folder) == {"1.jpg": "a dog in two lines", "2.png": "new", "3.jpg": "a cat"}


def test_nothing_to_change_writes_nothing(folder):
    write(folder / "1.txt", "a dog")
    before = files_of(folder)
    assert change(folder, {"1.jpg": "a dog"}) == ([], None)
    assert files_of(folder) == before


@pytest.mark.parametrize("apart", [False, True])
def test_captions_files_keep_all_else(folder, tmp_path, apart):
    lines = "# mine\n1.jpg: a dog\n\nphotos\\3.jpg\ta cat\n"
    rows = [
        {"file_name": "1.jpg", "text": "a dog", "tags": [1]},
        {"file_name": "x/3.jpg", "caption": "a cat"},
    ]
    table = {"1.jpg": "a dog", "3": {"caption": "a cat", "tags": [1]}}
    texts = {
        "captions.txt": (lines, "# mine\n1.jpg: a dog\n\nphotos\\3.jpg\ta c\u00f6w\n"),
        "metadata.jsonl": (
            "".join(f"{json.dumps(row)}\n" for row in rows),
            [rows[0], rows[1] | {"caption": "a c\u00f6w"}],
        ),
        "captions.json": (json.dumps(table), table | {"3": {"caption": "a c\u00f6w", "tags": [1]}}),
    }
    for name, (text, wanted) in texts.items():
        path = write((tmp_path if apart else folder) / name, text)
        given = path if apart else None
        files, kept = change(folder, {"3.jpg": "a c\u00f6w"}, given)
        assert files == [path]
        assert kept.parent == path.parent
        held = path.read_text("utf-8")
        if name.endswith(".txt"):
            assert held == wanted
        else:
            assert (
                [json.loads(x) for x in held.splitlines()] == wanted
                if name.endswith("l")
                else json.loads(held) == wanted
            )
        # A photo that the file says nothing of: a line of it, or a file beside the photo.
        change(folder, {"2.png": "new"}, given)
        assert captions_of(folder, given) == {
            "1.jpg": "a dog",
            "2.png": "new",
            "3.jpg": "a c\u00f6w",
        }
        assert (folder / "2.txt").is_file() is not apart
        (folder / "2.txt").unlink(missing_ok=True)
        path.unlink()


ROWS = (
    '{"file_name": "2.png", "text": "a\u2028\\u00e9", "w": 1.50}\r\n \r\n'
    '{"file_name":"1.jpg","text":"a dog"}'
)
TABLE = (
    '{"1.jpg": "a dog",\n   "2.png": { "caption": "\\u00e9{\\"", "w" : 1.50}, '
    '"x.jpg":"a red dog"}\n'
)


@pytest.mark.parametrize(
    ("name", "held", "changed", "with_new"),
    [
        (
            "captions.txt",
            b"\xef\xbb\xbf# mine\r\n1.jpg:  a dog \r\n\r\n2.png\ta cat",
            [(b"a dog", b"a c\xc3\xb6w")],
            b"\r\n3.jpg: new\r\n",
        ),
        ("metadata.jsonl", ROWS.encode(), [(b"a dog", b"a c\xc3\xb6w")], b"\r\n{"),
        ("captions.json", TABLE.encode(), [(b'"a dog"', b'"a c\xc3\xb6w"')], b"}\n"),
        ("captions.json", TABLE.encode("utf-16"), [], b"}\0\n\0"),
    ],
)
def test_bytes_of_all_else_stay(folder, tmp_path, name, held, changed, with_new):
    path = tmp_path / name
    path.write_bytes(held)
    change(folder, {"1.jpg": "a c\u00f6w"}, path)
    for before, after in changed:
        assert path.read_bytes() == held.replace(before, after)
    once = captions_of(folder, path)
    change(folder, {"3.jpg": "new"}, path)
    assert captions_of(folder, path) == once | {"1.jpg": "a c\u00f6w", "3.jpg": "new"}
    assert with_new in path.read_bytes()
    change(folder, {"1.jpg": "a dog"}, path)
    assert path.read_bytes().startswith(held.rstrip(b"\0\r\n}"))


def test_what_is_told_of_captions_is_told_once(folder, caplog):
    write(folder / "captions.txt", "1.jpg: a dog\n9.jpg: a cat\n")
    change(folder, {"1.jpg": "a cow"})
    assert caplog.text.count("Captions without a photo: 9.jpg") == 1


def test_ctrl_c_between_files_leaves_them_as_they_were(folder, monkeypatch):
    write(folder / "1.txt", "a dog")
    before, real = files_of(folder), writing.write_atomic

    def ending(path, data, **options):
        real(path, data, **options)
        if path.name == "2.txt":
            raise KeyboardInterrupt

    monkeypatch.setattr(writing, "write_atomic", ending)
    with pytest.raises(KeyboardInterrupt):
        change(folder, {"1.jpg": "a cow", "2.png": "new"})
    assert files_of(folder) == before


def test_a_folder_of_captions_takes_new_ones_too(folder, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    write(texts / "1.txt", "a dog")
    files, kept = change(folder, {"1.jpg": "a cow", "2.png": "new"}, texts)
    assert files == [texts / "1.txt", texts / "2.txt"]
    assert kept.parent == texts
    assert set(files_of(folder)) == set(NAMES)


def test_two_photos_of_one_name_share_their_caption(folder):
    Image.new("RGB", (32, 32)).save(folder / "1.png")
    write(folder / "1.txt", "a dog")
    before = files_of(folder)
    with pytest.raises(PhotoError, match=r"'1.jpg' and '1.png' have their caption in the same"):
        change(folder, {"1.jpg": "a cow"})
    assert files_of(folder) == before
    change(folder, {"1.jpg": "a cow", "1.png": "a cow"})
    assert captions_of(folder)["1.png"] == "a cow"
    write(folder / "1.txt", "a dog").unlink()
    write(folder / "captions.txt", "1: a dog\n")
    with pytest.raises(PhotoError, match=r"has no line that is about the photo '1\.png' alone"):
        change(folder, {"1.jpg": "a cow"})


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_full_disk_or_a_read_only_folder_loses_nothing(folder, monkeypatch, fails_at):
    write(folder / "1.txt", "a dog")
    before, calls, real = files_of(folder), [], writing.write_atomic

    def failing(path, data, **options):
        calls.append(path)
        if len(calls) == fails_at:
            raise PhotoError(writing_error := f"Could not write '{path}'. Read-only.") from OSError(
                errno.EROFS, writing_error
            )
        real(path, data, **options)

    monkeypatch.setattr(writing, "write_atomic", failing)
    with pytest.raises(PhotoError, match="Could not write"):
        change(folder, {"1.jpg": "a cow", "2.png": "new"})
    assert files_of(folder) == before
