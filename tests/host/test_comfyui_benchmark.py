"""The benchmark of the nodes runs; its figures are measured elsewhere, on a free machine."""

from __future__ import annotations

import json

import pytest

from lab.speed import comfyui


@pytest.mark.lab
def test_the_benchmark_runs(tmp_path, in_host, monkeypatch):
    def inside(options):
        return in_host(comfyui.INSIDE, json.dumps(options))  # ComfyUI is imported there already

    monkeypatch.setattr(comfyui, "measured", inside)
    out = tmp_path / "comfyui.json"
    comfyui.main(["--quick", "--out", str(out)])
    text = json.dumps(json.loads(out.read_text()))
    assert "calls per step" in text
    assert "first step" in text
