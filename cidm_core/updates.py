"""Low-rank factors of one weight, and their names in LoRA files.

`delta = alpha / rank * up @ down`. CIFC and Mix-of-Show files multiply by plain alpha (methods
note 9): their scale is folded in on import by setting alpha = rank * scale.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .errors import ConceptError

FILE_PREFIX = "lora_unet_"


@dataclass(frozen=True)
class LoraFactors:
    """down (rank, in_features), up (out_features, rank) and alpha of one linear layer."""

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

    def delta(self) -> Tensor:
        """The full update, (out_features, in_features)."""
        return self.scale * (self.up @ self.down)


def file_key(path: str) -> str:
    """The widespread LoRA name of a diffusers module path, without its tensor suffix.

    `down_blocks.0...attn2.to_q` becomes `lora_unet_down_blocks_0_..._attn2_to_q`.
    """
    return FILE_PREFIX + path.replace(".", "_")
