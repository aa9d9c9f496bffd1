"""Folders of composites and of common things as people have them, good and bad."""

import json
import logging
import shutil

import numpy as np
import pytest
from composed import BLUE, COMMON, FEW, GREEN, RED, SUBJECTS, is_color, subject
from PIL import Image

from cidm_core.errors import PhotoError
from cidm_core.mini.common_things import drawn_things
from cidm_core.training.composites.common import common_things, fitting, label_of, unlike
from cidm_core.training.composites.folder import composites
from cidm_core.training.composites.reading import read_composites

LEFT = "A photo of <r1> <r2> on the left and chef on the right."

BOTH = "a photo of <r1> <r2> on the left and <g1> <g2> on the right"


@pytest.fixture
def folder(tmp_path):
    """Two pictures with something on either side, and one with its right half blank."""
    for name in ("1.png", "train/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture = Image.new("RGB", (64, 64), "white")
        picture.paste(RED, (4, 10, 28, 40))
        picture.paste(BLUE, (36, 20, 60, 50))
        picture.save(tmp_path / name)
    picture.paste("white", (32, 0, 64, 64))
    picture.save(tmp_path / "blank.png")
    (tmp_path / "empty.png").touch()
    return tmp_path


def write(folder, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def row(name="1.png", text=LEFT, **own):
    return {"file_name": name, "text": text, **own}


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        (LEFT, "global", (0,)),
        ("A photo of jean jacket on the left and <r1> <r2>'s dress on the right.", "region", (0,)),
        ("a photo of part of <g1> <g2> on the left and chef on the right", "region", (1,)),
        ("A photo of <g1> <g2> on the right and <r1> <r2> on the left.", "meeting", (0, 1)),
        ("A photo of <G1> <g2> on the left and <r1> <r2> on the right.", "meeting", (1, 0)),
        ("<r1> <r2>", "single", (0,)),
        ("a photo of <g1> <g2> on the left", "single", (1,)),
    ],
)
def test_the_authors_layout(folder, text, kind, shown):
    write(folder, row(text=text), "", row("train/2.png"))
    first, second = read_composites(folder, SUBJECTS)
    assert (first.path, first.text, first.kind) == (folder / "1.png", text, kind)
    assert (first.subjects, first.held_out) == (shown, False)
    assert second.path == folder / "train" / "2.png"


def test_every_tenth_of_a_kind_is_held_out_where_nothing_is_said(folder):
    rows = []
    for k in range(25):
        shutil.copy(folder / "1.png", folder / f"c{k}.png")
        rows.append(row(f"c{k}.png", "<r1> <r2>" if k % 2 else LEFT))
    write(folder, *rows)
    held = [each.path.stem for each in read_composites(folder, SUBJECTS) if each.held_out]
    assert held == ["c18", "c19"]


def test_without_subjects_nobody_is_looked_for(folder):
    write(folder, row(text="a cat on the left and a dog on the right"))
    assert read_composites(folder)[0].subjects == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"file_name": "1.png", "text": "<r1', "Line 2 of .* is damaged"),
        ("[1, 2]", "Line 2 of .* is no object"),
        ({"text": LEFT}, "Line 2 of .* lacks a text 'file_name'"),
        ({"file_name": "train/2.png", "text": 7}, "Line 2 of .* lacks a caption"),
        (row("train/2.png", " "), "Line 2 of .* lacks a caption"),
        (row("gone.png"), "Line 2 of .*'gone.png', and there is no such file"),
        (row("../1.png"), "Line 2 of .* lies elsewhere"),
        (row("/etc/passwd"), "Line 2 of .* lies elsewhere"),
        (row("./1.png"), "Line 2 of .* a second time"),
        (row("empty.png", "<r1> <r2>"), "empty.png' is empty"),
        (row("blank.png"), "Line 2 of .* on the right, and 'blank.png' shows nothing there"),
        (
            row("train/2.png", "<r1> <r2> on the left and chef on the left"),
            "Line 2 of .* names one side twice",
        ),
        (row("train/2.png", kind="G", subjects=[0], held_out=False), "Line 2 of .* Kinds are"),
        (row("train/2.png", kind="global", subjects=0, held_out=False), "a list of numbers"),
        (row("train/2.png", kind="global", subjects=[True], held_out=False), "a list of numbers"),
        (row("train/2.png", kind="global", subjects=[0], held_out=1), "true or false"),
    ],
)
def test_damaged_lines_are_named_by_number(folder, line, words):
    write(folder, row(), line)
    with pytest.raises(PhotoError, match=words):
        read_composites(folder, SUBJECTS)


def test_captions_that_name_no_subject(folder, caplog):
    write(folder, row(text=BOTH), row("train/2.png", "a chef on the left"))
    assert read_composites(folder, SUBJECTS)[1].subjects == ()
    assert "name no subject teach nothing: 2.png" in caplog.text
    assert "No composite shows" not in caplog.text
    write(folder, row())
    read_composites(folder, SUBJECTS)
    assert "No composite shows '<g1> <g2>': its words are not told apart" in caplog.text
    write(folder, row("train/2.png", "a <r1> cat"))
    with pytest.raises(PhotoError, match=r"No caption .* names '<r1> <r2>' or '<g1> <g2>'"):
        read_composites(folder, SUBJECTS)
    write(folder)
    with pytest.raises(PhotoError, match="names no composite"):
        read_composites(folder, SUBJECTS)
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(PhotoError, match=r"There is no '.*metadata\.jsonl', which says what"):
        read_composites(folder, SUBJECTS)


def test_what_was_made_for_other_subjects_is_refused(tmp_path):
    found = composites(SUBJECTS, COMMON, FEW, tmp_path)
    place = found[0].path.parent
    with pytest.raises(PhotoError, match=r"is of other subjects: .* names 0 as they are to be"):
        read_composites(place, SUBJECTS[:1])
    others = [subject(RED, "<q1> <q2>"), SUBJECTS[1]]
    with pytest.raises(PhotoError, match=r"is of other subjects: .* names 0 as they are to be"):
        read_composites(place, others)
    assert read_composites(place, SUBJECTS[::-1])[0].subjects == (1,)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *(("chef", "chef"), ("chef 2", "chef"), ("chef_2", "chef"), ("Chef (3)", "chef")),
        *(("jean_jacket-07", "jean jacket"), ("dog, old", "dog old"), ("r2d2", "r2d")),
        ("2 apples", "2 apples"),
    ],
)
def test_labels_are_names_without_a_number(name, label):
    assert label_of(name) == label


def test_a_folder_of_common_things(tmp_path, caplog):
    cut = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    cut.paste((*GREEN, 255), (10, 5, 30, 35))
    for name in ("chef.png", "jean_jacket 2.webp", "Red Stool/1.png", "Red Stool/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cut.save(tmp_path / name, lossless=True)
    Image.new("RGB", (40, 40), BLUE).save(tmp_path / "wizard_3.png")
    mask = np.zeros((40, 40), np.uint16)
    mask[8:20, 4:30] = 65535
    Image.fromarray(mask).save(tmp_path / "wizard_3_mask.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    found = common_things(tmp_path)
    assert [each.label for each in found] == [
        *("chef", "jean jacket", "wizard", "red stool", "red stool"),
    ]
    assert {each.picture.size for each in found} == {(20, 30), (26, 12)}
    assert all((each.name, each.subject) == ("", None) for each in found)
    assert is_color(found[0].picture.convert("RGB"), GREEN).all()
    assert not caplog.records


def test_common_things_that_cannot_be_used(tmp_path):
    with pytest.raises(PhotoError, match="holds no common thing"):
        common_things(tmp_path)
    with pytest.raises(PhotoError, match="cannot be read"):
        common_things(tmp_path / "gone")
    Image.new("RGB", (40, 40), BLUE).save(tmp_path / "chef.jpg")
    with pytest.raises(PhotoError, match=r"chef\.jpg' has nothing around it"):
        common_things(tmp_path)
    Image.new("L", (40, 40), 255).save(tmp_path / "chef_mask.png")
    with pytest.raises(PhotoError, match=r"chef\.jpg' has nothing around it"):
        common_things(tmp_path)
    (tmp_path / "chef.jpg").rename(tmp_path / "12.jpg")
    (tmp_path / "chef_mask.png").rename(tmp_path / "12_mask.png")
    with pytest.raises(PhotoError, match="'12' does not say what it is of"):
        common_things(tmp_path)


def test_nothing_stands_beside_a_subject_that_is_called_as_it(caplog):
    dogs = [subject(RED, "<d1> <d2>", "Dog"), subject(RED, "<b1>", "teddy bear")]
    names = ["dog", "a brown dog", "hotdog", "bear", "big teddy bear", "chef", "<b1> hat"]
    assert unlike(names, dogs) == ["hotdog", "bear", "chef"]
    assert unlike(names, [subject(RED, "<d1>", "")]) == names
    logging.getLogger().setLevel(logging.WARNING)
    assert len(fitting(drawn_things(), [subject(RED, "<c1>", "cat")])) == len(drawn_things()) - 1
    assert "left out: a gray cat." in caplog.text


def test_drawn_things_are_cut_out_and_the_same_each_time():
    things = drawn_things()
    assert len({each.label for each in things}) == len(things) >= 12
    assert [t.picture.tobytes() for t in things] == [t.picture.tobytes() for t in drawn_things()]
    ball = next(each for each in things if each.label == "a red ball")
    alpha = np.asarray(ball.picture.getchannel("A")) / 255
    assert ball.picture.size == (82, 82)
    assert alpha.mean() == pytest.approx(np.pi / 4, abs=0.02)
    assert (alpha[0, 0], alpha[41, 41]) == (0, 1)
    orange = next(each for each in things if "orange" in each.label)
    assert orange.label == "an orange fish"
