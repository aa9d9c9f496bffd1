"""Every benchmark script runs and writes what its readers rely on; times mean nothing here."""

import argparse
import importlib
import json

import pytest
import torch

from cidm_core.methods import METHODS
from tests.host.server import absent

pytestmark = pytest.mark.lab
COMMON = {"benchmark", "command", "date", "timing", "machine"}


@pytest.fixture
def run(tmp_path):
    """A script's `main` with arguments; returns its report."""
    threads = torch.get_num_threads()

    def call(name, *arguments):
        out = tmp_path / f"{name}.json"
        importlib.import_module(f"lab.speed.{name}").main([*arguments, "--out", str(out)])
        report = json.loads(out.read_text())
        assert set(report) >= COMMON
        assert report["benchmark"] == name
        assert {"torch", "processor", "threads", "load_average"} <= set(report["machine"])
        return report

    yield call
    torch.set_num_threads(threads)


def met(report, *names):
    """Whether the targets that need no clock are met."""
    verdicts = {row["target"]: row["met"] for row in report["targets"]}
    return all(verdicts[name] for name in names)


def test_sampling(run):
    report = run("sampling", "--quick")
    assert set(report["results"]) == set(report["raw_seconds"])
    assert set(report["results"]) == {
        "merged",
        "per sample",
        "two prompts",
        "released way",
        "regions",
        "once per prompt",
    }
    assert met(
        report,
        "bytes changed by merging and un-merging",
        "aggregations in the step loop",
        "key/value projections in the step loop",
        "UNet rows per step, 1 regions",
        "UNet calls per step with regions",
    )
    # The port of the released way draws the same picture, so it does the same work.
    assert max(report["facts"]["agreement"].values()) < 1e-4
    calls = report["facts"]["calls_regions"]
    assert calls["unet_rows"] == calls["steps"] * (calls["regions"] + 2)


def test_bank_scale(run):
    report = run("bank_scale", "--quick")
    assert set(report["results"]) == {"open and list", "open and list, wall", "prompt"}
    assert {"resident_growth_mb", "adding"} <= set(report["facts"])
    assert len(report["targets"]) == 3


def test_gallery(run):
    if reason := absent():
        pytest.skip(reason)
    report = run("gallery", "--quick")
    assert {"requests", "start", "once"} <= set(report["results"])
    assert len(report["targets"]) >= 2


def test_training_step(run):
    report = run("training_step", "--quick")
    result = report["results"]["tiny"]
    assert set(result["steps"]) == {"ours", "plain peft LoRA step", "released way"}
    # All three predict the same noise, and count what they do.
    assert max(result["facts"]["agreement"].values()) < 1e-5
    assert set(result["facts"]["tflop_per_step"]) == set(result["steps"])
    assert set(result["facts"]["kernels_per_step"]) == set(result["steps"])
    assert {"denoise", "R1", "R2"} <= set(result["facts"]["last_losses"])


def test_gpu(run):
    report = run("gpu", "--quick", "--device", "cpu")
    assert len(report["results"]) == 6
    for name, row in report["results"].items():
        assert row["steps"] == row["asked_steps"] == 2, f"{name}: {row}"
        assert row["process_seconds"] > row["loaded_at_seconds"]
        assert row["peak_gb"] > 0
        if "learns" in name:
            assert row["saved_at_seconds"] > row["first_step_at_seconds"]
        else:
            assert row["with_concept"]
            assert row["two regions, warm"]["step_ms"] > 0


def test_gpu_without_one(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    importlib.import_module("lab.speed.gpu").main(["--out", str(tmp_path / "gpu.json")])
    assert capsys.readouterr().out == "not run: there is no CUDA device\n"
    assert not (tmp_path / "gpu.json").exists()


def test_gpu_rows_that_there_is_no_time_for(tmp_path):
    module = importlib.import_module("lab.speed.gpu")
    options = argparse.Namespace(quick=False, device="cpu", dtype="bf16")
    found = module.measured(module.ROWS[0], tmp_path / "no", tmp_path / "no", options, 20.0)
    assert found == {"not_run": "no time was left"}


def test_gpu_targets_are_of_what_was_measured():
    module = importlib.import_module("lab.speed.gpu")
    row = {"process_seconds": 50.0, "peak_gb": 6.0}
    found = module.targets_of({module.SMALL: {**row, "steps": 800}, module.LARGE: {"not_run": ""}})
    assert [each["met"] for each in found] == [True, False]
    found = module.targets_of({module.SMALL: {**row, "steps": 700}, module.LARGE: {"failed": []}})
    assert [each["limit"] for each in found] == [5]


def test_consolidation(run):
    report = run("consolidation", "--quick")
    for row in report["results"]:
        assert {"released loop", "subspace", "projection"} <= set(row["milliseconds"])
        assert set(row["raw_seconds"]) == set(row["milliseconds"])


def test_merging(run):
    report = run("merging", "--quick")
    assert set(report["seconds"]) == set(report["raw_seconds"])
    assert [each["met"] for each in report["targets"]] == [True]


def test_memory(run):
    rows = run("memory", "--quick")["rows"]
    assert {row["method"] for row in rows} == set(METHODS)
    fp32, bf16, low, _ = (row for row in rows if row["method"] == "cidm")
    assert fp32["weights_gb"] >= bf16["weights_gb"]
    assert fp32["kept_for_backward_gb"] >= bf16["kept_for_backward_gb"]
    assert low["kept_for_backward_gb"] <= bf16["kept_for_backward_gb"]
    assert all(row["sum_gb"] >= row["weights_gb"] for row in rows)
    assert all(0.97 <= row["estimate_of_alive"] <= 1.05 for row in rows)


def test_token_layers(run, xl_checkpoint):
    report = run("token_layers", "--quick", "--model", str(xl_checkpoint))
    found = {row["token_layers"]: row["versions"] for row in report["rows"]}
    assert found == {"layer": 8, "block": 4, "one": 1}


def test_memory_of_a_checkpoint(run, xl_checkpoint):
    """Eight bits instead of sixteen, and no text encoders."""
    report = run("memory", "--quick", "--methods", "cidm", "--model", str(xl_checkpoint))
    held = {(row["preset"], row["precision"]): row["weights_gb"] for row in report["rows"]}
    assert held["least-vram", "bf16"] < held["low-vram", "bf16"] <= held["balanced", "bf16"]


def test_infusion(run):
    report = run("infusion", "--quick")
    assert set(report["results"]) == {"drawing", "learning, paper", "learning, released"}
    assert len(report["targets"]) == 2


def test_custom_diffusion_step(run):
    report = run("custom_diffusion_step", "--quick")
    (result,) = report["results"].values()
    assert set(result["steps"]) == {"bare", "example", "ours"}
    # The VAE in every step, and no more arithmetic in ours than in the bare one.
    flops = result["tflop_per_step"]
    assert flops["example"] > 1.05 * flops["bare"]
    assert flops["ours"] < 1.1 * flops["bare"]


def test_clif_step(run):
    report = run("clif_step", "--quick")
    assert set(report["results"]) == {"contrast", "words", "weights", "cidm", "composites"}
    assert all(row["ms"] > 0 for row in report["results"].values())
