"""A UNet's family and cross-attention layers, read off its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import FamilyError
from ..families import FAMILIES, CrossAttention, Family, Geometry

_MID = "UNetMidBlock2DCrossAttn"
_OTHERS = {1024: "an SD 2 model", 1280: "an SDXL refiner"}
_PRUNED: Mapping[tuple[int, ...], str] = {
    (0, 2, 4): "SSD-1B",
    (0, 1, 2): "Segmind Vega",
    (0, 2, 5): "KOALA-700M",
}


def family_of(name: str, config: Mapping[str, Any]) -> Family:
    """The row of the families table a UNet belongs to, told by its text width and latents.

    Raises:
        FamilyError: If it is of none of them, or an inpainting or edit model of one.
    """
    context, channels = config.get("cross_attention_dim"), config.get("in_channels", 4)
    family = next((row for row in FAMILIES.values() if row.context_dim == context), None)
    if family is None:
        kind = _OTHERS.get(int(context or 0), "of an unknown kind")
        raise FamilyError(
            f"{name} is {kind} (text width {context}); "
            f"{', '.join(f'{row.name} has {row.context_dim}' for row in FAMILIES.values())}. "
            "Give a Stable Diffusion 1.x or XL checkpoint."
        )
    has_sizes = config.get("addition_embed_type") == "text_time"
    if has_sizes != (len(family.encoders) > 1):
        raise FamilyError(
            f"{name} is of an unknown kind: its UNet reads text {context} wide as {family.name} "
            f"does, but {'has' if has_sizes else 'lacks'} label_emb, pooled text and sizes beside "
            "the time. Give a Stable Diffusion 1.x or XL checkpoint."
        )
    if config.get("time_cond_proj_dim"):
        raise FamilyError(
            f"{name} is an LCM, distilled to draw in a few steps. Give the {family.name} model "
            "that it was made from."
        )
    if channels != family.latent_channels:
        kind = {9: " (an inpainting model)", 8: " (an edit model)"}.get(int(channels), "")
        raise FamilyError(
            f"The UNet of {name} takes {channels} channels{kind}; concepts are learned on the "
            f"plain {family.name} model with {family.latent_channels}. Give that one; inpainting "
            "works with it too."
        )
    return family


def pruned_error(name: str, depths: Sequence[object]) -> FamilyError:
    """What to say of an SDXL model that lacks blocks of the plain one.

    Args:
        name: Of the model.
        depths: Transformer blocks per attention of each level, outermost first; 0 for none.
    """
    known = _PRUNED.get(tuple(d if isinstance(d, int) else -1 for d in depths))
    return FamilyError(
        f"{name} is {known or 'a pruned SDXL'}: attention was taken out of the middle block or "
        "the way up of its UNet. Give the plain SDXL model that it was made from."
    )


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
    even = mid and not config.get("reverse_transformer_layers_per_block")
    if not even and config.get("addition_embed_type") == "text_time":
        raise pruned_error(name, [d if a else 0 for d, a in zip(depths, down, strict=True)])
    if not even or down != up[::-1] or not isinstance(count, int):
        raise FamilyError(
            f"The UNet of {name} has blocks {config['down_block_types']}, "
            f"{config.get('mid_block_type')}, {config['up_block_types']}; Stable Diffusion mirrors "
            "them around a middle block with cross-attention. Give a Stable Diffusion 1.x or XL "
            "checkpoint."
        )
    geometry = Geometry(
        widths=widths,
        depths=tuple(d if attends else 0 for d, attends in zip(depths, down, strict=True)),
        layers_per_block=count,
        mid_depth=depths[-1],
    )
    return geometry.cross_attention(config["cross_attention_dim"])
