"""`cidm train --estimate`, and what a run says of memory before it begins."""

import json
import logging
from argparse import Namespace

import pytest

from cidm_core.cli import main
from cidm_core.commands import estimate
from cidm_core.commands.console import Console
from cidm_core.diffusers_host.advice import Change

GB = 2**30


@pytest.fixture
def small_card(monkeypatch):
    monkeypatch.setattr("cidm_core.devices.memory_of", lambda device: (GB, GB // 4))


def asked(**more):
    values = {"model": "mini-sd", "method": "cidm", "preset": None, "device": "cpu", "dtype": None}
    values |= {"tokenizer": None, "vae": None, "prediction": None, "zero_terminal_snr": None}
    return Namespace(**values | more)


def test_the_table_needs_neither_bank_nor_photos(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--estimate", "--batch-size", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split()[0] for line in lines[1:6]]
    assert rows == ["as", "least-vram", "low-vram", "balanced", "best"]
    assert lines[6].startswith("Memory: about 0.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_card")
def test_json_has_every_number(capsys):
    assert main(["train", "--estimate", "--json", "--quiet", "--method", "infusion"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["room"] == {"total": GB, "free": GB // 4}
    assert set(found["presets"]) == {"least-vram", "low-vram", "balanced", "best"}
    chosen = found["chosen"]
    assert chosen["verdict"] == "does not fit"
    assert chosen["weights"] < chosen["low"] < chosen["about"] < chosen["high"]
    assert found["better"]["change"].startswith("--")


def test_without_estimate_the_bank_is_needed(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--photos", "x"])
    assert "--bank" in capsys.readouterr().err


def test_flags_of_changes():
    both = Change("least-vram", {"resolution_px": 256})
    assert estimate.wording(both) == "--preset least-vram --resolution 256"
    assert estimate.wording(Change(settings={"gradient_checkpointing": True})) == (
        "--gradient-checkpointing"
    )


@pytest.mark.usefixtures("small_card")
def test_a_run_that_cannot_fit_is_told_before_it_starts(capsys, monkeypatch):
    monkeypatch.setattr(estimate, "_MINI", ())
    quiet = Console(quiet=True)
    estimate.tell_memory(asked(), {}, quiet, has_masks=False, has_prior=False)
    assert "does not fit" in capsys.readouterr().err


def test_embedded_models_are_passed_over(capsys):
    estimate.tell_memory(asked(), {}, Console(), has_masks=False, has_prior=False)
    assert capsys.readouterr().err == ""


def test_a_count_that_fails_ends_no_run(capsys, monkeypatch, caplog):
    monkeypatch.setattr(estimate, "_MINI", ())
    monkeypatch.setattr(estimate, "_advisor", lambda *_, **__: 1 / 0)
    with caplog.at_level(logging.WARNING):
        estimate.tell_memory(asked(), {}, Console(), has_masks=False, has_prior=False)
    assert "could not be counted" in caplog.text
    assert capsys.readouterr().err == ""
