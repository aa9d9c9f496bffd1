"""Single-file checkpoints in CompVis layout: what is inside, and what diffusers calls it.

Nothing is looked up: the configuration of each part is read off the tensors' shapes, and each
diffusers parameter name is translated to its CompVis name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import FamilyError, HostError
from ..families import ldm_path

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."

Shapes = Mapping[str, tuple[int, ...]]

_OTHER_MODELS = {  # a piece of a tensor name -> the model that has it
    "double_blocks.": "a Flux model",
    "joint_blocks.": "an SD 3 model",
    "conditioner.embedders.": "an SDXL model",
    "label_emb.0.0.": "an SDXL model",
    "cond_stage_model.model.": "an SD 2 model",
    "control_model.": "a ControlNet",
    "input_hint_block.": "a ControlNet",
    "motion_modules.": "a motion module",
}
_ADAPTERS = ("lora_", ".lora_", "hada_w1", "lokr_", "oft_blocks", "dora_scale")

_UNET_ENDS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
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


def check_kind(name: str, shapes: Shapes) -> None:
    """Refuse a file that is no whole Stable Diffusion model, saying what it is.

    Raises:
        FamilyError: If it is a model of another kind.
        HostError: If it is an adapter, or a part of a model is missing.
    """
    if any(mark in key for key in shapes for mark in _ADAPTERS):
        raise HostError(
            f"{name} is a LoRA or a similar adapter, not a model. Give the checkpoint it was made "
            "for; a concept file goes into a bank."
        )
    refuse_other_models(name, shapes)
    has = {part: any(key.startswith(prefix) for key in shapes) for part, prefix in _PARTS.items()}
    if not any(has.values()):
        raise HostError(f"{name} holds {_guess(shapes)}, not a whole model. {_WHOLE}")
    missing = [part for part, found in has.items() if not found]
    if missing:
        raise HostError(
            f"{name} has no {' and no '.join(missing)} (tensors named "
            f"{', '.join(_PARTS[part] + '*' for part in missing)}). {_WHOLE}"
        )
    if any(key.startswith(f"{VAE}taesd_") for key in shapes):
        raise HostError(f"{name} has a TAESD instead of a VAE. {_WHOLE}")


def refuse_other_models(name: str, shapes: Shapes) -> None:
    """Refuse a model that is known to be of another kind, saying which.

    Raises:
        FamilyError: If it is one.
    """
    for mark, kind in _OTHER_MODELS.items():
        if any(mark in key for key in shapes):
            raise FamilyError(
                f"{name} is {kind}. Concepts can be learned on Stable Diffusion 1.x for now; "
                "give such a checkpoint."
            )


_PARTS = {"UNet": UNET, "VAE": VAE, "text encoder": CLIP}
_WHOLE = (
    "Give a checkpoint with UNet, VAE and text encoder in one file, or a diffusers folder with "
    "unet/, vae/ and text_encoder/."
)


def _guess(shapes: Shapes) -> str:
    keys = tuple(shapes)
    for start, what in (
        (("input_blocks.", "down_blocks."), "only a UNet"),
        (("encoder.conv_in", "decoder.conv_in"), "only a VAE"),
        (("text_model.", "embeddings."), "only a text encoder"),
        (("emb_params", "string_to_param"), "a textual inversion embedding"),
    ):
        if any(key.startswith(start) for key in keys):
            return what
    return f"{len(keys)} tensors of an unknown kind ({', '.join(keys[:3]) or 'none'})"


def unet_config(name: str, shapes: Shapes) -> dict[str, Any]:
    """Arguments of UNet2DConditionModel.

    Raises:
        HostError: If the blocks are not arranged as in Stable Diffusion 1.x.
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
    if not even or len(first) != 4 or len(context) != 2:
        raise HostError(
            f"The UNet in {name} is cut off or built in an unknown way ({index} input blocks). "
            "Get the file again, or give a Stable Diffusion 1.x checkpoint."
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
    }


def _depth(shapes: Shapes, prefix: str) -> int:
    depth = 0
    while f"{prefix}.transformer_blocks.{depth}.attn2.to_k.weight" in shapes:
        depth += 1
    return depth


def vae_config(name: str, shapes: Shapes) -> dict[str, Any]:
    """Arguments of AutoencoderKL.

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
        "scaling_factor": 0.18215,
        "sample_size": 512,
    }


def _widths(shapes: Shapes, prefix: str) -> tuple[int, ...]:
    found: list[int] = []
    while (key := f"{prefix}.{len(found)}.block.0.conv1.weight") in shapes:
        found.append(shapes[key][0])
    return tuple(found)


def clip_config(name: str, shapes: Shapes) -> dict[str, Any]:
    """Arguments of CLIPTextConfig.

    Raises:
        HostError: If the embeddings or layers are missing.
    """
    stripped = {
        key.removeprefix(CLIP).removeprefix("text_model."): shape for key, shape in shapes.items()
    }
    vocabulary, width = stripped.get("embeddings.token_embedding.weight", (0, 0))
    layers = 0
    while f"encoder.layers.{layers}.mlp.fc1.weight" in stripped:
        layers += 1
    if not layers or not width:
        raise HostError(
            f"The text encoder in {name} is cut off or of an unknown kind ({layers} layers). "
            "Get the file again, or give a Stable Diffusion 1.x checkpoint."
        )
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": stripped["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": stripped.get("embeddings.position_embedding.weight", (77,))[0],
        "hidden_act": "quick_gelu",
        "projection_dim": width,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 1,
    }


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


def clip_names(key: str) -> tuple[str, str]:
    """CompVis names of a parameter of CLIPTextModel, with and without the inner level.

    transformers 5 and some merging tools dropped `text_model.`; both spellings are about.
    """
    bare = key.removeprefix("text_model.")
    return f"{CLIP}text_model.{bare}", f"{CLIP}{bare}"
