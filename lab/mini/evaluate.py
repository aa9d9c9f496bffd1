"""Measure mini-sd on held-out captions: `python -m lab.mini.evaluate --n 300`."""

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
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .held_out import HELD_OUT_LOOKS, HELD_OUT_PAIRS
from .model import MINI_SD_FOLDER, Denoiser, token_ids
from .probe import COLOR_WORDS, Probe, load_probe

GUIDANCE = 4.0
SAMPLING_STEPS = 25
ColoredKind = tuple[str, str]


@dataclass(frozen=True)
class MiniSd:
    """The loaded parts of mini-sd, in float32."""

    vae: AutoencoderKL
    denoiser: Denoiser
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler


def load_mini_sd(folder: Path = MINI_SD_FOLDER) -> MiniSd:
    """Load the diffusers folder for evaluation."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    return MiniSd(vae, Denoiser(unet, text), tokenizer, cast(DDIMScheduler, scheduler))


@torch.no_grad()
def draw_prompts(
    model: MiniSd,
    prompts: list[str],
    seed: int,
    steps: int = SAMPLING_STEPS,
    guidance: float = GUIDANCE,
    sampler: str = "dpm",
) -> Tensor:
    """Draw one picture per prompt, shape (N, 3, 32, 32) in [-1, 1], by classifier-free guidance."""
    kinds = {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}
    scheduler: Any = kinds[sampler].from_config(model.scheduler.config)
    scheduler.set_timesteps(steps)
    ids = torch.cat(
        [token_ids(model.tokenizer, [""] * len(prompts)), token_ids(model.tokenizer, prompts)]
    )
    words = model.denoiser.text_encoder(input_ids=ids).last_hidden_state
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((len(prompts), 8, 8, 8), generator=generator)
    for t in scheduler.timesteps:
        both = model.denoiser.unet(torch.cat([x, x]), t, encoder_hidden_states=words).sample
        empty, asked = both.chunk(2)
        x = scheduler.step(empty + guidance * (asked - empty), t, x).prev_sample
    return model.vae.decode(x).sample.clamp(-1, 1)  # type: ignore[union-attr]


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
    model: MiniSd,
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
        prog=_COMMAND, description="Measure how well mini-sd draws held-out captions."
    )
    parser.add_argument("--n", type=int, default=300, help="pictures per question")
    parser.add_argument("--model", type=Path, default=MINI_SD_FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=SAMPLING_STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--sampler", choices=("ddim", "dpm"), default="dpm")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet here")
    parser.add_argument(
        "--save", action="store_true", help="write EVALUATION.json into the model folder"
    )
    return parser.parse_args(given)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, report and draw."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = _arguments(given)
    model, probe = load_mini_sd(args.model), load_probe()
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
    report["command"] = " ".join([_COMMAND, *given])
    text = json.dumps(report, indent=2)
    sys.stdout.write(text + "\n")
    if args.save:
        (args.model / "EVALUATION.json").write_text(text + "\n")
    if args.sheet:
        _tiled(shown, columns=12).save(args.sheet)


if __name__ == "__main__":
    main()
