"""UNet and VAE of single-file checkpoints in CompVis layout, and what diffusers calls them.

Nothing is looked up: the configuration of each part is read off the tensors' shapes, and each
diffusers parameter name is translated to its CompVis name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import HostError
from ..families import FAMILIES, ldm_path
from .geometry import pruned_error

UNET = "model.diffusion_model."
VAE = "first_stage_model."

Shapes = Mapping[str, tuple[int, ...]]

_UNET_ENDS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_PIECES = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "resnets": "block",
    "down_blocks": "down",
}


def unet_config(name: str, shapes: Shapes) -> dict[str, Any]:
    """Arguments of UNet2DConditionModel.

    Raises:
        FamilyError: If blocks were taken out of it.
        HostError: If the blocks are not arranged as in Stable Diffusion 1.x and XL.
    """
    first = shapes.get(f"{UNET}input_blocks.0.0.weight", ())
    levels: list[list[tuple[int, int]]] = [[]]  # per level: (width, depth) of each resnet
    index = 1
    while True:
        block = f"{UNET}input_blocks.{index}"
        if f"{block}.0.op.weight" in shapes:
            levels.append([])
        elif f"{block}.0.in_layers.2.weight" in shapes:
            width = shapes[f"{block}.0.in_layers.2.weight"][0]
            levels[-1].append((width, _depth(shapes, f"{block}.1")))
        else:
            break
        index += 1
    attention = f"{UNET}middle_block.1"
    context = shapes.get(f"{attention}.transformer_blocks.0.attn2.to_k.weight", ())
    even = len({len(level) for level in levels}) == 1
    even = even and all(len(set(level)) == 1 for level in levels)
    added = _added(shapes, [level[0][0] for level in levels if level], context)
    if even and added and not context and f"{UNET}middle_block.0.in_layers.2.weight" in shapes:
        raise pruned_error(name, [level[0][1] for level in levels])
    if not even or len(first) != 4 or len(context) != 2:
        raise HostError(
            f"The UNet in {name} is cut off or built in an unknown way ({index} input blocks). "
            "Get the file again, or give a Stable Diffusion 1.x or XL checkpoint."
        )
    widths, depths = zip(*(level[0] for level in levels), strict=True)
    return {
        "in_channels": first[1],
        "out_channels": shapes.get(f"{UNET}out.2.weight", first[1:])[0],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "down_block_types": tuple("CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if d else "UpBlock2D" for d in depths[::-1]),
        # The middle block reads the last entry, whose own level may have no attention.
        "transformer_layers_per_block": (*depths[:-1], _depth(shapes, attention)),
        "cross_attention_dim": context[1],
        "attention_head_dim": 8,  # in diffusers' naming accident: the number of heads
        "use_linear_projection": len(shapes.get(f"{attention}.proj_in.weight", ())) == 2,
        "sample_size": 64,
        **added,
    }


def _added(shapes: Shapes, widths: Sequence[int], context: tuple[int, ...]) -> dict[str, Any]:
    """What differs where pooled text and sizes stand beside the time, as in SDXL."""
    added = shapes.get(f"{UNET}label_emb.0.0.weight", ())
    if not added:
        return {}
    # Six numbers stand beside the pooled text, each as so many.
    pooled = {
        family.context_dim: row.dim
        for family in FAMILIES.values()
        for row in family.encoders
        if row.pooled
    }
    beside = pooled.get(context[-1] if context else 0)
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256 if beside is None else (added[-1] - beside) // 6,
        "projection_class_embeddings_input_dim": added[-1],
        "attention_head_dim": tuple(max(1, width // 64) for width in widths),
        "sample_size": 128,
    }


def _depth(shapes: Shapes, prefix: str) -> int:
    depth = 0
    while f"{prefix}.transformer_blocks.{depth}.attn2.to_k.weight" in shapes:
        depth += 1
    return depth


def vae_config(name: str, shapes: Shapes) -> dict[str, Any]:
    """Arguments of AutoencoderKL, but for what no tensor tells: the scale of its latents.

    Raises:
        HostError: If encoder and decoder are not the mirrored pair diffusers can build.
    """
    widths = _widths(shapes, f"{VAE}encoder.down")
    back = _widths(shapes, f"{VAE}decoder.up")
    latent = shapes.get(f"{VAE}decoder.conv_in.weight", (0, 0))[1]
    layers = sum(f"{VAE}encoder.down.0.block.{i}.conv1.weight" in shapes for i in range(9))
    if not widths or widths != back or not layers or not latent:
        raise HostError(
            f"The VAE in {name} is cut off or built in an unknown way (encoder widths "
            f"{list(widths)}, decoder {list(back)}). Get the file again, or replace its VAE."
        )
    return {
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": latent,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }


def _widths(shapes: Shapes, prefix: str) -> tuple[int, ...]:
    found: list[int] = []
    while (key := f"{prefix}.{len(found)}.block.0.conv1.weight") in shapes:
        found.append(shapes[key][0])
    return tuple(found)


def unet_name(key: str, config: Mapping[str, Any]) -> str:
    """CompVis name of a parameter of UNet2DConditionModel."""
    for ours, theirs in _UNET_ENDS.items():
        if key.startswith(ours):
            return UNET + key.replace(ours, theirs, 1)
    layers: int = config["layers_per_block"]
    if ".attentions." in key:
        return UNET + ldm_path(key, layers)
    match = re.fullmatch(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(\w+)\.(\d+)\.(.+)", key)
    if match is None:
        return key
    side, block, kind, item, rest = match.groups()
    if kind == "resnets":
        part, _, leaf = rest.rpartition(".")
        rest = f"{_RESNET[part]}.{leaf}"
    if side is None:
        return f"{UNET}middle_block.{2 * int(item)}.{rest}"
    first = int(block) * (layers + 1)
    if kind == "downsamplers":
        return f"{UNET}input_blocks.{first + layers + 1}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        place = 2 if "CrossAttn" in config["up_block_types"][int(block)] else 1
        return f"{UNET}output_blocks.{first + layers}.{place}.{rest}"
    if side == "down":
        return f"{UNET}input_blocks.{first + int(item) + 1}.0.{rest}"
    return f"{UNET}output_blocks.{first + int(item)}.0.{rest}"


def vae_name(key: str, config: Mapping[str, Any]) -> str:
    """CompVis name of a parameter of AutoencoderKL."""
    for ours, theirs in _VAE_PIECES.items():
        key = re.sub(rf"(?<=\.){re.escape(ours)}(?=\.)", theirs, key)
    last = len(config["block_out_channels"]) - 1
    return VAE + re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{last - int(m[1])}", key)
