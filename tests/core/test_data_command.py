"""`cidm data check` and `cidm data edit`: what they print, write and refuse."""

import json

import numpy as np
import pytest
from PIL import Image

from cidm_core.cli import FAILED, OK, main

DOG = ("--words", "<dog1> <dog2>", "--class-words", "dog")
CAPTIONS = ("a brown dog", "a dog outside", "a dog on grass")


@pytest.fixture
def photos(tmp_path):
    """Three photos of noise with captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number, caption in enumerate(CAPTIONS, 1):
        pixels = draws.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


def data(capsys, *words, code=OK):
    """What a command says as JSON, and to people."""
    assert main(["data", *map(str, words), "--json"]) == code
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def kinds(shown):
    (subject,) = shown["subjects"]
    return [
        [finding["kind"] for finding in each["findings"]] for each in (subject, *subject["photos"])
    ]


def test_check_finds_and_draws(capsys, photos, tmp_path):
    sheet = tmp_path / "new" / "sheet.png"
    options = ("--photos", photos, *DOG, "--resolution", 64)
    shown, said = data(capsys, "check", *options, "--out", sheet)
    assert kinds(shown) == [["attributes"], ["attributes"], [], []]
    first = shown["subjects"][0]["photos"][0]
    assert first["learned_caption"] == "a brown <dog1> <dog2>"
    assert first["suggestion"] == "a dog"
    assert first["learned_at"] == [64, 64]
    assert Image.open(sheet).width > 600
    assert f"The sheet is in {sheet}" in said
    assert "Says 'brown'. Suggested: a dog" in said


def test_check_knows_the_model_the_method_and_its_settings(capsys, photos):
    (photos / "2.txt").write_text(f"a dog {'on grass ' * 24}")
    shown, _ = data(capsys, "check", "--photos", photos, *DOG, "--model", "mini-sd")
    assert kinds(shown)[2] == ["long"]
    found = shown["subjects"][0]["photos"][1]["findings"][0]["text"]
    assert found.startswith("The caption has 51 tokens, and the text encoder reads 46")
    assert shown["subjects"][0]["photos"][0]["learned_at"] == [32, 32]
    custom = ("--words", "<rex>", "--class-words", "dog", "--method", "custom_diffusion")
    shown, _ = data(capsys, "check", "--photos", photos, *custom, "--resolution", 64)
    assert shown["subjects"][0]["photos"][0]["learned_caption"] == "a brown <rex> dog"
    assert main(["data", "check", "--photos", str(photos), "--class-words", "dog",
                 "--method", "infusion", "--buckets", "--resolution", "64"]) == OK  # fmt: skip


def test_check_tells_what_training_tells(capsys, photos):
    (photos / "3.txt").unlink()
    (photos / "notes.pdf").write_text("")
    Image.new("L", (64, 64), 255).save(photos / "1_mask.png")
    shown, said = data(capsys, "check", "--photos", photos, *DOG, "--resolution", 64)
    (subject,) = shown["subjects"]
    told = [each["text"] for each in subject["findings"] if each["kind"] == "told"]
    assert [text.partition(":")[0] for text in told] == [
        f"Not read in '{photos}', no pictures of a known kind",
        "No caption for 3.png; the class words stand in.",
        "No mask for 2.png, 3.png; the whole photo counts there.",
    ]
    assert "WARNING" not in said
    assert kinds(shown)[1] == ["mask", "attributes"]


def test_several_subjects(capsys, photos, tmp_path):
    rows = [{"photos": "photos", "words": "<new1>", "class_words": "dog"}] * 2
    rows[1] = rows[1] | {"words": "<new2>", "kind": "human"}
    (tmp_path / "pets.json").write_text(json.dumps(rows))
    options = ("--subjects", tmp_path / "pets.json", "--method", "custom_diffusion")
    shown, _ = data(capsys, "check", *options, "--out", tmp_path / "sheet.png")
    assert [each["words"] for each in shown["subjects"]] == [["<new1>"], ["<new2>"]]


@pytest.mark.parametrize(
    "words",
    [
        ("--words", "<dog1> <dog2>", "--class-words", "cat"),
        ("--words", "dog", "--class-words", "dog"),
        ("--words", "<dog1>,", "--class-words", "dog"),
        ("--class-words", "dog"),
        (*DOG, "--captions", "nowhere"),
        (*DOG, "--resolution", "33"),
        (*DOG, "--masks", "."),
        ("--words", "<dog1>", "--class-words", "dog", "--model", "nowhere.safetensors"),
    ],
)
def test_what_training_refuses_is_refused_alike(capsys, photos, tmp_path, words):
    options = ("--model", "mini-sd") if "--model" not in words else ()
    asked = ("--photos", str(photos), *options, *words)
    checked, _ = data(capsys, "check", *asked, code=FAILED)
    bank = str(tmp_path / "bank")
    assert main(["train", "--bank", bank, *asked, "--json", "--quiet", "--steps", "1"]) == FAILED
    assert checked["error"] == json.loads(capsys.readouterr().out)["error"]


def test_edit_writes_a_text_and_reads_it_back(capsys, photos, tmp_path):
    text = tmp_path / "all.txt"
    shown, said = data(capsys, "edit", "--photos", photos, "--class-words", "dog", "--out", text)
    lines = text.read_text().splitlines()
    assert "1.png: a brown dog" in lines
    assert "# 1.png: Says 'brown'. Suggested: a dog" in lines
    assert shown["captions"] == {"1.png": CAPTIONS[0], "2.png": CAPTIONS[1], "3.png": CAPTIONS[2]}
    assert f"--from {text}" in said
    before = (photos / "2.txt").read_bytes()
    assert data(capsys, "edit", "--photos", photos, "--from", text)[1] == "Nothing changes.\n"
    text.write_text(text.read_text().replace("a dog outside", "a dog: outside"))
    shown, said = data(capsys, "edit", "--photos", photos, "--from", text)
    assert "- 2.png: a dog outside\n+ 2.png: a dog: outside\n" in said
    assert "Add --write" in said
    assert (photos / "2.txt").read_bytes() == before
    shown, said = data(capsys, "edit", "--photos", photos, "--from", text, "--write")
    assert shown["changes"] == [
        {"photo": "2.png", "before": "a dog outside", "after": "a dog: outside"}
    ]
    assert (photos / "2.txt").read_text() == "a dog: outside\n"
    assert shown["kept"] in said
    data(capsys, "edit", "--photos", photos, "--from", shown["kept"], "--write")
    assert (photos / "2.txt").read_text() == "a dog outside\n"


def test_edit_strips(capsys, photos):
    options = ("--photos", photos, "--class-words", "dog", "--strip")
    shown, _ = data(capsys, "edit", *options)
    assert [each["after"] for each in shown["changes"]] == ["a dog"]
    assert (photos / "1.txt").read_text() == CAPTIONS[0]
    data(capsys, "edit", *options, "--write")
    assert (photos / "1.txt").read_text() == "a dog\n"
    assert data(capsys, "edit", *options)[0]["changes"] == []


def test_edit_mends_what_training_refuses(capsys, photos):
    for number in (1, 2, 3):
        (photos / f"{number}.txt").write_text("a cat")
    shown, _ = data(capsys, "edit", "--photos", photos, *DOG)
    assert shown["text"].count("Lacks 'dog'") == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strip",), "Give --class-words."),
        (("--write",), "Give --from, --strip, or both."),
        (
            ("--out", "x.txt", "--strip", "--class-words", "dog", "--write"),
            "Leave one of them out.",
        ),
        (("--from", "{}/nowhere.txt"), "cannot be read"),
        (("--from", "{}/photos/1.png"), "is not UTF-8 text"),
        (("--out", "{}/photos/1.txt"), "is there already, perhaps with captions that you edited"),
        (("--out", "{}/no/x.txt"), "The folder does not exist."),
        (("--captions", "{}/nowhere"), "are not there"),
    ],
)
def test_edit_refuses(capsys, photos, tmp_path, options, said):
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    words = [word.format(tmp_path) for word in options]
    shown, _ = data(capsys, "edit", "--photos", photos, *words, code=FAILED)
    assert said in shown["error"]["message"]
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
