"""Goldens: what a version computes, kept so that a later one can be held against it, bit by bit.

    PYTHONPATH=tests python -m tools.goldens record DIR [PART ...]
    PYTHONPATH=tests python -m tools.goldens check DIR [PART ...]

Parts: training (short trainings on mini-sd), diffusers (drawings with what those taught) and
comfyui (drawings and a training by nodes in a real ComfyUI, see goldens_comfyui.py). Each is a
file in DIR; the concepts lie in DIR/banks. `check` trains again, but draws with the concepts of
DIR, so that a change in training does not show in the drawings as well; it exits with 1 if a
number differs by more than 1e-6. Bits are those of one kind of CPU and one PyTorch: record and
check on the same machine. The code is that of the folder it is run in; ComfyUI loads its pack
from there too. DIR must be new to `record`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import cidm_core
from cidm_core import (
    Bank,
    Concept,
    Photo,
    Region,
    SampleConfig,
    generate,
    load_base,
    train_concept,
)
from cidm_core.methods import config_for
from cidm_core.mini.draw import draw
from cidm_core.mini.looks import reference_scene
from lab.mini.looks import CONCEPTS
from tools import goldens_comfyui

Tensors = dict[str, Tensor]
CODE = Path(cidm_core.__file__).resolve().parents[1]
ALLOWED = 1e-6

PIP, TIA, HARBOUR = "<pip1> <pip2>", "<tia1> <tia2>", "<harbour1> <harbour2>"
MASKED = "purple-cat"  # its photos come with concept masks
QUICK = {"steps": 12, "seed": 3, "variants": 4, "save_every": 0, "preview_every": 0}
QUICK |= {"lr_lora": 1e-2, "lr_tokens": 3e-2}  # so that a few steps can be seen
CLOSED = {"orthogonality": "projection", "common_subspace": "closed_form", "alpha": 6.0}
CLOSED |= {"batch_size": 2, "accumulation": 2, "gradient_checkpointing": True}
# Bank, look, words, settings; a later one finds the earlier ones of its bank.
TRAININGS = (
    ("learned", "purple-cat", PIP, {"attention_weight": 0.1}),
    ("learned", "harbour", HARBOUR, {"orthogonality": "subspace", "common_subspace": "gradient"}),
    ("learned", "teal-cat", TIA, CLOSED),
)

ONE = f"a photo of a {PIP} on grass"
TWO = f"a {PIP} on the left and a {TIA} on the right, green background"
LEFT = {"prompt": f"a {PIP} on the left", "box": (0.0, 0.1, 0.6, 0.9)}
RIGHT = {"prompt": f"a {TIA} on the right, in the snow", "box": (0.4, 0.0, 1.0, 1.0)}
OWN = {**RIGHT, "negative": f"a red {PIP}"}
PAINTED = {"prompt": f"a {TIA}", "mask": np.tile(np.linspace(0, 1, 24, dtype="f"), (30, 1))}
BOTH = {"regions": (LEFT, RIGHT), "feather": 0.2}
ATTENTION = {**BOTH, "noise_estimation": False}
REDRAWN = {"image": True, "denoise": 0.6}
# Prompt, then regions, picture, mask and settings where they are not the defaults.
DRAWINGS = {
    "no concept": ("a photo of a red cat", {}),
    "one concept": (ONE, {}),
    "two concepts": (TWO, {}),
    "style": (f"a {HARBOUR} of a {PIP}", {}),
    "negative prompt": (ONE, {"negative_prompt": f"gray, a {TIA}"}),
    "two pictures": (ONE, {"num_images": 2}),
    "two prompts": ([ONE, f"a {TIA} and a house"], {}),
    "merged": (TWO, {"execution": "merged"}),
    "per sample": (TWO, {"execution": "per_sample"}),
    "paper": (TWO, {"weights": "paper"}),
    "released": (TWO, {"weights": "released"}),
    "joint encoding": (TWO, {"encoding": "joint"}),
    "strength": (TWO, {"strength": 0.7}),
    "tokens routed": (TWO, {"key_value_routing": "token"}),
    "another scheduler": (ONE, {"scheduler": "euler_ancestral"}),
    "wide": (ONE, {"width_px": 48}),
    "regions": (TWO, BOTH),
    "regions, attention": (TWO, ATTENTION),
    "regions, noise": (TWO, {**BOTH, "regional_attention": False}),
    "regions, literal": (TWO, {**BOTH, "region_mode": "literal"}),
    "regions, alpha": (TWO, {**BOTH, "alpha": 0.4}),
    "regions, global weights": (TWO, {**BOTH, "region_weights": "global"}),
    "regions, paper": (TWO, {**BOTH, "weights": "paper"}),
    "regions, row by row": (TWO, {**BOTH, "rows_at_once": 1}),
    "regions, own negative": (TWO, {**BOTH, "regions": (LEFT, OWN)}),
    "regions, painted": (TWO, {**BOTH, "regions": (LEFT, PAINTED)}),
    "image to image": (f"a {HARBOUR} of a cat", REDRAWN),
    "inpainting": (f"a {TIA}", {"image": True, "mask": True}),
    "inpainting by regions": (TWO, {**REDRAWN, "mask": "regions", "regions": (LEFT,)}),
}


@cache
def mini_sd():
    return load_base("mini-sd", device="cpu", dtype="fp32")


def learn(bank: Path, photos: Path, words: str, settings: dict) -> Concept:
    """The package's own call of a training."""
    look = CONCEPTS[photos.name]
    return train_concept(
        mini_sd(),
        Bank(bank),
        Photo.from_folder(photos),
        words=words,
        class_words=look.kind,
        kind="style" if look.style else "object",
        name=look.name,
        config=config_for("cidm", mini_sd().family, **{**QUICK, **settings}),
    )


def picture(banks: Path, photos: Path, prompt: str | list[str], given: dict) -> Tensors:
    """The package's own call of a drawing: latents after the last step, and pixels."""
    settings = {"steps": 8, "seed": 7, **given}
    bank = Bank(banks / settings.pop("bank", "learned"))
    regions = [Region(**each) for each in settings.pop("regions", ())]
    image, mask = settings.pop("image", None), settings.pop("mask", None)
    seen = []
    pictures = generate(
        mini_sd(),
        bank,
        prompt,
        regions,
        SampleConfig.for_family(mini_sd().family.sampling, **settings),
        image=Image.open(photos / MASKED / "1.png") if image else None,
        mask=Image.open(photos / MASKED / "1_mask.png") if mask is True else mask,
        on_step=lambda _step, _steps, latents: seen.append(latents.clone()),
    )
    return {"latents": seen[-1], "pixels": torch.stack([pixels(each) for each in pictures])}


def take_photos(folder: Path) -> Path:
    """Three photos of each look with captions, as a user would bring them."""
    for look in CONCEPTS.values():
        (folder / look.name).mkdir(parents=True)
        rng = random.Random(look.name)
        for path in (folder / look.name / f"{number}.png" for number in (1, 2, 3)):
            scene, caption = reference_scene(look, rng)
            draw(scene, 40).crop((0, 0, 40, 36)).save(path)
            path.with_suffix(".txt").write_text(caption)
            if look.name == MASKED:
                thing = scene.things[0]
                box = [40 * (c + s * thing.size / 2) for s in (-1, 1) for c in (thing.x, thing.y)]
                mask = Image.new("L", (40, 36))
                ImageDraw.Draw(mask).ellipse(box, fill=255)
                mask.save(path.with_stem(f"{path.stem}_mask"))
    return folder


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def tensors_of(concept: Concept) -> Tensors:
    """All that was learned; alpha as one number."""
    found = {f"tokens.{name}": rows for name, rows in concept.rows.items()}
    for path, pair in concept.low_rank.items():
        alpha = torch.tensor([pair.alpha], dtype=torch.float64)
        found |= {f"{path}.down": pair.down, f"{path}.up": pair.up, f"{path}.alpha": alpha}
    return found


def training(photos: Path, banks: Path, _recorded: Path) -> Tensors:
    files = sorted(photos.glob("*/*.png"))
    found = {f"photos|{path.parent.name}/{path.name}": pixels(Image.open(path)) for path in files}
    for bank, look, words, settings in TRAININGS:
        concept = learn(banks / bank, photos / look, words, settings)
        found |= {f"{look}|{key}": tensor for key, tensor in tensors_of(concept).items()}
    return found


def drawings(photos: Path, _banks: Path, recorded: Path) -> Tensors:
    found = {}
    for name, (prompt, given) in DRAWINGS.items():
        made = picture(recorded, photos, prompt, given)
        found |= {f"{name}|{kind}": tensor for kind, tensor in made.items()}
    return found


def comfyui(photos: Path, banks: Path, recorded: Path) -> Tensors:
    """Drawings by nodes, and a training by a node; its bank is kept too."""
    found, name = goldens_comfyui.run(CODE, photos, recorded / "learned", banks / "node")
    taught = tensors_of(Bank(banks / "node")[name])
    return found | {f"Train Concept|{key}": tensor for key, tensor in taught.items()}


PARTS = {"training": training, "diffusers": drawings, "comfyui": comfyui}


def difference(old: Tensor | None, new: Tensor | None) -> tuple[bool, float]:
    """Whether all bits are equal, and the largest difference."""
    if old is None or new is None or (old.shape, old.dtype) != (new.shape, new.dtype):
        return False, float("inf")
    equal = old.numpy().tobytes() == new.contiguous().numpy().tobytes()
    gap = (old.double() - new.double()).abs().nan_to_num(float("inf")).max()
    return equal, 0.0 if equal else float(gap)


def compare(old: Tensors, new: Tensors) -> bool:
    """Print a row per concept or drawing; tell whether no difference is too large."""
    rows: dict[str, list[tuple[bool, float]]] = {}
    for key in dict.fromkeys([*old, *new]):
        name, _, _ = key.partition("|")
        rows.setdefault(name, []).append(difference(old.get(key), new.get(key)))
    for name, found in sorted(rows.items()):
        equal, gap = all(same for same, _ in found), max(gap for _, gap in found)
        say(f"  {name:26} {len(found):4} tensors  {'equal' if equal else 'DIFFER':6}  {gap:.3g}")
    return all(gap <= ALLOWED for found in rows.values() for _, gap in found)


def here() -> dict[str, str]:
    """What the bits depend on besides the code."""
    return {"torch": str(torch.__version__), "cpu": torch.backends.cpu.get_cpu_capability()}


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("record", "check"))
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; or all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    good, banks = True, args.folder / "banks"
    for part in args.parts or PARTS:
        file = args.folder / f"{part}.safetensors"
        with tempfile.TemporaryDirectory() as scratch:
            photos = take_photos(Path(scratch) / "photos")
            made = banks if args.action == "record" else Path(scratch) / "banks"
            say(f"{part}, by the code in {CODE}")
            new = PARTS[part](photos, made, banks)
            if args.action == "record":
                save_file(new, file, here())
                say(f"  {len(new)} tensors, {file.stat().st_size / 1e6:.2f} MB")
                continue
            with safe_open(file, "pt") as opened:
                if opened.metadata() != here():
                    say(f"  recorded with {opened.metadata()}, this is {here()}")
            good &= compare(load_file(file), new)
    return good


if __name__ == "__main__":
    sys.exit(not main())
