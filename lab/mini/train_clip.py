"""Train mini-clip: `python -m lab.mini.train_clip`; with `--check` measure it only.

Two losses share one embedding of pictures. The caption loss makes TA mean "shows what the caption
says": each picture has, beside the other pictures' captions, one caption of its own that is wrong
in one aspect. The identity loss makes IA mean identity: a batch holds families of look-alikes (one
kind, four looks), each look in two scenes with other backgrounds, places and company, and those two
are to be nearer than anything else in the batch. So an object's own look weighs much and its scene
little. In families of styles, the style is shared and the content differs.

Nothing held out and no concept of `looks.py` is shown. An interrupted run goes on from the work
folder and, as every step draws from its own seed, ends as an uninterrupted one would. The default
2400 steps are 15 minutes of one core's time, after a few for drawing.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from .clip_check import check_clip
from .clip_data import ClipBatch, ClipPictures, clip_pictures, left_right, sample_batch
from .clip_loss import caption_loss, identity_loss
from .clip_model import (
    MINI_CLIP_FOLDER,
    embed_pictures,
    embed_texts,
    mini_tokenizer,
    new_clip,
    save_clip,
)
from .model import MINI_SD_FOLDER
from .optimizer import muon
from .training import Budget, TrainingRun

_IDENTITY_WEIGHT = 1.0
_SAVE_EVERY = 100


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lab.mini.train_clip", description="Train mini-clip and measure it."
    )
    parser.add_argument("--check", action="store_true", help="only measure, and print the report")
    parser.add_argument("--out", type=Path, default=MINI_CLIP_FOLDER, help="model folder")
    parser.add_argument("--work", type=Path, default=Path("/tmp/cidm_mini"), help="cache and state")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--families", type=int, default=2500, help="of 8 pictures each")
    parser.add_argument("--others", type=int, default=12000, help="pictures of no family")
    parser.add_argument("--identity-weight", type=float, default=_IDENTITY_WEIGHT)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(argv)


def load_vae() -> AutoencoderKL:
    """Return mini-sd's autoencoder, frozen."""
    vae = AutoencoderKL.from_pretrained(MINI_SD_FOLDER / "vae", torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False)


def clip_losses(model: CLIPModel, batch: ClipBatch) -> tuple[Tensor, Tensor]:
    """Return the caption loss and the identity loss of a batch."""
    ids = torch.cat([batch.right, batch.wrong])
    config: Any = model.config
    end = int(config.text_config.eos_token_id)
    length = int((ids == end).float().argmax(1).max()) + 1  # padding is never read
    with torch.autocast("cpu", torch.bfloat16):
        seen = embed_pictures(model, batch.x)
        texts = embed_texts(model, ids[:, :length])
    seen = F.normalize(seen.float(), dim=-1)
    right, wrong = F.normalize(texts.float(), dim=-1).chunk(2)
    scale = model.logit_scale.exp().clamp(max=50.0)
    return (
        caption_loss(seen, right, wrong, batch.has_wrong, scale),
        identity_loss(seen, batch.group),
    )


def train(model: CLIPModel, data: ClipPictures, args: argparse.Namespace) -> Budget:
    """Train in place and leave the averaged weights in the model."""
    budget = Budget(minutes=0.0, steps=args.steps)
    optimizer = muon(model, ("embedding", "logit_scale"), matrix_rate=0.02, adam_rate=2e-3)
    state: Path = args.work / f"clip-state-{args.seed}-{args.steps}.safetensors"
    run = TrainingRun(model, optimizer, budget, decay=0.995, state=state)
    model.set_attn_implementation("eager")  # the fused one is slow backwards in bf16 on a CPU
    swap = left_right(mini_tokenizer())
    model.train()

    def losses() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + budget.done)
        batch = sample_batch(data, 8, 64, generator, swap)
        captions, identity = clip_losses(model, batch)
        return {"captions": captions, "identity": args.identity_weight * identity}

    run.learn(losses, save_every=_SAVE_EVERY)
    return budget


def main(argv: Sequence[str] | None = None) -> None:
    """Train and measure, or only measure."""
    args = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    vae = load_vae()
    if not args.check:
        tokenizer = mini_tokenizer()
        data = clip_pictures(args.families, args.others, args.seed, vae, tokenizer, args.work)
        model = new_clip(tokenizer, args.seed)
        budget = train(model, data, args)
        settings = {"seed": args.seed, "steps": args.steps, "families": args.families}
        settings |= {"others": args.others, "seconds": round(budget.seconds)}
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        save_clip(args.out, model, {"training": json.dumps(settings | versions)})
    text = json.dumps(check_clip(args.out, vae), indent=2) + "\n"
    (args.out / "REPORT.json").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
