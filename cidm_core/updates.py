"""What learning changes at a linear layer, and what files call it.

An update belongs to the path of a linear layer: a diffusers path of the UNet
("down_blocks.0...attn2.to_q"), or one of a text encoder behind its folder's name
("text_encoder.text_model.encoder.layers.0.self_attn.q_proj"). Tensor names are those that LoRA
loaders know: `.lora_down.weight`, `.lora_up.weight`, `.alpha`, and `.diff` for a full-rank change,
with `.diff_b` for that of the bias.

CIFC and Mix-of-Show files multiply by plain alpha: their scale is folded in on import by setting
alpha = rank * scale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ConceptError

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
DIFF, DIFF_BIAS = ".diff", ".diff_b"
TEXT_SIDE = ("attn2.to_k", "attn2.to_v")  # the layers that see the tokens of the prompt
BIASED = "to_out.0"  # the linear layer of attention whose bias can change
TEXT_ENCODERS = "text_encoder"  # what the paths in any of them begin with
UNET_PREFIX = "lora_unet_"
ENCODER_PREFIXES: Mapping[str, str] = {
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
# Names with an underscore of their own; everything else of a key is cut at each underscore.
_JOINED = (
    *("down_blocks", "up_blocks", "mid_block", "transformer_blocks", "to_q", "to_k", "to_v"),
    *("to_out", "proj_in", "proj_out", "add_k_proj", "add_v_proj", "time_emb_proj"),
    *("text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
)
_PIECE = re.compile("|".join((*_JOINED, r"[A-Za-z0-9]+")))


@dataclass(frozen=True)
class LowRank:
    """A weight changes by `alpha / rank * up @ down`: down (rank, in), up (out, rank)."""

    down: Tensor
    up: Tensor
    alpha: float

    def __post_init__(self) -> None:
        if self.down.ndim != 2 or self.up.ndim != 2 or self.down.shape[0] != self.up.shape[1]:
            raise ConceptError(
                f"Rank mismatch: down is {tuple(self.down.shape)}, up is {tuple(self.up.shape)}. "
                "down must be (rank, in_features) and up (out_features, rank)."
            )

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features) of the weight it changes."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def delta(self) -> Tensor:
        """The change of the weight, (out_features, in_features)."""
        return self.scale * (self.up @ self.down)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds, by the end of its name."""
        alpha = torch.tensor(float(self.alpha), dtype=torch.float32)
        return {DOWN: self.down, UP: self.up, ALPHA: alpha}


@dataclass(frozen=True)
class FullRank:
    """A weight changes by `delta`, (out_features, in_features), its bias by `bias` if there is one.

    Only the last layer of an attention, `BIASED`, has a bias that can change.
    """

    delta: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.delta.ndim != 2:
            raise ConceptError(
                f"A full-rank change is {tuple(self.delta.shape)}; it must be (out, in)."
            )
        if self.bias is not None and self.bias.shape != self.delta.shape[:1]:
            raise ConceptError(
                f"The change of a bias is {tuple(self.bias.shape)} beside a weight of "
                f"{tuple(self.delta.shape)}; it must be (out,)."
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.delta.shape[0], self.delta.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        return {DIFF: self.delta} | ({} if self.bias is None else {DIFF_BIAS: self.bias})


@dataclass(frozen=True)
class ValueResidual:
    """The layer's output at the tokens of the concept's triggers grows by `vector`, (out,).

    No weight changes, so LoRA loaders cannot follow it. It is stored in the form of a LoRA of a
    module that no model has (the vector, and a zero), which they pass over.
    """

    vector: Tensor

    def __post_init__(self) -> None:
        if self.vector.ndim != 1:
            raise ConceptError(
                f"A value residual is {tuple(self.vector.shape)}; it must be (out_features,)."
            )

    @property
    def shape(self) -> tuple[int]:
        return (len(self.vector),)

    def tensors(self) -> dict[str, Tensor]:
        return {DOWN: self.vector[None], UP: self.vector.new_zeros(1, 1)}


Update = LowRank | FullRank | ValueResidual
"""All have a `shape`, that of the weight or the vector, and the `tensors` that a file holds."""


def file_key(path: str, encoders: int = 1) -> str:
    """The widespread LoRA name of a linear layer, without its tensor's ending.

    `down_blocks.0...attn2.to_q` becomes `lora_unet_down_blocks_0_..._attn2_to_q`.

    Args:
        path: Of the layer.
        encoders: Number of text encoders of the model; with two, the first is `lora_te1_`.
    """
    encoder, _, rest = path.partition(".")
    if encoder in ENCODER_PREFIXES.values():
        number = "2" if encoder == "text_encoder_2" else "" if encoders == 1 else "1"
        return f"lora_te{number}_{rest.replace('.', '_')}"
    return UNET_PREFIX + path.replace(".", "_")


def path_of(key: str) -> str:
    """The path of the linear layer that `file_key` gave this name."""
    for prefix, encoder in ENCODER_PREFIXES.items():
        if key.startswith(prefix):
            return ".".join([encoder, *_PIECE.findall(key[len(prefix) :])])
    return ".".join(_PIECE.findall(key.removeprefix(UNET_PREFIX)))
