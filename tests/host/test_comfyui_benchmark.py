"""The benchmark of the nodes runs; its figures are measured elsewhere, on a free machine."""

from __future__ import annotations

import json
import subprocess
import sys

from server import ROOT, environment


def test_the_benchmark_runs(tmp_path):
    out = tmp_path / "comfyui.json"
    command = [sys.executable, "-m", "lab.speed.comfyui", "--quick", "--out", out]
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(),
        cwd=ROOT,
    )
    assert out.is_file(), done.stderr[-3000:]
    text = json.dumps(json.loads(out.read_text()))
    assert "calls per step" in text
    assert "first step" in text
