"""mini-clip's training pictures: drawn once, kept in one file, served in augmented batches."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTokenizer

from cidm_core.mini.draw import WorldScene, draw
from cidm_core.mini.world import any_scene

from .clip_captions import caption_pair
from .clip_model import SIDE
from .clip_scenes import LOOKS, family, name_colors, view
from .held_out import allowed
from .model import token_ids

VIEWS = 2  # of each look of a family
TEXTS = 3  # right and wrong captions of a picture
_STYLES = 0.3  # share of the families that are styles
_ROUND_TRIPS = 0.25  # share of the pictures that went through mini-sd's autoencoder


@dataclass(frozen=True)
class ClipPictures:
    """Drawn pictures with captions.

    Attributes:
        pixels: uint8 (N, 3, 32, 32); families come first, LOOKS × VIEWS pictures each.
        right: Token ids of right captions, int16 (N, TEXTS, 48).
        wrong: Token ids of captions wrong in one aspect, likewise.
        has_wrong: bool (N, TEXTS); False where there is no wrong caption.
        families: how many families there are.
    """

    pixels: Tensor
    right: Tensor
    wrong: Tensor
    has_wrong: Tensor
    families: int


@dataclass(frozen=True)
class ClipBatch:
    """Pictures x (B, 3, 32, 32) in [-1, 1], ids (B, L) of right and wrong captions.

    `group` (B,) is equal for two views of one look, -1 for pictures of no family.
    """

    x: Tensor
    right: Tensor
    wrong: Tensor
    has_wrong: Tensor
    group: Tensor


def training_scenes(families: int, others: int, seed: int) -> list[WorldScene]:
    """Return the scenes of all families and `others` scenes as mini-sd's training has them."""
    rng = random.Random(seed)
    scenes: list[WorldScene] = []
    for _ in range(families):
        kind = "style" if rng.random() < _STYLES else "object"
        scenes += [view(look, rng) for look in family(rng, kind) for _ in range(VIEWS)]
    while len(scenes) < families * LOOKS * VIEWS + others:
        scene = name_colors(any_scene(rng))
        scenes += [scene] if allowed(scene) else []
    return scenes


def clip_pictures(
    families: int, others: int, seed: int, vae: Any, tokenizer: CLIPTokenizer, cache: Path
) -> ClipPictures:
    """Return the training pictures, drawn or read from the folder `cache`."""
    path = cache / f"clip-pictures-{families}-{others}-{seed}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        scenes = training_scenes(families, others, seed)
        tensors = _texts(scenes, tokenizer, seed)
        tensors["pixels"] = _round_trips(draw_all(scenes), vae, seed)
        partial = path.with_suffix(".partial")
        save_file(tensors, partial)
        partial.replace(path)
    return ClipPictures(**load_file(path), families=families)


def draw_all(scenes: list[WorldScene]) -> Tensor:
    """Draw scenes, uint8 (N, 3, 32, 32)."""
    bar = tqdm(scenes, "Drawing", unit=" pictures", mininterval=1, disable=len(scenes) < 2000)
    pixels = np.stack([np.asarray(draw(scene), dtype=np.uint8) for scene in bar])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _texts(scenes: list[WorldScene], tokenizer: CLIPTokenizer, seed: int) -> dict[str, Tensor]:
    rng = random.Random(f"captions {seed}")
    pairs = [caption_pair(scene, rng) for scene in scenes for _ in range(TEXTS)]
    shape = (len(scenes), TEXTS, -1)
    right, wrong = (
        token_ids(tokenizer, [pair[side] for pair in pairs]).to(torch.int16).view(shape)
        for side in (0, 1)
    )
    present = torch.tensor([bool(pair[1]) for pair in pairs]).view(len(scenes), TEXTS)
    return {"right": right, "wrong": wrong, "has_wrong": present}


def _round_trips(pixels: Tensor, vae: Any, seed: int) -> Tensor:
    """Send a share of the pictures through the autoencoder, with noise as samplers leave it."""
    generator = torch.Generator().manual_seed(seed)
    chosen = (torch.rand(len(pixels), generator=generator) < _ROUND_TRIPS).nonzero()[:, 0]
    bar = tqdm(chosen.split(128), "Round trips", unit=" batches", mininterval=1)
    for rows in bar:
        levels = 0.2 * torch.rand(len(rows), generator=generator)
        pixels[rows] = round_trip(pixels[rows], vae, levels, generator)
    return pixels


@torch.no_grad()
def round_trip(
    pixels: Tensor, vae: Any, levels: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Return uint8 pictures (N, 3, 32, 32) after mini-sd's autoencoder.

    Args:
        pixels: uint8 (N, 3, 32, 32).
        vae: The autoencoder.
        levels: Deviation of the noise on the latents, whose variance is 1, (N,).
        generator: Source of the noise.
    """
    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode(pixels.float() / 127.5 - 1).latent_dist.mode()
        noise = torch.randn(latents.shape, generator=generator)
        y = vae.decode(latents + levels.view(-1, 1, 1, 1) * noise).sample
    return ((y.float() + 1) * 127.5).round().clamp(0, 255).byte()


def sample_batch(
    data: ClipPictures, families: int, others: int, generator: torch.Generator, swap: Tensor
) -> ClipBatch:
    """Return whole families, all views of all their looks, and other pictures; augmented.

    Args:
        data: The pictures.
        families: Families in the batch, of LOOKS × VIEWS pictures.
        others: Pictures of no family.
        generator: Source of all choices.
        swap: Token ids (vocabulary,) with "left" and "right" exchanged, for mirrored pictures.
    """
    size = LOOKS * VIEWS
    chosen = torch.randperm(data.families, generator=generator)[:families]
    rows = (chosen[:, None] * size + torch.arange(size)).flatten()
    group = torch.cat([torch.arange(len(rows)) // VIEWS, torch.full((others,), -1)])
    start = data.families * size
    free = torch.randint(start, len(data.pixels), (others,), generator=generator)
    rows = torch.cat([rows, free])
    text = torch.randint(TEXTS, (len(rows),), generator=generator)
    x = roughen(data.pixels[rows].float() / 127.5 - 1, generator)
    right, wrong = data.right[rows, text].long(), data.wrong[rows, text].long()
    if torch.rand(1, generator=generator) < 0.5:
        x, right, wrong = x.flip(-1), swap[right], swap[wrong]
    return ClipBatch(x, right, wrong, data.has_wrong[rows, text], group)


def roughen(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by a pixel, blur and add noise, as a generated picture may differ from a drawn one."""
    count = len(x)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
    x = padded[..., down : down + SIDE, right : right + SIDE]
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    strength = torch.rand(2, count, 1, 1, 1, generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    return x + 0.6 * strength[0] * (blurred - x) + 0.08 * strength[1] ** 2 * noise


def left_right(tokenizer: CLIPTokenizer) -> Tensor:
    """Return the vocabulary's ids (vocabulary,) with "left" and "right" exchanged."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    swap = torch.arange(len(tokenizer))
    left, right = vocabulary["left</w>"], vocabulary["right</w>"]
    swap[left], swap[right] = right, left
    return swap
