"""The latent cache: a fixed, seeded set of augmented variants of each photo, encoded once.

The training loop then never runs the autoencoder, which costs more than a UNet forward pass, and
the autoencoder can leave the device meanwhile. What is learned from is a sample of all views that
the augmentation can draw: of resized photos, `variants` sizes and places of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..config import TrainConfig
from ..ops.seeds import generator
from ..sizes import PictureSizes
from ..training.augment import augment, to_latent_mask
from ..training.batches import Latents
from ..training.buckets import bucket_of
from ..training.data import Photo
from .base import Base

_PIXELS_AT_ONCE = 512 * 512


def cache_latents(
    base: Base,
    photos: Sequence[Photo],
    config: TrainConfig,
    side_px: int,
    on_photo: Callable[[int], None] | None = None,
    label: str = "look",
) -> Latents:
    """Augment and encode.

    Variants that come out alike, as those of a square photo do, are encoded once.

    Args:
        base: The model; its VAE must be on the device.
        photos: Photos of the concept.
        config: Settings. A run too short to see all variants gets fewer.
        side_px: Of the training square; with `config.buckets` each photo has its own shape.
        on_photo: Called with the number of photos done.
        label: Keeps the draws of different sets of photos apart.

    Raises:
        PhotoError: If a photo cannot be read.
        HostError: If the autoencoder's output is not finite.
    """
    draws = config.steps * config.accumulation * config.batch_size
    count = min(config.variants, -(-draws // len(photos)))
    at_once, cell = pictures_at_once(side_px), base.family.latent_px
    rows: list[Tensor] = []
    masks: list[Tensor] = []
    concepts: list[Tensor | None] = []
    sizes: list[list[PictureSizes]] = []
    phrases: list[list[str]] = []
    for number, photo in enumerate(photos):
        held = photo.loaded()
        size = (side_px, side_px)
        if config.buckets:
            size = bucket_of(held.image.size, side_px, cell)
        variants = [
            augment(held, size, cell, config, generator(config.seed, label, number, i))
            for i in range(count)
        ]
        rows.append(_encode(base, [variant.pixels for variant in variants], at_once))
        masks.append(to_latent_mask(torch.stack([v.image_mask for v in variants]), cell))
        sizes.append([variant.sizes for variant in variants])
        phrases.append([variant.phrase for variant in variants])
        own = [v.concept_mask for v in variants if v.concept_mask is not None]
        concepts.append(to_latent_mask(torch.stack(own), cell) if own else None)
        if on_photo is not None:
            on_photo(number + 1)
    found = any(mask is not None for mask in concepts)
    filled = [
        torch.ones_like(seen) if mask is None else mask
        for seen, mask in zip(masks, concepts, strict=True)
    ]
    return Latents(rows, masks, filled if found else None, sizes, phrases)


def pictures_at_once(side_px: int) -> int:
    """How many squares of this side are encoded together."""
    return max(1, _PIXELS_AT_ONCE // side_px**2)


def _encode(base: Base, pictures: Sequence[Tensor], at_once: int) -> Tensor:
    """Clean latents (pictures, channels, height, width) on the CPU."""
    keys = [hashlib.sha256(picture.numpy().tobytes()).digest() for picture in pictures]
    distinct = dict(zip(keys, pictures, strict=True))
    parts = torch.stack(list(distinct.values())).split(at_once)
    latents = torch.cat([base.encoded(part).cpu() for part in parts])
    order = {key: i for i, key in enumerate(distinct)}
    return latents[[order[key] for key in keys]]
