"""A base model in memory: its modules, and what the rest of the package asks about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import FamilyError, HostError
from ..families import (
    FAMILIES,
    CrossAttention,
    Family,
    Geometry,
    fingerprint,
    fingerprint_paths,
)

_MID = "UNetMidBlock2DCrossAttn"
SCHEDULE: Mapping[str, Any] = {  # Stable Diffusion 1.x; single files do not carry it
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@dataclass(eq=False)
class Base:
    """A frozen base model, ready for learning and sampling.

    Attributes:
        family: Row of the families table.
        layers: Its attn2 modules in execution order, from the UNet's real geometry.
        fingerprint: Name of the weights (`families.fingerprint`).
        name: File stem or folder name.
        unet: UNet2DConditionModel.
        vae: AutoencoderKL, of the same dtype as the rest. The VAE of SD 1.x is sound in fp16
            and bf16, unlike that of SDXL.
        text_encoders: One module per row of `family.encoders`.
        tokenizers: One per text encoder; `model_max_length` is the family's limit.
        scheduler_config: Noise schedule, as diffusers' schedulers take it.
        device: Where the modules are.
        dtype: Type of their weights.
    """

    family: Family
    layers: tuple[CrossAttention, ...]
    fingerprint: str
    name: str
    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler_config: dict[str, Any] = field(default_factory=lambda: dict(SCHEDULE))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon", "v_prediction" or "sample"."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))


def assemble(
    unet: Any,
    vae: Any,
    text_encoders: tuple[Any, ...],
    tokenizers: tuple[Any, ...],
    *,
    name: str,
    scheduler_config: Mapping[str, Any] = SCHEDULE,
) -> Base:
    """A `Base` of ready modules; family, layers and fingerprint are read off the UNet.

    Raises:
        FamilyError: If the UNet is of no known family.
        HostError: If the parts do not fit together.
    """
    family = family_of(name, unet.config)
    layers = layers_of(name, unet.config)
    for row, encoder in zip(family.encoders, text_encoders, strict=True):
        config = encoder.config
        if config.hidden_size != row.dim or config.max_position_embeddings < row.max_tokens:
            raise HostError(
                f"The {row.name} of {name} is {config.hidden_size} wide with "
                f"{config.max_position_embeddings} positions; {family.name} needs {row.dim} and "
                f"{row.max_tokens}. Give the model's own text encoder."
            )
    levels = len(vae.config.block_out_channels)
    found = (vae.config.latent_channels, 2 ** (levels - 1))
    if found != (family.latent_channels, family.latent_px):
        raise HostError(
            f"The VAE of {name} makes {found[0]} latent channels of {found[1]} px; {family.name} "
            f"has {family.latent_channels} of {family.latent_px} px. Give the model's own VAE."
        )
    modules = [unet.get_submodule(path) for path in fingerprint_paths(layers)]
    return Base(
        family=family,
        layers=layers,
        fingerprint=fingerprint(module.weight for module in modules),
        name=name,
        unet=unet,
        vae=vae,
        text_encoders=text_encoders,
        tokenizers=tokenizers,
        scheduler_config=dict(scheduler_config),
        device=unet.device,
        dtype=unet.dtype,
    )


def family_of(name: str, config: Mapping[str, Any]) -> Family:
    """The row of the families table a UNet belongs to, told by its text width and latents.

    Raises:
        FamilyError: If it is none of those a concept can be learned on.
    """
    context, channels = config.get("cross_attention_dim"), config.get("in_channels", 4)
    family = next((row for row in FAMILIES.values() if row.context_dim == context), None)
    if family is None:
        kind = "an SD 2 model" if context == 1024 else "of an unknown kind"
        raise FamilyError(
            f"{name} is {kind} (text width {context}); "
            f"{', '.join(f'{row.name} has {row.context_dim}' for row in FAMILIES.values())}. "
            "Give a Stable Diffusion 1.x checkpoint."
        )
    if len(family.encoders) > 1:
        raise FamilyError(
            f"{name} is an {family.name} model (text width {context}). Learning concepts on "
            f"{family.name} comes in a later version; give a Stable Diffusion 1.x checkpoint."
        )
    if channels != family.latent_channels:
        kind = {9: " (an inpainting model)", 8: " (an edit model)"}.get(int(channels), "")
        raise FamilyError(
            f"The UNet of {name} takes {channels} channels{kind}; concepts are learned on the "
            f"plain {family.name} model with {family.latent_channels}. Give that one; inpainting "
            "works with it too."
        )
    return family


def layers_of(name: str, config: Mapping[str, Any]) -> tuple[CrossAttention, ...]:
    """The attn2 modules of a UNet in execution order, from its diffusers configuration.

    Raises:
        FamilyError: If its blocks are not the mirrored ones of Stable Diffusion.
    """
    widths = tuple(config["block_out_channels"])
    count, depth = config["layers_per_block"], config.get("transformer_layers_per_block", 1)
    depths = (depth,) * len(widths) if isinstance(depth, int) else tuple(depth)
    down = [("CrossAttn" in block) for block in config["down_block_types"]]
    up = [("CrossAttn" in block) for block in config["up_block_types"]]
    mid = config.get("mid_block_type", _MID) == _MID
    if not mid or down != up[::-1] or not isinstance(count, int):
        raise FamilyError(
            f"The UNet of {name} has blocks {config['down_block_types']}, "
            f"{config.get('mid_block_type')}, {config['up_block_types']}; Stable Diffusion mirrors "
            "them around a middle block with cross-attention. Give a Stable Diffusion 1.x "
            "checkpoint."
        )
    geometry = Geometry(
        widths=widths,
        depths=tuple(d if attends else 0 for d, attends in zip(depths, down, strict=True)),
        layers_per_block=count,
        mid_depth=depths[-1],
    )
    return geometry.cross_attention(config["cross_attention_dim"])
