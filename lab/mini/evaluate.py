"""Measure mini-sd or mini-sdxl on held-out captions: `python -m lab.mini.evaluate --n 300`."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

from .held_out import HELD_OUT_LOOKS, HELD_OUT_PAIRS
from .model import Denoiser, token_ids
from .models import MODELS
from .probe import COLOR_WORDS, Probe, load_probe
from .views import WHOLE

GUIDANCE = 4.0
SAMPLING_STEPS = 25
_ORIGINAL_SIZES = (12, 16, 22, 32, 64)
ColoredKind = tuple[str, str]


@dataclass(frozen=True)
class Loaded:
    """The loaded parts of an embedded model, in float32."""

    vae: AutoencoderKL
    denoiser: Denoiser
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler


def load_mini(name: str = "mini-sd", folder: Path | None = None) -> Loaded:
    """Load an embedded model's diffusers folder, by default the package's own, for evaluation."""
    folder = folder or MODELS[name].folder
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    denoiser = MODELS[name].load(folder)
    return Loaded(vae, denoiser, tokenizer, cast(DDIMScheduler, scheduler))


@torch.no_grad()
def draw_prompts(
    model: Loaded,
    prompts: list[str],
    seed: int,
    steps: int = SAMPLING_STEPS,
    guidance: float = GUIDANCE,
    sampler: str = "dpm",
    sizes: tuple[int, ...] = WHOLE,
) -> Tensor:
    """Draw one picture per prompt, shape (N, 3, 32, 32) in [-1, 1], by classifier-free guidance.

    `sizes` are what a model of SDXL's kind is told: original size, crop corner, target size.
    """
    kinds = {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}
    scheduler: Any = kinds[sampler].from_config(model.scheduler.config)
    scheduler.set_timesteps(steps)
    ids = torch.cat(
        [token_ids(model.tokenizer, [""] * len(prompts)), token_ids(model.tokenizer, prompts)]
    )
    texts = model.denoiser.read(ids, torch.tensor([sizes] * len(ids), dtype=torch.float32))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((len(prompts), 8, 8, 8), generator=generator)
    for t in scheduler.timesteps:
        empty, asked = model.denoiser.unet(torch.cat([x, x]), t, **texts).sample.chunk(2)
        x = scheduler.step(empty + guidance * (asked - empty), t, x).prev_sample
    return model.vae.decode(x).sample.clamp(-1, 1)  # type: ignore[union-attr]


@torch.no_grad()
def sharpness(
    model: Loaded, prompts: list[str], seed: int, original: int, steps: int = SAMPLING_STEPS
) -> float:
    """Return the mean squared step between neighbouring pixels of pictures told a size."""
    x = draw_prompts(model, prompts, seed, steps, sizes=(original, original, *WHOLE[2:]))
    return float((x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()) / 2)


def _named(color: str, kind: str) -> str:
    return f"{'an' if color[0] in 'aeiou' else 'a'} {color} {kind}"


def held_out_prompts(count: int, things: int, seed: int) -> list[tuple[str, list[ColoredKind]]]:
    """Return (caption, things in it); things in a pair are named from left to right."""
    rng = random.Random(seed)
    looks, pairs = sorted(HELD_OUT_LOOKS), sorted(tuple(sorted(pair)) for pair in HELD_OUT_PAIRS)
    prompts: list[tuple[str, list[ColoredKind]]] = []
    for index in range(count):
        if things == 1:
            color, kind = looks[index % len(looks)]
            prompts.append((_named(color, kind), [(color, kind)]))
            continue
        left, right = rng.sample(pairs[index % len(pairs)], 2)
        colors = rng.sample(COLOR_WORDS, 2)
        named = list(zip(colors, (left, right), strict=True))
        text = f"{_named(*named[0])} on the left and {_named(*named[1])} on the right"
        prompts.append((text, named))
    return prompts


def to_images(x: Tensor) -> list[Image.Image]:
    """Turn pictures (N, 3, H, W) in [-1, 1] into RGB images."""
    array = ((x + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in array]


def score(
    model: Loaded,
    probe: Probe,
    prompts: list[tuple[str, list[ColoredKind]]],
    args: argparse.Namespace,
) -> tuple[dict[str, float], list[Image.Image]]:
    """Return the shares of right things and of wholly right pictures, and the pictures."""
    images: list[Image.Image] = []
    right_things = right_kinds = right_pictures = 0
    for start in range(0, len(prompts), 50):
        part = prompts[start : start + 50]
        x = draw_prompts(
            model, [p[0] for p in part], args.seed + start, args.steps, args.guidance, args.sampler
        )
        images += to_images(x)
        for (_, truth), seen in zip(part, probe.read(x, len(part[0][1])), strict=True):
            right_things += sum(a == b for a, b in zip(truth, seen, strict=True))
            right_kinds += sum(a[1] == b[1] for a, b in zip(truth, seen, strict=True))
            right_pictures += truth == seen
    things = sum(len(truth) for _, truth in prompts)
    shares = {
        "pictures": round(right_pictures / len(prompts), 4),
        "things": round(right_things / things, 4),
        "kinds": round(right_kinds / things, 4),
    }
    return shares, images


_SHOWN = (
    "a purple cat", "a cat on the left, green background", "a house on grass", "a boat in the sea",
    "a red car on the beach", "a photo of a dog in the snow", "a mushroom in the jungle",
    "a yellow star at night", "a small pink heart at the top", "a striped blue fish in the water",
    "a spotted cup, yellow background", "a checked ball on the right, white background",
    "a watercolor painting of a flower", "a neon picture of a cat", "a pencil sketch of a house",
    "a sepia photo of a dog", "a duotone print of a boat", "a pastel painting of a mushroom",
    "a poster of a car", "a cat and a dog", "a red cat next to a blue house on grass",
    "a two-tone orange star and a green flower at night", "a dog", "",
)  # fmt: skip


def _sharpness(model: Loaded, args: argparse.Namespace) -> dict[str, float]:
    prompts = [text for text, _ in held_out_prompts(50, 1, args.seed)]
    return {
        str(side): round(sharpness(model, prompts, args.seed, side), 4) for side in _ORIGINAL_SIZES
    }


_COMMAND = "python -m lab.mini.evaluate"


def _tiled(images: list[Image.Image], columns: int, scale: int = 4) -> Image.Image:
    """Equally sized pictures on one sheet, each pixel drawn `scale` times larger."""
    side = images[0].width * scale
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + 4)), "white")
    for index, image in enumerate(images):
        place = (index % columns * (side + 4) + 2, index // columns * (side + 4) + 2)
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), place)
    return sheet


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=_COMMAND, description="Measure how well mini-sd or mini-sdxl draws held-out captions."
    )
    parser.add_argument("--n", type=int, default=300, help="pictures per question")
    parser.add_argument("--model", default="mini-sd", choices=tuple(MODELS))
    parser.add_argument("--folder", type=Path, help="where it lies; default: in the package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=SAMPLING_STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--sampler", choices=("ddim", "dpm"), default="dpm")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet here")
    parser.add_argument(
        "--save", action="store_true", help="write EVALUATION.json into the model folder"
    )
    args = parser.parse_args(given)
    args.folder = args.folder or MODELS[args.model].folder
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, report and draw."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = _arguments(given)
    model, probe = load_mini(args.model, args.folder), load_probe()
    report: dict[str, object] = {"n": args.n, "guidance": args.guidance, "steps": args.steps}
    report |= {"sampler": args.sampler, "seed": args.seed}
    shown = to_images(
        draw_prompts(model, list(_SHOWN), args.seed, args.steps, args.guidance, args.sampler)
    )
    for things, name in ((1, "one_object"), (2, "two_objects")):
        started = time.monotonic()
        shares, images = score(model, probe, held_out_prompts(args.n, things, args.seed), args)
        shown += images[:24] if things == 1 else images[:48]
        report[name] = shares
        report["seconds_per_picture"] = round((time.monotonic() - started) / args.n, 3)
    if MODELS[args.model].reads_sizes:
        report["sharpness_by_original_size"] = _sharpness(model, args)
    report["command"] = " ".join([_COMMAND, *given])
    text = json.dumps(report, indent=2)
    sys.stdout.write(text + "\n")
    if args.save:
        (args.folder / "EVALUATION.json").write_text(text + "\n")
    if args.sheet:
        _tiled(shown, columns=12).save(args.sheet)


if __name__ == "__main__":
    main()
