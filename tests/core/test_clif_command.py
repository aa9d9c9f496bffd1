"""CLIF and `--contrast` by the command line, on mini-sdxl: what is told and shown, bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cidm_core.bank import Bank
from cidm_core.cli import FAILED, OK, main
from cidm_core.commands.contrast import CONTRAST_FLAGS
from cidm_core.diffusers_host import load

FEW = ("--steps", "2", "--word-steps", "2", "--contrast-steps", "2", "--contrast-batch", "8")
FEW += ("--global-pairs", "3", "--region-pairs", "2", "--meeting-pairs", "10")
QUICK = ("--variants", "1", "--batch-size", "1", "--accumulation", "1")
BOTH = "a photo of <pur1> <pur2> on the left and <tea1> <tea2> on the right"


def drawn(folder, colour, mask=True):
    """Two photos of a disc on noise, with masks of it and of its upper half, the ear."""
    folder.mkdir(parents=True)
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 90, (40, 40, 3), dtype=np.uint8)
        photo, white = Image.fromarray(pixels), Image.new("L", (40, 40))
        ImageDraw.Draw(photo).ellipse((8, 6, 32, 34), fill=colour)
        ImageDraw.Draw(white).ellipse((8, 6, 32, 34), fill=255)
        photo.save(folder / f"{k}.png")
        if mask:
            white.save(folder / f"{k}_mask.png")
            white.paste(0, (0, 20, 40, 40))
            white.save(folder / f"{k}_mask_left_ear.png")
    return folder


@pytest.fixture
def cats(tmp_path):
    """A subjects file of two cats."""
    rows = [
        {"photos": str(drawn(tmp_path / name, colour)), "class_words": "cat", "words": words}
        for name, colour, words in (
            ("pur", "purple", "<pur1> <pur2>"),
            ("tea", "teal", "<tea1> <tea2>"),
        )
    ]
    path = tmp_path / "cats.json"
    path.write_text(json.dumps(rows))
    return path


def clif(tmp_path, cats, *more, model="mini-sdxl"):
    words = ["train", "--method", "clif", "--bank", str(tmp_path / "bank"), "--device", "cpu"]
    return [*words, "--model", model, "--subjects", str(cats), *FEW, *QUICK, *more]


def test_two_cats_are_taught_shown_and_told_of(tmp_path, cats, capsys):
    sheet = tmp_path / "composites.png"
    assert main(clif(tmp_path, cats, "--show-composites", str(sheet), "--json")) == OK
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["concept"] == "pur and tea"
    assert told["words"] == ["<pur1>", "<pur2>", "<tea1>", "<tea2>"]
    assert told["facts"]["contrast"]["after"]["cosine"] < 1
    assert "and 2 photos of 'cat' become '<tea1> <tea2>': 6 steps of clif on mini-sdxl" in err
    assert "34 composites are in" in err
    assert f"Some of them are shown in {sheet}" in err
    places = [err.index(each) for each in ("Making composites", "Encoding photos", "Learning (w")]
    assert places == sorted(places)
    assert "Learning (contrast) 1/6" in err
    assert "Of composites that were held out CLIP finds their caption in" in err
    picture = err.split("(before 1.00): ")[1].splitlines()[0]
    assert Path(picture).parent == tmp_path / "bank" / ".runs" / "pur and tea"
    assert Image.open(picture).width > 300
    assert Image.open(sheet).width > 300
    (folder,) = (tmp_path / "bank" / ".composites").iterdir()
    texts = [
        json.loads(row)["text"] for row in (folder / "metadata.jsonl").read_text().splitlines()
    ]
    assert BOTH in texts
    assert any("<pur1> <pur2>'s left ear" in text for text in texts)
    assert not any("cat on the" in text and "<" not in text for text in texts)


def test_other_methods_contrast_their_words_on_request(tmp_path, capsys):
    photos, common = drawn(tmp_path / "pur", "purple"), tmp_path / "common"
    common.mkdir()
    Image.new("RGBA", (20, 30), "red").save(common / "chef_1.png")
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).resize((9, 9)).save(common / "chef_2.png")
    words = ["train", "--bank", str(tmp_path / "bank"), "--model", "mini-sdxl", "--photos"]
    words += [str(photos), "--words", "<pur1> <pur2>", "--class-words", "cat", "--steps", "1"]
    words += [*QUICK, "--contrast", "--contrast-steps", "1", "--device", "cpu"]
    assert main([*words, "--common", str(common)]) == FAILED
    assert "chef_1.png' has nothing around it" in capsys.readouterr().err
    whole = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    whole.paste("red", (5, 5, 25, 25))
    for name in ("chef_1.png", "chef_2.png"):
        whole.save(common / name)
    assert main([*words, "--common", str(common)]) == OK
    assert "contrast" in Bank(tmp_path / "bank")["pur"].facts


@pytest.mark.parametrize(
    ("method", "offered"), [("clif", True), ("cidm", True), ("infusion", False)]
)
def test_only_methods_whose_words_learn_by_contrast_have_its_flags(method, offered, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--method", method, "--help"])
    said = capsys.readouterr().out
    assert all((flag in said) == offered for flag in CONTRAST_FLAGS)
    assert ("dog1_mask_left_ear.png" in said) == offered
    if not offered:
        with pytest.raises(SystemExit):
            main(["train", "--method", method, "--bank", "b", "--clip", "mini-clip"])
        assert "--clip is not for the method infusion" in capsys.readouterr().err


def bad(tmp_path, cats, case):
    """Command line and what it says."""
    rows = json.loads(cats.read_text())
    own = tmp_path / "own"
    if case == "no masks":
        rows[1]["photos"] = str(drawn(tmp_path / "bare", "red", mask=False))
    if case == "no words":
        del rows[1]["words"]
    if case == "one for M":
        del rows[1]
    if case == "no side":
        own.mkdir()
        half = Image.new("RGB", (64, 64), "white")
        half.paste("red", (4, 4, 28, 60))
        half.save(own / "1.png")
        (own / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "text": BOTH}))
    cats.write_text(json.dumps(rows))
    return {
        "no masks": ((), r"there is no mask of '.*bare/0.png', '.*bare/1.png'. Paint masks"),
        "no words": ((), "There are no words of subject 2, 'cat'. Give it some of its own"),
        "one for M": (
            ("--global-pairs", "0", "--region-pairs", "0"),
            "Composites of two subjects are all that is asked for, and there is one subject",
        ),
        "no side": (("--composites", own), "says what is on the right, and '1.png' shows nothing"),
        "both": (("--composites", own, "--common", own), "--common is about composites that are"),
        "counts": (("--composites", own), "--global-pairs is about composites that are made"),
        "no contrast": (
            ("--stages", "words", "--clip", "mini-clip"),
            "--clip is for words that learn by contrast, .* Let stages hold contrast, or leave it",
        ),
        "no common": (
            (*("--global-pairs", "0", "--region-pairs", "0"), "--common", own),
            "--common is for composites beside common things",
        ),
        "sheet": (("--show-composites", "sheet.txt"), "does not end in a picture format"),
        "stage": (("--stages", "colour"), "Join some of contrast, words, weights"),
    }[case]


@pytest.mark.parametrize(
    "case",
    [
        *("no masks", "no words", "one for M", "no side", "both", "counts", "no contrast"),
        *("sheet", "stage", "no common"),
    ],
)
def test_bad_input_is_told_before_the_model_is_loaded(tmp_path, cats, case, monkeypatch, capsys):
    def never(*_args, **_given):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(load, "load_base", never)
    more, says = bad(tmp_path, cats, case)
    words = clif(tmp_path, cats, *map(str, more))
    if case in ("no side", "both"):  # the counts are refused beside a folder
        at = words.index("--global-pairs")
        del words[at : at + 6]
    assert main(words) == FAILED
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "bank" / ".runs").exists()


def test_three_composites_of_the_users_are_enough(tmp_path, cats, capsys):
    """Too few to hold any out; their order decides who is left and right, not the subjects'."""
    own = tmp_path / "own"
    own.mkdir()
    rows = [BOTH, "<pur1> <pur2>", "<tea1> <tea2>"]
    for k, text in enumerate(rows):
        pixels = np.random.default_rng(k).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(own / f"{k}.png")
        rows[k] = json.dumps({"file_name": f"{k}.png", "text": text})
    (own / "metadata.jsonl").write_text("\n".join(rows))
    words = clif(tmp_path, cats, "--composites", str(own))
    at = words.index("--global-pairs")
    del words[at : at + 6]
    assert main(words) == OK
    said = capsys.readouterr()
    assert "There were too few composites to hold any out" in said.out
    assert "names are alike by" in said.out
    picture = tmp_path / "bank" / ".runs" / "pur and tea" / "contrast.png"
    assert Image.open(picture).width > 300


def test_settings_that_change_nothing_are_told_of(tmp_path, cats, capsys):
    assert main(clif(tmp_path, cats, "--stages", "weights")) == OK
    said = capsys.readouterr().err
    for flag in ("--contrast-steps", "--contrast-batch", "--global-pairs", "--word-steps"):
        assert flag in said.split("these change nothing: ")[1].splitlines()[0]
    assert "--steps" not in said.split("these change nothing: ")[1].splitlines()[0].split(", ")
    photos = drawn(tmp_path / "zen", "purple")
    words = ["train", "--bank", str(tmp_path / "bank"), "--model", "mini-sdxl", "--photos"]
    words += [str(photos), "--words", "<zen1> <zen2>", "--class-words", "cat", "--steps", "1"]
    words += [*QUICK, "--lr-contrast", "1e-3", "--device", "cpu"]
    (tmp_path / "bank" / "ruin.safetensors").write_bytes(b"")
    assert main(words) == OK
    said = capsys.readouterr().err
    assert "Without --contrast these change nothing: --lr-contrast." in said
    assert "Learning goes on without 'ruin.safetensors' of the bank" in said


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "takes the CLIP model that the first text encoder comes from: OpenAI's ViT-L/14"),
        (
            ("--clip", "CLIP"),
            r"Composites need common things .* cut-outs such as chef.png .--common",
        ),
        (
            ("--clip", "CLIP", "--common", "THINGS"),
            r"texts of width 32, .* tiny-sd15 .SD15. has 768",
        ),
    ],
)
def test_what_a_model_of_another_family_needs(
    tmp_path, cats, more, says, tiny_folder, clip_folder, monkeypatch, capsys
):
    things = tmp_path / "things"
    things.mkdir()
    whole = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    whole.paste("red", (5, 5, 25, 25))
    whole.save(things / "chef.png")
    places = {"CLIP": str(clip_folder), "THINGS": str(things)}
    monkeypatch.setattr(load, "load_base", None)  # what is missing is told before
    given = [places.get(word, word) for word in more]
    assert main(clif(tmp_path, cats, *given, model=str(tiny_folder))) == FAILED
    assert re.search(says, capsys.readouterr().err)


def test_the_model_draws_common_things_that_clipseg_cuts_out(
    tmp_path, cats, tiny_folder, monkeypatch, capsys
):
    """They stand beside the subjects, and are no cats."""
    from cidm_core.diffusers_host import common_things, contrast, segmentation, train
    from cidm_core.errors import PhotoError

    class Middle:
        size, name = 16, "middle"

        def share(self, picture, class_words):
            seen = np.zeros((16, 16), np.float32)
            seen[4:12, 4:12] = 1
            return seen

    class Clip:
        def check(self, family, model):
            pass

    def learn(*_args, contrast, **_given):
        raise PhotoError(", ".join(sorted({thing.label for thing in contrast.common})))

    quick = lambda *a, **k: draw(*a, **k, each=1, steps=1, width_px=32, height_px=32)  # noqa: E731
    draw = common_things.draw_common_things
    monkeypatch.setattr(common_things, "draw_common_things", quick)
    monkeypatch.setattr(common_things, "NAMES", ("chef", "cat", "stool"))
    monkeypatch.setattr(segmentation, "load_segmenter", lambda *_: Middle())
    monkeypatch.setattr(contrast, "load_contrast_clip", lambda *_: Clip())
    monkeypatch.setattr(train, "train_concept", learn)
    words = clif(tmp_path, cats, "--clip", "x", "--segment", "y", model=str(tiny_folder))
    assert main(words) == FAILED
    said = capsys.readouterr().err
    assert "Drawing common things 2/2" in said
    assert "chef, stool" in said
    assert len(list((tmp_path / "bank" / ".common").glob("*-*/*.png"))) == 2
