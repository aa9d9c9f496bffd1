"""A UNet's family and cross-attention layers, read off its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import FamilyError
from ..families import FAMILIES, CrossAttention, Family, Geometry

_MID = "UNetMidBlock2DCrossAttn"


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
