"""SDXL at its real size on a CPU, through the doors that people use: does it run, in what memory?

    python -m lab.speed.full_size --model FILE --photos DIR [--comfyui] [--out FILE]

FILE: `python tests/tools/make_checkpoint.py FILE --preset sdxl-full` (random weights, 7 GB). Learns
two steps at 256 px from DIR and draws one picture of 256 px with two regions: by `cidm`, or with
--comfyui by the nodes of a ComfyUI that is started for it. Wall seconds and the largest resident
memory of each; weights that are read from the file count to it while they are mapped.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .measure import parse, write

WORDS, PX, STEPS = "<dog1> <dog2>", 256, 2
PROMPT = f"a {WORDS} and a cat in a garden"
BOXES = {(0, 0, 0.5, 1): f"a {WORDS}", (0.5, 0, 1, 1): "a cat"}


def by_commands(model: Path, photos: Path, out: Path) -> dict[str, dict[str, float]]:
    """`cidm train` and `cidm generate`, each a process of its own."""
    shared = ["--model", model, "--device", "cpu", "--dtype", "bf16", "--bank", out / "bank"]
    learn = [*shared, "--photos", photos, "--words", WORDS, "--class-words", "dog"]
    learn += ["--steps", STEPS, "--resolution-px", PX, "--variants", 1]
    draw = [*shared, "--prompt", PROMPT, "--width-px", PX, "--height-px", PX, "--steps", STEPS]
    for box, prompt in BOXES.items():
        draw += ["--region", f"{','.join(map(str, box))}:{prompt}"]
    return {
        "learn": watched("train", *learn),
        "draw": watched("generate", *draw, "--out", out / "two.png"),
    }


def watched(*words: object) -> dict[str, float]:
    """Seconds and gigabytes of a `cidm` command."""
    start = time.monotonic()
    command = [sys.executable, "-m", "cidm_core", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed.")
    spent = {"wall_s": time.monotonic() - start, "cpu_s": usage.ru_utime + usage.ru_stime}
    return {k: round(v, 1) for k, v in spent.items()} | {"peak_gb": round(usage.ru_maxrss / 1e6, 1)}


def by_nodes(model: Path, photos: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Train Concept, then Apply Concept Bank and the Regional Noise Guider, in one ComfyUI."""
    from tests.host.server import Server, link

    server = Server(folder, "--bf16-unet")
    link(folder / "models" / "checkpoints" / model.name, model)
    shutil.copytree(photos, folder / "input" / "dog")
    server.wait()
    found = {}
    for name, prompt in (("learn", learning(model.name)), ("draw", drawing(model.name))):
        start = time.monotonic()
        result = server.run(prompt, timeout=3600)
        if result.status != "success":
            raise SystemExit(f"{name}: {result.error}\n{server.log_text()[-3000:]}")
        status = Path(f"/proc/{server.pid}/status").read_text()
        (peak,) = re.findall(r"VmHWM:\s+(\d+)", status)
        found[name] = {"wall_s": round(time.monotonic() - start, 1)}
        found[name]["peak_gb"] = round(int(peak) / 1e6, 1)
    server.stop()
    return found


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def learning(model: str) -> dict[str, Any]:
    sizes = {"resolution_px": PX, "variants": 1, "precision": "bf16", "save_every": 0}
    parts = {"model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2], "bank": ["bank", 0]}
    what = {"words": WORDS, "class_words": "dog", "kind": "object", "name": "dog"}
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name=model),
        "bank": node("CIDM_LoadConceptBank", bank="(new bank)", new_name="full"),
        "method": node("CIDM_MethodCidm", **sizes, preview_every=0),
        "train": node(
            "CIDM_TrainConcept",
            **parts,
            **what,
            photo_folder="dog",
            method=["method", 0],
            preset="Low VRAM",
            steps=STEPS,
        ),
    }


def drawing(model: str) -> dict[str, Any]:
    lines = "\n".join(f"{','.join(map(str, box))}: {text}" for box, text in BOXES.items())
    size = {"picture_width": PX, "picture_height": PX}
    texts = {"positive": ["positive", 0], "negative": ["negative", 0]}
    steps = {"scheduler": "normal", "steps": STEPS, "denoise": 1.0}
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name=model),
        "bank": node("CIDM_LoadConceptBank", bank="full", new_name=""),
        "apply": node(
            "CIDM_ApplyConceptBank", model=["load", 0], clip=["load", 1], bank=["bank", 0]
        ),
        "positive": node("CLIPTextEncode", clip=["apply", 1], text=PROMPT),
        "negative": node("CLIPTextEncode", clip=["apply", 1], text=""),
        "regions": node("CIDM_ConceptRegions", clip=["apply", 1], prompts=lines, **size),
        "guider": node(
            "CIDM_RegionalNoiseGuider", model=["apply", 0], regions=["regions", 0], cfg=5.0, **texts
        ),
        "noise": node("RandomNoise", noise_seed=1),
        "method": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["apply", 0], **steps),
        "latent": node("EmptyLatentImage", width=PX, height=PX, batch_size=1),
        "sampler": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["method", 0],
            sigmas=["sigmas", 0],
            latent_image=["latent", 0],
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="two"),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="full_size", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="an SDXL checkpoint")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos of a dog")
    parser.add_argument("--comfyui", action="store_true", help="by nodes instead of commands")
    options, command = parse(parser, argv, rounds=False)
    with tempfile.TemporaryDirectory() as folder:
        run = by_nodes if options.comfyui else by_commands
        found = run(options.model.resolve(), options.photos.resolve(), Path(folder))
    for name, row in found.items():
        print(name, row, flush=True)
    write(options.out, "full_size", command, {"timing": "wall seconds, once", "results": found})


if __name__ == "__main__":
    main()
