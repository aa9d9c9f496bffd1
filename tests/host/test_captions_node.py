"""Photos and Captions in ComfyUI, among core's dataset nodes; the script says what each is."""

import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "captions.py"


@pytest.fixture(scope="module")
def found(in_host, tmp_path_factory):
    return in_host(SCRIPT, tmp_path_factory.mktemp("captions"))


def test_photos_and_captions_are_shown(found):
    report = found["folder"]["report"].splitlines()
    assert report[0] == "<dog1> <dog2>: 3 photos of 'dog'"
    assert "1.png: a brown <dog1> <dog2>: sitting" in report
    assert "  Says 'brown'. Suggested: a dog: sitting" in report
    assert any("No caption for 3.png" in line for line in report)
    edited = report[report.index("To edit, copy lines into captions:") :]
    assert "1.png: a brown dog: sitting" in edited
    assert found["on the node"] == [found["folder"]["report"], 1]
    assert found["sheet"][0] > 700


def test_what_goes_on_to_training_is_exact(found):
    assert found["folder"]["captions"] == "a brown dog: sitting\na dog outside\ndog"
    assert found["photos"] == [True] * 3
    assert found["masks"] == 3
    for first, second, third in (found["no mask"], found["masks of all"]):
        loss = re.compile(r"loss [\d.]+")
        assert loss.search(first)[0] == loss.search(second)[0]
        assert "not repeated" in third
    assert "not repeated" in found["learned from lists"]
    assert found["subject"]


def test_lists_of_core_and_edited_captions(found):
    assert sorted(found["loader"]["captions"].splitlines()) == [
        *("a dog outside", "a dog: sitting", "dog"),
    ]
    assert found["by name"]["captions"] == "a dog\na dog outside\na dog at last"
    assert "The caption has 51 tokens, and the text encoder reads 46" in found["by the clip"]
    assert found["by order"]["captions"] == "a dog 1\na dog 2\na dog 3"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no folder", "write_back writes captions to files beside the photos"),
        ("both", "Both images (3) and the photo folder 'dogs' are given."),
        ("no photos", "There are no photos to learn from."),
        ("number", "There are 3 photos and 2 captions."),
        ("unknown", "Some lines of the captions begin with a photo's name, and '4.png: a dog'"),
        ("nameless", "The concept word is missing from every caption: neither 'teapot'"),
        ("resolution", "bigger than max"),
    ],
)
def test_what_is_wrong_is_said(found, case, said):
    assert said in found[case]


def test_captions_are_written_back_when_asked(found):
    assert found["unchanged"]
    assert found["unchanged by errors"]
    assert "2 of 3 captions written; what they were is in '" in found["written"]
    assert found["texts"].pop("2.txt") == "a dog outside"
    kept = [text for name, text in found["texts"].items() if name.startswith(".")]
    assert len(kept) == 1
    assert "1.png: a brown dog: sitting" in kept[0]
    assert found["texts"]["1.txt"] == "a dog\n"
    assert found["texts"]["3.txt"] == "a dog at last\n"
    assert "The captions in the files are these already." in found["again"]
