"""What both hosts put on a cross-attention layer: the concepts' low-rank branches and regions.

Host-neutral half of the plan's *attend* hook (CIDM sections 4.2 and 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .concept import Concept
from .families import PROJECTIONS
from .ops import aggregation


@dataclass(frozen=True)
class Branch:
    """The concatenated low-rank factors of one linear layer, and its weights per slot."""

    down: Tensor  # (columns, in_features)
    up: Tensor  # (out_features, columns)
    weights: Tensor  # (slots, columns)

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        """What the concepts add for features x (rows, tokens, in), one slot per row."""
        return aggregation.low_rank_branch(x, self.down, self.up, self.weights[slots])

    def delta(self, slot: int) -> Tensor:
        """The merged update of a slot (Eq. 3), (out_features, in_features)."""
        return (self.up * self.weights[slot]) @ self.down


@dataclass(frozen=True)
class Insert:
    """Regional cross-attention of one row: the slots to put in and their masks."""

    row: int
    slots: Tensor  # (regions,)
    masks: Tensor  # (regions, height, width) at latent size


def branches(
    concepts: Sequence[Concept],
    layer: str,
    weights: Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Branch]:
    """The branch of each projection of a layer that some concept changes.

    Args:
        concepts: Concepts taking part.
        layer: diffusers path of the attn2 module.
        weights: (slots, concepts), psi times strength.
        device: Where the branches will run.
        dtype: In which type.
    """
    result: dict[str, Branch] = {}
    for projection in PROJECTIONS:
        pairs = [concept.factors.get(f"{layer}.{projection}") for concept in concepts]
        held = [(i, pair) for i, pair in enumerate(pairs) if pair is not None]
        if not held:
            continue
        down, up, columns = aggregation.concatenate([pair for _, pair in held])
        owner = torch.tensor([i for i, _ in held])[columns]
        result[projection] = Branch(
            down.to(device, dtype),
            up.to(device, dtype),
            weights[:, owner.to(weights.device)].to(device, dtype),
        )
    return result
