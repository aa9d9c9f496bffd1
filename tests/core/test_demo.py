"""The demo runs, leaves what it promises, and its page shows that nothing was forgotten."""

import json

import numpy as np
import pytest
from PIL import Image
from tools.make_checkpoint import write_diffusers

from cidm_core.bank import Bank
from cidm_core.cli import main
from cidm_core.demo.run import run_demo
from cidm_core.diffusers_host.load import load_base
from cidm_core.errors import CidmError, HostError
from cidm_core.mini.looks import DEMO_LOOKS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """mini-sd, or while it is not there a model of its family with random weights."""
    try:
        load_base("mini-sd")
    except HostError:
        folder = tmp_path_factory.mktemp("models") / "mini"
        write_diffusers(folder, "mini", "fp32")
        return str(folder)
    return "mini-sd"


@pytest.fixture(scope="module")
def demo(model, tmp_path_factory):
    """Result, notes and training events of one quick run."""
    notes, events = [], []
    folder = tmp_path_factory.mktemp("demo") / "out"
    result = run_demo(
        folder, quick=True, model=model, on_progress=events.append, on_note=notes.append
    )
    return result, notes, events


def test_three_concepts_are_learned_in_sequence(demo):
    result, notes, events = demo
    bank = Bank(result.bank)
    assert tuple(bank) == tuple(look.name for look in DEMO_LOOKS)
    assert [bank[name].kind for name in bank] == ["object", "object", "style"]
    assert bank["purple-cat"].class_words == bank["teal-cat"].class_words, "look-alikes"
    assert [note.split(":")[0] for note in notes[:3]] == [f"Concept {i} of 3" for i in (1, 2, 3)]
    assert sum(event.phase == "learning" for event in events) == 18


def test_nothing_is_forgotten(demo):
    result, _, _ = demo
    for each in result.concepts:
        assert len(each.photos) == len(each.after_own) == len(each.after_last) == 4
        assert each.change == 0, f"{each.name} is drawn as before learning the others"
    assert "equal in every pixel" in result.summary()


def test_the_contact_sheet_holds_every_picture(demo):
    result, _, _ = demo
    sheet = np.asarray(Image.open(result.sheet).convert("RGB"), int)
    tile = 112
    for row, each in enumerate(result.concepts):
        for group, pictures in enumerate((each.photos, each.after_own, each.after_last)):
            for k, picture in enumerate(pictures):
                shown = picture.convert("RGB").resize((tile, tile), Image.Resampling.BICUBIC)
                x = 28 + 190 + group * (4 * (tile + 6) - 6 + 30) + k * (tile + 6)
                found = [
                    np.abs(sheet[y : y + tile, x : x + tile] - np.asarray(shown, int)).max()
                    for y in range(60 + row * (tile + 16), 200 + row * (tile + 16))
                ]
                assert min(found) == 0, (each.name, group, k)


def test_files_are_where_the_summary_says(demo):
    result, _, _ = demo
    facts = json.loads((result.folder / "demo.json").read_text())
    assert facts["seed"] == 0
    assert [c["largest_change"] for c in facts["concepts"]] == [0, 0, 0]
    assert str(result.sheet) in result.summary()
    assert len(list((result.folder / "photos").rglob("*.txt"))) == 12
    assert (result.bank / ".runs" / "harbour" / "loss.png").exists()


def test_an_interrupted_demo_goes_on(demo, model):
    result, _, _ = demo
    listing = sorted(p.name for p in result.bank.iterdir())
    Bank(result.bank).remove("harbour")
    result.sheet.unlink()
    for picture in (result.folder / "pictures" / "harbour").iterdir():
        picture.unlink()
    events = []
    again = run_demo(result.folder, quick=True, model=model, on_progress=events.append)
    assert sum(event.phase == "learning" for event in events) == 6, "only harbour is learned again"
    assert sorted(p.name for p in result.bank.iterdir() if p.name != ".trash") == listing
    assert [c.change for c in again.concepts] == [0, 0, 0]
    shown, before = (
        np.asarray(c.after_own[0], int) for c in (again.concepts[0], result.concepts[0])
    )
    np.testing.assert_array_equal(shown, before)
    assert result.sheet.exists()


def test_another_demo_is_left_alone(demo, capsys):
    result, _, _ = demo
    before = {p: p.stat().st_mtime_ns for p in result.folder.rglob("*")}
    with pytest.raises(CidmError, match="already"):
        run_demo(result.folder, quick=True, seed=5)
    assert main(["demo", "--out", str(result.folder)]) == 1
    assert "Give the demo a new folder" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in result.folder.rglob("*")} == before
