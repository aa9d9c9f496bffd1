"""The latent cache: a fixed, seeded set of augmented variants of each photo, encoded once.

The training loop then never runs the autoencoder, which costs more than a UNet forward pass, and
the autoencoder can leave the device meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..config import TrainConfig
from ..errors import HostError
from ..ops.seeds import generator
from ..training.augment import Variant, augment, to_latent_mask
from ..training.batches import Latents
from ..training.data import Photo
from .base import Base

_PIXELS_AT_ONCE = 512 * 512


def cache_latents(
    base: Base,
    photos: Sequence[Photo],
    config: TrainConfig,
    size_px: int,
    on_photo: Callable[[int], None] | None = None,
    label: str = "look",
) -> Latents:
    """Augment and encode.

    Variants that come out alike, as those of a square photo do, are encoded once.

    Args:
        base: The model; its VAE must be on the device.
        photos: Photos of the concept.
        config: Settings. A run too short to see all variants gets fewer.
        size_px: Side of the training square.
        on_photo: Called with the number of photos done.
        label: Keeps the draws of different sets of photos apart.

    Raises:
        PhotoError: If a photo cannot be read.
        HostError: If the autoencoder's output is not finite.
    """
    draws = config.steps * config.accumulation * config.batch_size
    count = min(config.variants, -(-draws // len(photos)))
    at_once = max(1, _PIXELS_AT_ONCE // size_px**2)
    rows: list[Tensor] = []
    masks: list[Tensor] = []
    concepts: list[Tensor | None] = []
    for number, photo in enumerate(photos):
        held = photo.loaded()
        variants = [
            augment(
                held, size_px, config.crop_probability, generator(config.seed, label, number, i)
            )
            for i in range(count)
        ]
        rows.append(_encode(base, [variant.pixels for variant in variants], at_once))
        masks.append(_latent_masks(variants, base.family.latent_px))
        concepts.append(_concept_masks(variants, base.family.latent_px))
        if on_photo is not None:
            on_photo(number + 1)
    found = any(mask is not None for mask in concepts)
    filled = [torch.ones_like(masks[0]) if mask is None else mask for mask in concepts]
    return Latents(
        clean=torch.stack(rows),
        image_masks=torch.stack(masks),
        concept_masks=torch.stack(filled) if found else None,
    )


def _latent_masks(variants: Sequence[Variant], cell: int) -> Tensor:
    return torch.stack([to_latent_mask(variant.image_mask, cell) for variant in variants])


def _concept_masks(variants: Sequence[Variant], cell: int) -> Tensor | None:
    held = [v.concept_mask for v in variants if v.concept_mask is not None]
    return torch.stack([to_latent_mask(mask, cell) for mask in held]) if held else None


def _encode(base: Base, pictures: Sequence[Tensor], at_once: int) -> Tensor:
    """Clean latents (pictures, channels, height, width) on the CPU."""
    keys = [hashlib.sha256(picture.numpy().tobytes()).digest() for picture in pictures]
    distinct = dict(zip(keys, pictures, strict=True))
    parts = torch.stack(list(distinct.values())).split(at_once)
    latents = torch.cat([_latents(base, part) for part in parts])
    order = {key: i for i, key in enumerate(distinct)}
    return latents[[order[key] for key in keys]]


@torch.no_grad()
def _latents(base: Base, pixels: Tensor) -> Tensor:
    """The posterior's mode, as sampling and ComfyUI's VAE Encode use it.

    Sampling the posterior instead adds noise that the model would have to predict too; SD's is so
    narrow that it makes no difference.
    """
    config = base.vae.config
    shift = getattr(config, "shift_factor", None) or 0.0
    found = base.vae.encode(pixels.to(base.device, base.vae.dtype)).latent_dist
    latents = (found.mode().float() - shift) * config.scaling_factor
    if not torch.isfinite(latents).all():
        raise HostError(
            f"The VAE of {base.name} gives NaN in {str(base.vae.dtype).removeprefix('torch.')}. "
            "Load the model in fp32 or bf16."
        )
    return latents.cpu()


@contextmanager
def parked(base: Base) -> Generator[None]:
    """The VAE off the device for a while, to leave its memory to learning."""
    base.vae.to("cpu")
    try:
        yield
    finally:
        base.vae.to(base.device)


@contextmanager
def unparked(base: Base) -> Generator[None]:
    """The VAE back on the device for a while, for a preview."""
    base.vae.to(base.device)
    try:
        yield
    finally:
        base.vae.to("cpu")
