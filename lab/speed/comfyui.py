"""What an applied bank costs inside ComfyUI: per UNet call, per region, and before the first step.

    python -m lab.speed.comfyui [--rounds N] [--out FILE] [--quick]

Needs a ComfyUI checkout (COMFYUI_PATH, default ~/ComfyUI) with a python of its own
(COMFYUI_PYTHON, default its .venv). The UNet has SD 1.5's blocks and random weights, latents of
16 x 16, fp32. Variants take turns; the figure is the smallest CPU time of all rounds.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

from .measure import as_table, parse, summary, target, verdict, write

INSIDE = Path(__file__).resolve().with_name("comfyui_inside.py")
COMFY = Path(os.environ.get("COMFYUI_PATH", "~/ComfyUI")).expanduser()
PYTHON = Path(os.environ.get("COMFYUI_PYTHON", COMFY / ".venv/bin/python")).expanduser()
_TIMING = "CPU seconds (time.process_time), one thread, variants interleaved, minimum of all rounds"
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import comfy.options; "
    "comfy.options.enable_args_parsing(False); from comfy.cli_args import args; args.cpu = True; "
    "import runpy; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def measured(options: dict, inside: Path = INSIDE) -> dict:
    """Run the inner half in ComfyUI's python."""
    command = [PYTHON, "-c", _START, COMFY, inside, json.dumps(options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment
    )
    if run.returncode:
        raise SystemExit(run.stderr[-3000:])
    return json.loads(run.stdout.strip().splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="comfyui", description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=320, help="channels of the first level")
    options, command = parse(parser, argv)
    if not (COMFY / "main.py").is_file() or not PYTHON.is_file():
        raise SystemExit(f"No ComfyUI at {COMFY} with {PYTHON}. Set COMFYUI_PATH, COMFYUI_PYTHON.")
    found = measured(
        {
            "width": 32 if options.quick else options.width,
            "size": 8 if options.quick else 16,
            "rounds": options.rounds,
            "concepts": [1, 3] if options.quick else [1, 10, 100],
            "regions": [1, 2] if options.quick else [1, 2, 3, 4],
            "banks": [2, 10] if options.quick else [10, 1000],
        }
    )
    few, many = found["first_step"]
    rows = {
        "UNet call, two rows": summary(found["calls"], "bare"),
        "UNet call with regions": summary(found["regions"], next(iter(found["regions"]))),
        "to the first step": summary(found["first_step"], few),
    }
    for name, row in rows.items():
        print(as_table(name, row, next(iter(row))), end="\n\n")
    print(f"{json.dumps(found['rows'], indent=1)}\n")
    targets = [
        target(f"{name} beside the bare model", row["ratio"], 1.10)
        for name, row in rows["UNet call, two rows"].items()
        if name in ("1 concepts", "10 concepts")
    ]
    streams = rows["UNet call, two rows"]["two streams"]["ratio"]
    targets.append(target("two streams beside the bare model", streams, 1.55))
    for name, row in found["rows"].items():
        if name.endswith("regions"):
            wanted = int(name.split()[0]) + 2
            targets.append(target(f"UNet rows per step, {name}", row["rows"], wanted))
            targets.append(target(f"UNet calls per step, {name}", row["calls per step"], 1))
    targets.append(
        target(
            f"time to the end of the first step, bank of {many} beside {few}",
            rows["to the first step"][many]["ratio"],
            1.2,
        )
    )
    print(verdict(targets))
    body = {"timing": _TIMING, "rounds": options.rounds, "targets": targets, "rows": found["rows"]}
    raw = {key: found[key] for key in ("calls", "regions", "first_step")}
    write(options.out, "comfyui", command, {**body, "results": rows, "raw_seconds": raw})


if __name__ == "__main__":
    main()
