"""The VAE of a model, built into its file or given apart, in a precision that it bears."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.compvis import VAE, vae_config, vae_name
from ..checkpoints.kinds import named_family, told_family
from ..checkpoints.weights import Weights, open_weights
from ..errors import HostError
from ..families import FAMILIES, Family
from .build import Target, build
from .folders import json_of, new_vae_name, old_vae_name, part_of

logger = logging.getLogger(__name__)

_USUAL_SCALE = 0.18215  # diffusers' own, where a folder says none: SD 1.5's


def vae_apart(path: Path, family: Family, target: Target) -> Any:
    """A VAE from a file or folder of its own.

    SD 1.5's and SDXL's have the same tensors, and differ in how they scale their latents. A folder
    says that, a whole checkpoint shows its family, and some headers tell; a bare file says nothing,
    and then only its name can be looked at.

    Args:
        path: A VAE's file with CompVis or diffusers names, a whole checkpoint, a VAE's folder, or
            a model's folder with `vae/`.
        family: Of the model that it is for.
        target: Device and precision of the model.

    Raises:
        HostError: If there is no VAE, not a whole one, or one that says it is another family's.
    """
    if path.is_file():
        weights = _with_compvis_names(open_weights(path))
        _check_owner(path, weights, family)
        return vae_of_file(weights, family, target)
    for folder in (path / "vae", path):
        if (folder / "config.json").is_file():
            return vae_of_folder(folder, family, target)
    raise HostError(
        f"There is no VAE at {path.absolute()}. Give a .safetensors file, or a folder with "
        "config.json and weights."
    )


def vae_of_file(weights: Weights, family: Family, target: Target) -> Any:
    """The VAE of a checkpoint with CompVis names."""
    config = vae_config(weights.name, weights.shapes)
    config |= {"scaling_factor": family.latent_scale, "sample_size": family.resolution_px}
    target = _sound(config, family, target)
    return build("VAE", config, weights, lambda key: (vae_name(key, config),), target)


def vae_of_folder(folder: Path, family: Family, target: Target) -> Any:
    """The VAE in a folder as diffusers writes it.

    Raises:
        HostError: If it is another family's, or not whole.
    """
    config = {"scaling_factor": _USUAL_SCALE, **json_of(folder / "config.json")}
    scale = config["scaling_factor"]
    alike = [row for row in FAMILIES.values() if row.latent_channels == family.latent_channels]
    owner = next((row.name for row in alike if row.latent_scale == scale), family.name)
    if owner != family.name and scale != family.latent_scale:
        raise HostError(
            f"The VAE in {folder} scales its latents by {scale}, as that of {owner} does; "
            f"{family.name} has {family.latent_scale}. Give a VAE of {family.name}."
        )
    target = _sound(config, family, target)
    return build("VAE", config, part_of(folder), lambda key: (key, old_vae_name(key)), target)


def _check_owner(path: Path, weights: Weights, family: Family) -> None:
    owner = told_family(weights.shapes, weights.notes)
    if owner not in (None, family.name):
        raise HostError(
            f"{path.name} holds the VAE of {owner}; {family.name} scales its latents otherwise. "
            f"Give a VAE of {family.name}."
        )
    if owner is None and (named := named_family(path.stem)) not in (None, family.name):
        logger.warning(
            "%s looks like a VAE of %s by its name, and the model is %s. If colours come out pale "
            "or harsh, give one of %s.",
            *(path.name, named, family.name, family.name),
        )


def _sound(config: Mapping[str, Any], family: Family, target: Target) -> Target:
    """The precision asked for, or a wider one where a family's VAE overflows in fp16.

    A VAE that was mended says so in its folder's configuration.
    """
    is_sound = family.vae_fp16 or not config.get("force_upcast", True)
    if target.dtype != torch.float16 or is_sound:
        return target
    has_bf16 = target.device.type == "cuda" and torch.cuda.is_bf16_supported()
    return replace(target, dtype=torch.bfloat16 if has_bf16 else torch.float32)


def _with_compvis_names(weights: Weights) -> Weights:
    """Whatever the names in a VAE's file: those of a whole checkpoint."""
    if any(key.startswith(VAE) for key in weights.shapes):
        return weights
    names = [new_vae_name(key) for key in weights.shapes]
    if not any(name.startswith("decoder.") for name in names):
        raise HostError(
            f"{weights.name} holds no VAE (no tensors named {VAE}* or decoder.*). Give a VAE's "
            "file or folder, or a checkpoint that has one."
        )
    levels = {name.split(".")[2] for name in names if name.startswith("decoder.up_blocks.")}
    config = {"block_out_channels": levels}
    homes = dict(zip([vae_name(name, config) for name in names], weights.shapes, strict=True))

    def read(name: str) -> Tensor:
        return weights.read(homes[name])

    shapes = {name: weights.shapes[key] for name, key in homes.items()}
    return replace(weights, shapes=shapes, read=read)
