"""A base model from weights that another program has in memory, such as ComfyUI's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoints import compvis
from ..checkpoints.geometry import family_of
from ..checkpoints.schedule import SCHEDULE
from ..checkpoints.weights import Weights
from ..errors import FamilyError, HostError
from .base import Base, assemble
from .build import Target
from .load import build_text_encoder, build_unet


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
            (`compvis.UNET` and `compvis.CLIP` before them).
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
    compvis.refuse_other_models(name, shapes)
    if f"{compvis.UNET}input_blocks.0.0.weight" not in shapes:
        raise FamilyError(
            f"{name} has no UNet as Stable Diffusion's. Concepts can be learned on Stable "
            "Diffusion 1.x for now; give such a checkpoint."
        )
    unet = compvis.unet_config(name, shapes) | {"attention_head_dim": heads}
    family = family_of(name, unet)
    row = family.encoders[0]
    clip = compvis.clip_config(name, shapes)
    clip["num_attention_heads"] = text_heads or clip["num_attention_heads"]
    if clip["hidden_size"] != row.dim:  # before the gigabytes
        raise HostError(
            f"The text encoder of {name} is {clip['hidden_size']} wide; {family.name} needs "
            f"{row.dim}. Give the model's own text encoder."
        )
    return assemble(
        build_unet(unet, weights, lambda key: (compvis.unet_name(key, unet),), target),
        vae,
        (build_text_encoder(clip, weights, compvis.clip_names, target),),
        (tokenizer,),
        name=name,
        scheduler_config=scheduler_config,
    )
