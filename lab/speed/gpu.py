"""What learning and drawing cost on a GPU: time, and memory at its peak.

    python -m lab.speed.gpu [--out FILE]                 on a GPU, within 8 minutes
    python -m lab.speed.gpu --quick --device cpu         tiny models: only shows that it runs

SD 1.5 at 512 px and SDXL at 1024 px, random weights of the real sizes (made first, 9 GB in a
temporary folder), bf16. Every row is a process of its own, so its time counts from the start of
Python to the concept in its bank. Rows that there is no time left for are named as not run; the
report is written after every row. Without a CUDA device nothing is run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import disk_usage

import torch

from .measure import parse, target, verdict, write

ROOT = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).with_name("gpu_inside.py")
MAKE = ROOT / "tests" / "tools" / "make_checkpoint.py"
_TIMING = "wall seconds; a step is the median of all but the first five"
_DISK_GB = 12  # both models, banks, and room to breathe
_RESERVE_S = 20.0  # for the process to end and the report to be written
_GRACE_S = 20.0  # a row is asked to stop this long before it is ended, or a quarter of its time


@dataclass(frozen=True)
class Row:
    """One process.

    Attributes:
        name: What it is called in the report.
        family: "SD15" or "SDXL".
        px: Side of photos and pictures.
        steps: Of learning, or of drawing.
        needs: Seconds that are kept for it; it may take what those before have left over.
        checkpointing: Recompute activations.
        draws: With the concept of that row, instead of learning.
    """

    name: str
    family: str
    px: int
    steps: int
    needs: float
    checkpointing: bool = False
    draws: str = ""


SMALL, LARGE = "SD15 learns", "SDXL learns, checkpointing"
ROWS = (  # what matters most first
    Row(SMALL, "SD15", 512, 800, 90),
    Row(LARGE, "SDXL", 1024, 800, 150, checkpointing=True),
    Row("SD15 learns, checkpointing", "SD15", 512, 30, 30, checkpointing=True),
    Row("SDXL learns", "SDXL", 1024, 30, 45),
    Row("SD15 draws", "SD15", 512, 20, 25, draws=SMALL),
    Row("SDXL draws", "SDXL", 1024, 20, 35, draws=LARGE),
)
PRESETS = {"SD15": "full", "SDXL": "sdxl-full"}
TINY = {"SD15": "tiny", "SDXL": "sdxl-tiny"}


def environment() -> dict[str, str]:
    """This checkout goes before what is installed."""
    before = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), before])}


def make_models(folder: Path, presets: dict[str, str], seconds: float) -> dict[str, Path]:
    """A checkpoint of random weights for each family, all made at once."""
    paths = {
        family: folder / family / f"{preset}.safetensors" for family, preset in presets.items()
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(MAKE), str(path), "--preset", presets[family]], env=environment()
        )
        for family, path in paths.items()
    ]
    try:
        if any(process.wait(timeout=seconds) for process in started):
            raise SystemExit("The models could not be made; see above.")
    except subprocess.TimeoutExpired as error:
        raise SystemExit("Making the models took all of the time. Give more --minutes.") from error
    finally:
        for process in started:
            process.kill()
    return paths


def measured(
    row: Row, model: Path, bank: Path, options: argparse.Namespace, allowed: float
) -> dict:
    """What a process of its own says of itself, and how long it took; or what went wrong."""
    if allowed < row.needs / 2:
        return {"not_run": "no time was left"}
    told = {**asdict(row), "model": str(model), "bank": str(bank), "device": options.device}
    told |= {"seconds": allowed - min(_GRACE_S, allowed / 4), "dtype": options.dtype}
    command = [sys.executable, str(INSIDE), json.dumps(told)]
    started = time.perf_counter()
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, env=environment(), timeout=allowed
        )
    except subprocess.TimeoutExpired:
        return {"not_run": f"ended after {allowed:.0f} s"}
    seconds = time.perf_counter() - started
    if run.returncode:
        return {"failed": run.stderr.strip().splitlines()[-1:], "stderr": run.stderr[-3000:]}
    return {"process_seconds": seconds, **json.loads(run.stdout.strip().splitlines()[-1])}


def targets_of(rows: dict[str, dict]) -> list[dict[str, object]]:
    """The bars that were set beforehand: memory of any steps, time of all of them."""
    small, large = rows.get(SMALL, {}), rows.get(LARGE, {})
    found = []
    if small.get("steps") == ROWS[0].steps:
        what = "SD 1.5, 800 steps, seconds from cold process to saved file (H200)"
        found.append(target(what, small["process_seconds"], 60))
    if small.get("steps"):
        found.append(target("SD 1.5 at 512 px, GB at its peak", small["peak_gb"], 5))
    if large.get("steps"):
        what = "SDXL at 1024 px, checkpointing, GB at its peak"
        found.append(target(what, large["peak_gb"], 12))
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="default cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all; default 8")
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp16", "fp32"))
    options, command = parse(parser, argv, rounds=False)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("not run: there is no CUDA device")
        return
    end = time.perf_counter() + 60 * options.minutes - _RESERVE_S
    rows = [replace(row, px=64, steps=2) for row in ROWS] if options.quick else ROWS
    with tempfile.TemporaryDirectory() as folder:
        if not options.quick and disk_usage(folder).free < _DISK_GB * 1e9:
            raise SystemExit(f"{folder} has less than {_DISK_GB} GB free. Set TMPDIR elsewhere.")
        report(options, command, rows, Path(folder), end)


def report(
    options: argparse.Namespace, command: str, rows: list[Row], folder: Path, end: float
) -> None:
    started = time.perf_counter()
    models = make_models(folder, TINY if options.quick else PRESETS, end - started)
    facts = {"making_models_seconds": time.perf_counter() - started, "gpu": gpu(options.device)}
    found: dict[str, dict] = {}
    targets: list[dict[str, object]] = []
    for row in rows:
        # Only what learns whole leaves its concept for the drawing.
        bank = folder / row.family / ("bank" if not row.checkpointing else "checkpointing")
        if row.family == "SDXL" and not row.draws:
            bank = folder / row.family / ("bank" if row.checkpointing else "plain")
        found[row.name] = measured(
            row, models[row.family], bank, options, end - time.perf_counter()
        )
        print(f"{row.name}: {json.dumps(found[row.name])}", flush=True)
        targets = [] if options.quick else targets_of(found)
        body = {"timing": _TIMING, "facts": facts, "targets": targets, "results": found}
        write(options.out, "gpu", command, body)
    print(verdict(targets))


def gpu(device: str) -> dict[str, object]:
    """What the times depend on."""
    if not device.startswith("cuda"):
        return {"device": device}
    held = torch.cuda.get_device_properties(device)
    return {"device": held.name, "memory_gb": held.total_memory / 1e9, "cuda": torch.version.cuda}


if __name__ == "__main__":
    main()
