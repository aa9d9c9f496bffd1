"""Text encoders of single-file checkpoints: their configuration, and what their tensors are called.

Stable Diffusion 1.x has CLIP-L under transformers' names. SDXL has it too, and OpenCLIP's bigG
under OpenCLIP's own names, with one tensor for query, key and value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..errors import HostError
from ..families import Family, TextEncoderRow
from .weights import Weights

CLIP = "cond_stage_model.transformer."
CLIP_L = "conditioner.embedders.0.transformer."
CLIP_G = "conditioner.embedders.1.model."

OPENCLIP = {  # a piece of OpenCLIP's name -> what transformers calls it
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.": "embeddings.token_embedding.",
    "ln_final.": "final_layer_norm.",
    "transformer.resblocks.": "encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.": ".self_attn.",
}
_FUSED = ".self_attn.in_proj_"
_PROJECTION = "text_projection"


def prefixes_of(family: Family) -> tuple[str, ...]:
    """What stands before the names of each text encoder's tensors."""
    return (CLIP,) if len(family.encoders) == 1 else (CLIP_L, CLIP_G)


def with_transformers_names(weights: Weights, prefix: str = CLIP_G) -> Weights:
    """The same weights, where OpenCLIP's text encoder is known by transformers' names as well."""
    found = {
        prefix + name: source
        for key in weights.shapes
        if key.startswith(prefix)
        for name, source in _renamed(key, prefix)
    }
    shapes = dict(weights.shapes)
    for name, (key, third) in found.items():
        shape = weights.shapes[key]
        shapes[name] = shape if third is None else (shape[0] // 3, *shape[1:])
        if _is_turned(key):
            shapes[name] = shape[::-1]

    def read(name: str) -> Tensor:
        if name not in found:
            return weights.read(name)
        key, third = found[name]
        tensor = weights.read(key)
        if _is_turned(key):
            return tensor.T
        return tensor if third is None else tensor.chunk(3)[third]

    return replace(weights, shapes=shapes, read=read)


def _renamed(key: str, prefix: str) -> Iterator[tuple[str, tuple[str, int | None]]]:
    """Names in transformers, and where each is found: the tensor, and which third of it."""
    name = key.removeprefix(prefix)
    for theirs, ours in OPENCLIP.items():
        name = name.replace(theirs, ours)
    if _FUSED in name:
        for third, letter in enumerate("qkv"):
            yield name.replace(_FUSED, f".self_attn.{letter}_proj."), (key, third)
    elif _is_turned(key):
        yield f"{_PROJECTION}.weight", (key, None)
    elif name != key.removeprefix(prefix):
        yield name, (key, None)


def _is_turned(key: str) -> bool:
    """OpenCLIP multiplies by this matrix from the right, a linear layer from the left."""
    return key.endswith(_PROJECTION)


def clip_config(name: str, weights: Weights, row: TextEncoderRow, prefix: str) -> dict[str, Any]:
    """Arguments of CLIPTextConfig.

    Args:
        name: Of the file.
        weights: With transformers' names.
        row: Which text encoder it is.
        prefix: What stands before the names of its tensors.

    Raises:
        HostError: If the embeddings or layers are missing.
    """
    shapes = {
        key.removeprefix(prefix).removeprefix("text_model."): shape
        for key, shape in weights.shapes.items()
        if key.startswith(prefix)
    }
    vocabulary, width = shapes.get("embeddings.token_embedding.weight", (0, 0))
    layers = 0
    while f"encoder.layers.{layers}.mlp.fc1.weight" in shapes:
        layers += 1
    if not layers or not width:
        raise HostError(
            f"The {row.title} of {name} is cut off or of an unknown kind ({layers} layers). "
            "Get the file again, or give another Stable Diffusion 1.x or XL checkpoint."
        )
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": shapes.get("embeddings.position_embedding.weight", (77,))[0],
        "hidden_act": "gelu" if row.pooled else "quick_gelu",
        "projection_dim": shapes.get(f"{_PROJECTION}.weight", (width,))[0],
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 1,
    }


def clip_names(key: str, prefix: str = CLIP) -> tuple[str, ...]:
    """Names in a file of a parameter of CLIPTextModel, with and without the inner level.

    transformers 5 and some merging tools dropped `text_model.`; both spellings are about.
    """
    bare = key.removeprefix("text_model.")
    if bare.startswith(_PROJECTION):
        return (f"{prefix}{bare}",)
    return f"{prefix}text_model.{bare}", f"{prefix}{bare}"
