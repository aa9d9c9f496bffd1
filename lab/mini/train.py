"""Train mini-sd, mini-sdxl or their probe: `python -m lab.mini.train --model NAME [STAGE]`.

An interrupted run goes on where it stopped: state lies in the work folder. The same seed and steps
give the same run; without steps, minutes decide and the steps taken are recorded.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file

from .data import Pictures, drawn_pictures
from .folder import save_model
from .models import MODELS, MiniModel
from .probe import train_probe
from .tokenizer import save_tokenizer
from .train_unet import train_denoiser, training_set
from .train_vae import psnr, refine_decoder, to_latents, to_signal, train_vae
from .training import Budget
from .views import Views

logger = logging.getLogger(__name__)
Record = dict[str, object]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lab.mini.train", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("stage", nargs="?", default="all", choices=("all", "vae", "unet", "probe"))
    parser.add_argument("--model", default="mini-sd", choices=tuple(MODELS))
    parser.add_argument("--out", type=Path, help="model folder to write; default: the package's")
    parser.add_argument("--work", type=Path, default=Path("/tmp/cidm_mini"), help="cache and state")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=72000)
    parser.add_argument("--minutes", type=float, default=50.0, help="budget of the UNet stage")
    parser.add_argument("--steps", type=int, default=0, help="UNet steps; replaces --minutes")
    parser.add_argument("--vae-minutes", type=float, default=10.0)
    parser.add_argument("--vae-steps", type=int, default=0)
    parser.add_argument("--decoder-minutes", type=float, default=5.0)
    parser.add_argument("--decoder-steps", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    args.model = MODELS[args.model]
    args.out = args.out or args.model.folder
    return args


def _versions() -> Record:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def _note(folder: Path, **entries: object) -> None:
    """Add entries to the folder's TRAINING.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "TRAINING.json"
    record: Record = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(record | entries, indent=2) + "\n")


def vae_stage(args: argparse.Namespace, drawn: Pictures) -> AutoencoderKL:
    """Train the autoencoder, or load the one trained before or taken over."""
    folder: Path = args.model.vae or args.work / "vae"
    if not (folder / "config.json").exists():
        budget = Budget(args.vae_minutes, args.vae_steps)
        vae = train_vae(drawn.pixels, budget, args.work / "vae-state.safetensors", args.seed)
        refining = Budget(args.decoder_minutes, args.decoder_steps)
        refine_decoder(vae, drawn.pixels, refining, args.seed)
        vae.save_pretrained(folder)
        quality = psnr(vae, to_signal(drawn.pixels[-512:]))
        _note(
            args.out,
            vae={
                "steps": budget.done,
                "seconds": round(budget.seconds),
                "psnr_db": round(quality, 2),
            },
            decoder={"steps": refining.done, "seconds": round(refining.seconds)},
        )
    return AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)


def _latents(args: argparse.Namespace, vae: AutoencoderKL, views: Views) -> torch.Tensor:
    path: Path = args.work / "latents.safetensors"
    if not path.exists():
        parts = [
            to_latents(vae, to_signal(views.pixels[i : i + 2000]))
            for i in range(0, len(views.pixels), 2000)
        ]
        save_file({"latents": torch.cat(parts).half().contiguous()}, path)
    return load_file(path)["latents"]


def unet_stage(args: argparse.Namespace, vae: AutoencoderKL, drawn: Pictures) -> None:
    """Train UNet and text encoders; write the model folder every few minutes and at the end."""
    tokenizer = save_tokenizer(args.work / "tokenizer")
    model: MiniModel = args.model
    views = model.views(drawn, args.seed)
    data = training_set(_latents(args, vae, views), views, drawn.captions, tokenizer)
    denoiser = model.new(tokenizer, args.seed)
    budget = Budget(args.minutes, args.steps, warmup=200)

    def snapshot() -> None:
        save_model(args.out, vae, denoiser, tokenizer)
        logger.info("saved step %d into %s", budget.done, args.out)

    state: Path = args.work / "unet-state.safetensors"
    loss = train_denoiser(denoiser, data, model.rates, budget, state, args.seed, snapshot)
    if model.finish is not None:
        model.finish(denoiser, model.new(tokenizer, args.seed))
    snapshot()
    entry: Record = {
        "steps": budget.done,
        "seconds": round(budget.seconds),
        "loss": round(loss, 4),
        "batch": 64,
        "views": len(views.rows),
    }
    if model.begun_from:
        entry["begun_from"] = list(model.begun_from)
    _note(args.out, unet=entry, seed=args.seed, pictures=args.pictures, versions=_versions())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stages that are asked for."""
    args = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    if args.stage in ("all", "vae", "unet"):
        drawn = drawn_pictures(args.pictures, args.seed, args.work)
        vae = vae_stage(args, drawn)
        if args.stage != "vae":
            unet_stage(args, vae, drawn)
    if args.stage in ("all", "probe"):
        result = train_probe(steps=4000, seed=args.seed + 7919)
        logger.info("probe accuracy on fresh drawn pictures: %s", result)
        _note(args.out, probe=result)


if __name__ == "__main__":
    main()
