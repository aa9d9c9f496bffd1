"""`cidm bank versions`, `trash`, `rename`, and strengths of single concepts by --strength."""

import json

import pytest
from bank_samples import make_concept
from make import random_concept
from PIL import Image

from cidm_core.bank import Bank
from cidm_core.cli import FAILED, OK, main
from cidm_core.upkeep.trash import trash
from cidm_core.upkeep.versions import versions


@pytest.fixture
def bank(tmp_path):
    bank = Bank(tmp_path / "pets")
    for steps in (100, 200, 300):
        old = next(iter(bank.entries()), None)
        bank.add(make_concept("dog", facts={"steps": steps}), replaces=old)
    return bank


@pytest.fixture
def run(bank, capsys):
    def running(action, *words):
        code = main(["bank", action, *words, "--bank", str(bank.path)])
        return code, *capsys.readouterr()

    return running


def steps(bank):
    return [
        bank.entries()[0].facts["steps"],
        *(v.entry.facts["steps"] for v in versions(bank, "dog")),
    ]


def test_versions_are_listed_taken_back_and_deleted(bank, run):
    code, out, _ = run("versions", "dog")
    assert code == OK
    assert [row.split()[0] for row in out.splitlines()] == ["version", "1", "2", "now"]
    told = json.loads(run("versions", "<dog-1> <dog-2>", "--json")[1])
    assert [each["number"] for each in told["versions"]] == [1, 2]
    assert told["now"]["facts"]["steps"] == 300
    code, out, _ = run("versions", "dog", "--back", "1")
    assert (code, steps(bank)) == (OK, [100, 200, 300])
    assert "What stood there is version 3 now; --back 3 undoes this." in out
    code, out, _ = run("versions", "dog", "--delete", "2")
    assert (code, steps(bank)) == (OK, [100, 300])
    assert "--restore 1" in out
    assert run("trash")[1].splitlines()[1].split()[:4] == ["1", "dog", "version", "2"]
    assert "Version 2 of 'dog' is back in" in run("trash", "--restore", "1")[1]
    assert steps(bank) == [100, 200, 300]
    assert "no version 9" in run("versions", "dog", "--back", "9")[2]


def test_a_damaged_concept_can_be_taken_back(bank, run):
    (bank.path / "dog.safetensors").write_bytes(b"damaged")
    code, out, _err = run("versions", "dog")
    assert code == OK
    assert "now" not in out
    assert "Not usable: dog.safetensors: 7 bytes are too few" in out
    assert run("versions", "dog", "--back", "2")[0] == OK
    assert steps(bank)[0] == 200
    assert "Not usable: 3.kept" in run("versions", "dog")[1]


def test_a_concept_never_replaced_says_so(bank, run):
    bank.add(make_concept("cat"))
    assert "was never replaced" in run("versions", "cat")[2]
    code, _, err = run("versions", "cat", "--compare", "--prompt", "x")
    assert code == FAILED
    assert "no versions to compare with" in err


def test_removing_says_how_to_undo_it(bank, run):
    assert "--restore 1" in run("remove", "dog", "--yes")[1]
    _code, out, _ = run("trash")
    assert out.splitlines()[1].split()[:3] == ["1", "dog", "concept"]
    assert json.loads(run("trash", "--json")[1])["trash"][0]["name"] == "dog"
    assert "'dog' is back" in run("trash", "--restore", "1")[1]
    assert list(bank) == ["dog"]
    assert "is empty" in run("trash")[1]
    assert "has nothing of number 1" in run("trash", "--restore", "1")[2]


@pytest.mark.parametrize(("answer", "left"), [("n\n", 1), ("", 1), ("y\n", 0)])
def test_the_trash_is_emptied_once_that_was_agreed(bank, run, monkeypatch, answer, left):
    bank.remove("dog")
    code, _, err = run("trash", "--empty")
    assert code == FAILED
    assert "--yes" in err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: answer, raising=False)
    code, _out, err = run("trash", "--empty")
    assert code == OK
    assert "(1 removal) cannot be undone. Do it? [y/N]" in err
    assert len(trash(bank)) == left
    assert json.loads(run("trash", "--empty", "--yes", "--json")[1]) == {"emptied": left}
    assert trash(bank) == ()


def test_renaming(bank, run):
    code, out, _ = run("rename", "DOG", "Rex")
    assert (code, out) == (OK, "'dog' is called 'Rex' now.\n")
    assert list(bank) == ["Rex"]
    assert run("rename", "Rex", "a\nb")[0] == FAILED


@pytest.fixture
def drawable(tiny_base, tmp_path):
    """A concept whose version has other words."""
    bank = Bank(tmp_path / "drawn")
    bank.add(random_concept(tiny_base, "<old1> <old2>", 1, class_words="dog", name="dog"))
    new = random_concept(tiny_base, "<dog1> <dog2>", 2, class_words="dog", name="dog")
    bank.add(new, replaces=bank.entries()[0])
    return bank


def test_versions_are_compared_on_one_sheet(drawable, tiny_folder, tmp_path, capsys, monkeypatch):
    from cidm_core.diffusers_host import pipeline

    real, seen = pipeline.generate, []

    def generate(base, bank, prompt, *rest, **more):
        seen.append((prompt, bank["dog"].words, bank["dog"].strength))
        return real(base, bank, prompt, *rest, **more)

    monkeypatch.setattr(pipeline, "generate", generate)
    words = ["bank", "versions", "dog", "--bank", str(drawable.path), "--model", str(tiny_folder)]
    words += ["--compare", "--steps", "1", "--width", "64", "--height", "64", "--json"]
    words += ["--strength", "dog=0.5", "--out", str(tmp_path / "sheet.png")]
    assert main(words) == FAILED
    assert "with --prompt" in capsys.readouterr().err
    assert main([*words, "--prompt", "a <dog1> <dog2>"]) == OK
    told = json.loads(capsys.readouterr().out)
    assert told["versions"] == [0, 1]
    assert [prompt for prompt, *_ in seen] == ["a <dog1> <dog2>", "a <old1> <old2>"]
    assert [called for _, called, _ in seen] == [("<dog1>", "<dog2>"), ("<old1>", "<old2>")]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 48 + 2 * 338 - 18


@pytest.mark.parametrize(
    ("asked", "message"), [("1,x", "takes numbers such as 1,3"), ("1,7", "no version 7")]
)
def test_versions_that_are_not_there_are_told_before_the_model_is_loaded(
    drawable, capsys, monkeypatch, asked, message
):
    from cidm_core.diffusers_host import load

    monkeypatch.setattr(load, "load_base", lambda *_, **__: pytest.fail("loaded"))
    words = ["bank", "versions", "dog", "--bank", str(drawable.path), "--prompt", "x"]
    assert main([*words, "--compare", asked]) == FAILED
    assert message in capsys.readouterr().err


def test_strength_takes_names_too():
    from cidm_core.cli import build_parser
    from cidm_core.commands.flags import given

    def asked(*words):
        return given(build_parser().parse_args(["generate", "--prompt", "x", *words]))

    assert asked("--strength", "0.8") == {"strength": 0.8}
    assert asked("--strength", "dog=0.8") == {"strengths": "dog=0.8"}
    both = asked("--strength", "dog=0.8", "--strength", "1.5", "--strengths", "cat=2")
    assert both == {"strength": 1.5, "strengths": "dog=0.8, cat=2"}
    again = asked("--strength=a=1", "--strength=b=2")
    assert again == {"strengths": "a=1, b=2"}


def test_a_strength_that_is_neither_is_told(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--prompt", "x", "--strength", "much"])
    assert "'much' is neither a number nor NAME=NUMBER" in capsys.readouterr().err
