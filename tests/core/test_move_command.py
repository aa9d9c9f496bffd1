"""`cidm bank move`: by flags, and asked at a terminal."""

import json

import pytest
from bank_samples import make_concept

from cidm_core.bank import Bank
from cidm_core.cli import FAILED, OK, main
from cidm_core.upkeep.trash import trash


@pytest.fixture
def banks(tmp_path):
    """Pets, and a house that has another dog already."""
    pets, house = Bank(tmp_path / "pets"), Bank(tmp_path / "house")
    for name in ("dog", "cat"):
        pets.add(make_concept(name, facts={"base_name": "/home/ann/sd15.safetensors"}))
    house.add(make_concept("dog", class_words="other"))
    return pets, house


@pytest.fixture
def run(banks, capsys):
    def running(*words):
        where = ["--bank", str(banks[0].path), "--into", str(banks[1].path)]
        return main(["bank", "move", *words, *where]), *capsys.readouterr()

    return running


def test_one_is_moved_and_it_is_said_how_to_undo_that(banks, run):
    code, out, err = run("cat")
    assert (code, out) == (OK, "cat: there, called by <cat-1> <cat-2>\n")
    assert "--restore 1" in err
    assert list(banks[0]) == ["dog"]
    assert list(banks[1]) == ["dog", "cat"]


@pytest.mark.parametrize("words", [(), ("cat", "--all")])
def test_which_ones_must_be_said(run, words):
    code, _, err = run(*words)
    assert code == FAILED
    assert "their names, or --all" in err


def test_without_a_terminal_nothing_moves_over_a_conflict(banks, run):
    code, _, err = run("--all", "--copy")
    assert code == FAILED
    assert "Nothing was moved: 1 of 2 concepts" in err
    assert "--on-conflict" in err
    assert list(banks[1]) == ["dog"]


def test_several_are_brought_back_at_once_as_it_is_said(banks, run):
    _, _, err = run("--all", "--on-conflict", "rename")
    assert "--restore 1 2" in err
    assert not list(banks[0])
    pets = str(banks[0].path)
    assert main(["bank", "trash", "--bank", pets, "--restore", "1", "2"]) == OK
    assert list(banks[0]) == ["dog", "cat"]


@pytest.mark.parametrize(
    ("way", "names"),
    [
        ("leave-out", ["dog", "cat"]),
        ("replace", ["dog", "cat"]),
        ("rename", ["dog", "dog-2", "cat"]),
    ],
)
def test_conflicts_by_flag(banks, run, way, names):
    code, out, _ = run("--all", "--copy", "--on-conflict", way, "--json")
    assert code == OK
    told = json.loads(out)["concepts"]
    assert [each["name"] for each in told] == ["dog", "cat"]
    assert list(banks[1]) == names
    assert banks[1]["dog"].class_words == ("dog" if way == "replace" else "other")
    assert list(banks[0]) == ["dog", "cat"]


@pytest.mark.parametrize(
    ("answers", "names", "words"),
    [
        (["l"], ["dog", "cat"], None),
        (["?", "", "R"], ["dog", "cat"], ("<dog-1>", "<dog-2>")),
        (["n", "", ""], ["dog", "dog-2", "cat"], ("<dog-1-2>", "<dog-2-2>")),
        (["new", "Rex", "<r1> <r2>"], ["dog", "Rex", "cat"], ("<r1>", "<r2>")),
    ],
)
def test_conflicts_are_asked(banks, run, monkeypatch, answers, names, words):
    given = iter(f"{answer}\n" for answer in answers)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: next(given), raising=False)
    code, _, err = run("--all")
    assert code == OK, err
    assert "[l]eave dog out, [r]eplace dog, or [n]ew name and words?" in err
    assert list(banks[1]) == names
    if words:
        assert banks[1][names[-2]].words == words
    assert len(trash(banks[0])) == (2 if words else 1)


def test_an_answer_that_does_not_come_moves_nothing(banks, run, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: "", raising=False)
    code, _, err = run("--all")
    assert code == FAILED
    assert "No answer came. Nothing was moved." in err
    assert list(banks[1]) == ["dog"]


def test_sharing_copies_and_says_to_look_at_the_pictures(banks, run):
    code, _, err = run("cat", "--share")
    assert code == OK
    assert "Look at them before you give the bank away" in err
    assert list(banks[0]) == ["dog", "cat"]
    assert banks[1].entries()[-1].facts == {"base_name": "sd15.safetensors"}
