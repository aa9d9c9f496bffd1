"""A base model from weights that another program has in memory, such as ComfyUI's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import FamilyError, HostError
from . import single_file
from .base import SCHEDULE, Base, assemble, family_of
from .load import build_text_encoder, build_unet
from .weights import Target, Weights

_SAME_SCHEDULE = 1e-3  # relative; stored noise levels are rounded to float32


def base_from_tensors(
    name: str,
    weights: Weights,
    tokenizer: Any,
    vae: Any,
    target: Target,
    *,
    scheduler_config: Mapping[str, Any] = SCHEDULE,
    heads: int = 8,
    text_heads: int | None = None,
) -> Base:
    """A base model of its own: every weight is copied, nothing of the other program is touched.

    Args:
        name: What messages and the bank call the model.
        weights: UNet and text encoder under the names of a CompVis checkpoint
            (`single_file.UNET` and `single_file.CLIP` before them).
        tokenizer: Of the text encoder, as transformers has it.
        vae: Anything with the few members of `AutoencoderKL` that are used here: a torch module
            with `encode(x).latent_dist.mode()`, `decode(z).sample`, `dtype` and `config`
            (`scaling_factor`, `latent_channels`, `block_out_channels`).
        target: Device and precision.
        scheduler_config: Noise schedule; see `schedule_of`.
        heads: Attention heads of the UNet, which no weight tells.
        text_heads: Attention heads of the text encoder. Default: one for every 64 channels.

    Raises:
        FamilyError: If the UNet is of no family concepts can be learned on.
        HostError: If a tensor is missing, quantised or of another shape, or the parts do not fit.
    """
    shapes = weights.shapes
    single_file.refuse_other_models(name, shapes)
    if f"{single_file.UNET}input_blocks.0.0.weight" not in shapes:
        raise FamilyError(
            f"{name} has no UNet as Stable Diffusion's. Concepts can be learned on Stable "
            "Diffusion 1.x for now; give such a checkpoint."
        )
    unet = single_file.unet_config(name, shapes) | {"attention_head_dim": heads}
    family = family_of(name, unet)
    row = family.encoders[0]
    clip = single_file.clip_config(name, shapes)
    clip["num_attention_heads"] = text_heads or clip["num_attention_heads"]
    if clip["hidden_size"] != row.dim:  # before the gigabytes
        raise HostError(
            f"The text encoder of {name} is {clip['hidden_size']} wide; {family.name} needs "
            f"{row.dim}. Give the model's own text encoder."
        )
    return assemble(
        build_unet(unet, weights, lambda key: (single_file.unet_name(key, unet),), target),
        vae,
        (build_text_encoder(clip, weights, single_file.clip_names, target),),
        (tokenizer,),
        name=name,
        scheduler_config=scheduler_config,
    )


def schedule_of(sigmas: Tensor, prediction_type: str = "epsilon") -> dict[str, Any]:
    """The noise schedule, as diffusers' schedulers take it, of a table of noise levels.

    Args:
        sigmas: sqrt((1 - a) / a) of every training timestep, the smallest first, for cumulated
            products a.
        prediction_type: "epsilon" or "v_prediction".

    Raises:
        HostError: If there are not 1000 levels: the table is a distilled model's or no table.
    """
    if sigmas.ndim != 1 or len(sigmas) != SCHEDULE["num_train_timesteps"]:
        raise HostError(
            f"The model has a noise schedule of shape {tuple(sigmas.shape)}; learning needs the "
            "1000 levels it was trained with. Connect the model before any node that changes its "
            "sampling."
        )
    products = 1 / (1 + sigmas.detach().cpu().double().square())
    before = torch.cat([torch.ones(1, dtype=torch.float64), products[:-1]])
    betas = 1 - products / before
    found = {**SCHEDULE, "prediction_type": prediction_type}
    # Betas as the model's authors wrote them, where they are Stable Diffusion's kind.
    start, end = round(betas[0].item(), 6), round(betas[-1].item(), 6)
    if 0 < start < end < 1:
        root = torch.linspace(start**0.5, end**0.5, len(betas), dtype=torch.float64)
        exact = (1 - root.square()).cumprod(0)
        if bool(((exact / products) - 1).abs().max() < _SAME_SCHEDULE):
            return found | {"beta_start": start, "beta_end": end}
    return found | {"trained_betas": betas.clamp(0, 0.9999).tolist()}
