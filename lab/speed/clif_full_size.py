"""CLIF at SDXL's real size on a CPU, with CLIP ViT-L/14's: does it run, in what memory?

    python -m lab.speed.clif_full_size --model FILE --subjects JSON [--out FILE]

FILE: `python tests/tools/make_checkpoint.py FILE --preset sdxl-full` (random weights, 7 GB). JSON
names photos with masks, words and class words, as `cidm train --subjects` takes it. A CLIP of
random weights is made; the small world's things are the common ones. By `cidm`: two steps of each
stage at 256 px, and a picture of all subjects. Wall seconds and the largest resident memory of
each; weights that are read from the file count to it while they are mapped.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from cidm_core.mini.common_things import drawn_things

from .full_size import PX, STEPS, watched
from .measure import parse, write

SUMMARY = "CLIF at SDXL's real size on a CPU, with CLIP ViT-L/14's."
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
}
COUNTS = {"global-pairs": 4, "region-pairs": 2, "meeting-pairs": 2, "contrast-batch": 32}
ONCE = {"batch-size": 1, "accumulation": 1, "variants": 1, "resolution-px": PX}
NAME = "all"


def random_clip(folder: Path, tokenizer: Path) -> Path:
    """A folder of ViT-L/14's shapes."""
    torch.manual_seed(0)
    shapes = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=768)
    CLIPModel(shapes).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer / name, folder)
    return folder


def common_folder(folder: Path) -> Path:
    """The small world's things as files: "a red ball.png"."""
    folder.mkdir()
    for thing in drawn_things():
        thing.picture.save(folder / f"{thing.label}.png")
    return folder


def by_commands(model: Path, subjects: Path, out: Path) -> dict[str, dict[str, float]]:
    """`cidm train` and `cidm generate`, each a process of its own."""
    shared = ["--model", model, "--device", "cpu", "--dtype", "bf16", "--bank", out / "bank"]
    learn = [*shared, "--method", "clif", "--subjects", subjects, "--name", NAME]
    learn += ["--clip", random_clip(out / "clip", model.parent / "tokenizer")]
    learn += ["--common", common_folder(out / "common"), "--gradient-checkpointing"]
    for flag, number in {**COUNTS, **ONCE}.items():
        learn += [f"--{flag}", number]
    learn += ["--contrast-steps", STEPS, "--word-steps", STEPS, "--steps", STEPS]
    found = {"learn": watched("train", *learn)}
    phrases = [row["words"] for row in json.loads(subjects.read_text("utf-8"))]
    draw = [*shared, "--prompt", " and ".join(f"a {phrase}" for phrase in phrases)]
    draw += ["--width-px", PX, "--height-px", PX, "--steps", STEPS, "--out", out / "all.png"]
    return found | {"draw": watched("generate", *draw)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="clif_full_size", description=SUMMARY)
    parser.add_argument("--model", type=Path, required=True, help="an SDXL checkpoint")
    parser.add_argument("--subjects", type=Path, required=True, help="as `cidm train` takes it")
    options, command = parse(parser, argv, rounds=False)
    with tempfile.TemporaryDirectory() as folder:
        found = by_commands(options.model.resolve(), options.subjects.resolve(), Path(folder))
    for name, row in found.items():
        print(name, row, flush=True)
    write(
        options.out, "clif_full_size", command, {"timing": "wall seconds, once", "results": found}
    )


if __name__ == "__main__":
    main()
