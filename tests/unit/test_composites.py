"""Composites of CLIF: what is on them, where, and what their captions say."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from composed import COLORS, COMMON, FEW, GOLD, RED, SUBJECTS, is_color, photo, subject, thing
from PIL import Image

from cidm_core.composite_options import CompositeOptions
from cidm_core.errors import CidmError, PhotoError
from cidm_core.training.composites.captions import named_sides, side_caption, sides_of
from cidm_core.training.composites.cutouts import cut_outs
from cidm_core.training.composites.folder import composites
from cidm_core.training.composites.preview import preview
from cidm_core.training.composites.reading import read_composites
from cidm_core.training.composites.scenes import HIGHEST, LOWEST, all_scenes

NONE = {"singles": False, "global_pairs": 0, "region_pairs": 0, "meeting_pairs": 0}


def scenes(options=FEW, subjects=SUBJECTS, common=COMMON):
    cut = [each for k, subject in enumerate(subjects) for each in cut_outs(subject, k)]
    return all_scenes(subjects, cut, common, options)


def whole_of(text):
    """The thing that a phrase names, also by a part of it."""
    return next(name for name in COLORS if name in text)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


@pytest.mark.parametrize("left", ["<x1> <x2>", "part of <x1> <x2>", "<x1> <x2>'s hair", "a chef"])
def test_captions_say_both_sides_and_are_understood_again(left):
    text = side_caption(left, "jean jacket")
    assert text == f"a photo of {left} on the left and jean jacket on the right"
    assert sides_of(text) == (left, "jean jacket")
    assert sides_of(side_caption("jean jacket", left)) == ("jean jacket", left)
    assert named_sides(text) == ["left", "right"]


@pytest.mark.parametrize("name", ["<x1> <x2>'s ear on the left", "a box on the right"])
def test_a_name_that_names_a_side_is_refused(name):
    with pytest.raises(PhotoError, match="names a side itself"):
        side_caption("chef", name)


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("A photo of <x1> <x2> on the left and chef on the right.", ("<x1> <x2>", "chef")),
        ("a dog on the right, and a cat and a bird on the left", ("a cat and a bird", "a dog")),
        ("<x1> <x2>", None),
        ("a dog on the left and a cat on the left", None),
        ("a dog on the left", None),
    ],
)
def test_captions_as_others_write_them(text, sides):
    assert sides_of(text) == sides


def test_captions_tell_which_thing_is_in_which_half(tmp_path):
    found = composites(SUBJECTS, COMMON, FEW, tmp_path)
    pairs = [each for each in found if each.kind != "single"]
    firsts = set()
    for each in pairs:
        picture = Image.open(each.path)
        assert (picture.mode, picture.size) == ("RGB", (64, 64))
        left, right = map(whole_of, sides_of(each.text))
        assert is_color(picture, COLORS[left])[:, :32].sum() > 9
        assert is_color(picture, COLORS[right])[:, 32:].sum() > 9
        assert not is_color(picture, COLORS[left])[:, 32:].any()
        assert not is_color(picture, COLORS[right])[:, :32].any()
        numbers = [list(COLORS).index(name) for name in (left, right)]
        assert each.subjects == tuple(number for number in numbers if number < 2)
        firsts.add(left)
    assert firsts == set(COLORS)


def test_pieces_stay_in_their_halves_and_are_30_to_65_percent_high():
    wide, tall = thing(GOLD, "sofa"), thing(GOLD, "mast")
    wide = replace(wide, picture=wide.picture.resize((300, 30)))
    tall = replace(tall, picture=tall.picture.resize((10, 400)))
    for side in (64, 101, 512):
        options = CompositeOptions(global_pairs=40, region_pairs=40, meeting_pairs=10, side_px=side)
        heights = []
        for scene in scenes(options, common=[*COMMON, wide, tall]):
            for number, (place, piece) in enumerate(zip(scene.places, scene.things, strict=False)):
                x, y, width, height = place
                low = 0 if number == 0 else side - side // 2
                assert low <= x
                assert x + width <= low + side // 2
                assert y >= 0
                assert y + height <= side
                assert height <= HIGHEST * side
                ratio = piece.width / piece.height
                assert height >= LOWEST * side or (height + 1) * ratio > side // 2  # no room
                heights.append(height / side)
        assert min(heights) < 0.1  # the sofa
        assert max(heights) > 0.6


def test_every_kind_as_often_as_asked_for_and_every_tenth_held_out():
    found = scenes(CompositeOptions(side_px=64))
    counts = {"single": 4, "global": 200, "region": 200, "meeting": 40}
    for kind, count in counts.items():
        of_kind = [scene for scene in found if scene.kind == kind]
        assert len(of_kind) == count
        assert sum(scene.held_out for scene in of_kind) == count // 10
    assert len({scene.name for scene in found}) == len(found) == sum(counts.values())
    meetings = [scene.subjects for scene in found if scene.kind == "meeting"]
    assert meetings.count((0, 1)) == meetings.count((1, 0)) == 20
    lefts = [s.text.startswith("a photo of <") for s in found if s.kind == "global"]
    assert 80 < sum(lefts) < 120


def test_a_count_of_nothing_leaves_a_kind_out():
    for name, kind in zip(NONE, ("single", "global", "region", "meeting"), strict=True):
        options = CompositeOptions(**NONE | {name: True if name == "singles" else 1})
        assert {scene.kind for scene in scenes(options)} == {kind}


def test_the_same_seed_gives_the_same_and_another_gives_others():
    def shown(**changes):
        return [(s.text, s.places) for s in scenes(replace(FEW, **changes))]

    assert shown() == shown()
    assert shown(seed=1) != shown()
    fewer = [scene.name for scene in scenes(replace(FEW, global_pairs=2))]
    for scene in scenes():  # each has a draw of its own
        if scene.name in fewer:
            other = next(s for s in scenes(replace(FEW, global_pairs=2)) if s.name == scene.name)
            assert (other.text, other.places) == (scene.text, scene.places)


def test_an_interrupted_set_becomes_the_same_to_the_bit(tmp_path):
    heard = []
    composites(SUBJECTS, COMMON, FEW, tmp_path / "at once", lambda *each: heard.append(each))
    assert heard == [(k, len(heard)) for k in range(1, len(heard) + 1)]

    def stop(done, _total):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        composites(SUBJECTS, COMMON, FEW, tmp_path / "twice", stop)
    halted = contents(tmp_path / "twice")
    assert len(halted) == 7
    assert "metadata.jsonl" not in halted
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "twice").rglob("*.png")}
    found = composites(SUBJECTS, COMMON, FEW, tmp_path / "twice")
    assert contents(tmp_path / "twice") == contents(tmp_path / "at once")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert read_composites(found[0].path.parent, SUBJECTS) == found


def test_other_inputs_have_folders_of_their_own(tmp_path):
    sets = [
        (SUBJECTS, COMMON, FEW),
        (SUBJECTS, COMMON, replace(FEW, seed=1)),
        (SUBJECTS, COMMON, replace(FEW, side_px=32)),
        (SUBJECTS, COMMON[:1], FEW),
        ((SUBJECTS[0], subject(GOLD, "<g1> <g2>")), COMMON, FEW),
        ((SUBJECTS[0], replace(SUBJECTS[1], words="<h1> <h2>")), COMMON, FEW),
        (
            (SUBJECTS[0], replace(SUBJECTS[1], photos=[photo((30, 160, 60), box=(5, 5, 40, 44))])),
            *(COMMON, FEW),
        ),
    ]
    folders = [composites(*each, tmp_path)[0].path.parent for each in sets]
    assert len(set(folders)) == len(sets)
    assert folders[0].name.startswith("r and g-")
    assert composites(*sets[0], tmp_path)[0].path.parent == folders[0]


def test_the_metadata_are_those_of_image_folders(tmp_path):
    found = composites(SUBJECTS, COMMON, FEW, tmp_path)
    lines = (found[0].path.parent / "metadata.jsonl").read_text("utf-8").splitlines()
    first = {"file_name": "single-1-0001.png", "text": "<r1> <r2>", "kind": "single"}
    assert json.loads(lines[0]) == {**first, "subjects": [0], "held_out": False}
    assert len(lines) == len(found) == 4 + 8 + 6 + 4


def test_singles_are_the_photos_scaled_to_the_canvas_at_most(tmp_path):
    large = replace(SUBJECTS[0], photos=[photo(RED, (300, 200), (60, 20, 200, 180))])
    found = composites(
        [large, SUBJECTS[1]], (), CompositeOptions(**NONE | {"singles": True}, side_px=64), tmp_path
    )
    assert [Image.open(each.path).size for each in found] == [(96, 64), (60, 48), (60, 48)]
    np.testing.assert_array_equal(Image.open(found[1].path), SUBJECTS[1].photos[0].image)


@pytest.mark.parametrize(
    ("changes", "subjects", "common", "words"),
    [
        ({}, SUBJECTS, COMMON, "no kind are asked for"),
        ({"meeting_pairs": 2}, SUBJECTS[:1], COMMON, "there is one subject"),
        ({"global_pairs": 2}, SUBJECTS, (), "Give a folder of cut-outs such as chef.png"),
        ({"region_pairs": 2}, SUBJECTS, [thing(GOLD, "a toy")], "none left: all are called"),
        ({"global_pairs": 2}, (), COMMON, "need subjects"),
        ({"singles": True}, [replace(SUBJECTS[0], photos=[])], COMMON, "and photos of each"),
        ({"singles": True}, SUBJECTS[:1] * 2, COMMON, "Two subjects are called '<r1> <r2>'"),
    ],
)
def test_what_cannot_be_composed(tmp_path, changes, subjects, common, words):
    with pytest.raises(PhotoError, match=words):
        composites(subjects, common, CompositeOptions(**NONE | changes), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"side_px": 8}, {"global_pairs": -1}, {"singles": 1}])
def test_settings_out_of_their_limits(changes):
    with pytest.raises(CidmError, match=next(iter(changes))):
        CompositeOptions(**changes)


def test_one_subject_has_no_meetings_and_it_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        found = composites(SUBJECTS[:1], COMMON, FEW, tmp_path)
    assert {each.kind for each in found} == {"single", "global", "region"}
    assert "no composites of two" in caplog.text


@pytest.mark.parametrize("words", ["<d\u00f6g> %s$", "\u732b", "a*b?", "<V1> <V2>"])
def test_odd_characters_in_words(tmp_path, words):
    one = subject(RED, words)
    found = composites([one], COMMON, FEW, tmp_path)
    phrase = one.subject.phrase
    assert all(phrase in each.text for each in found)
    assert read_composites(found[0].path.parent, [one]) == found


def test_modifiers_and_class_words_as_names(tmp_path):
    modified = subject(RED, "<new1>", "Toy Car", modifier=True)
    plain = subject(GOLD, (), "Teddy Bear")
    found = composites([modified, plain], COMMON[:1], FEW, tmp_path)
    texts = {each.text for each in found}
    assert "a photo of <new1> toy car on the left and teddy bear on the right" in texts
    assert "teddy bear" in texts


def test_the_preview_shows_some_of_each_kind(tmp_path):
    found = composites(SUBJECTS, COMMON, FEW, tmp_path)
    sheet = preview(found, each=3)
    fewer = preview([each for each in found if each.kind != "meeting"], each=3)
    assert sheet.width == fewer.width
    assert sheet.height > fewer.height > 3 * 176
    assert is_color(sheet, RED).sum() > 1000
