"""What both hosts put on a cross-attention layer: the concepts' low-rank branches and regions.

Host-neutral half of the plan's *attend* hook (CIDM sections 4.2 and 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import HostError
from ..families import PROJECTIONS
from ..ops import aggregation, routing
from ..ops.rank_mask import column_mask


@dataclass(frozen=True)
class Branch:
    """The concatenated low-rank factors of one linear layer, and its weights per slot."""

    down: Tensor  # (columns, in_features)
    up: Tensor  # (out_features, columns)
    weights: Tensor  # (slots, columns), or (slots, tokens, columns) where tokens are routed
    ranks: tuple[tuple[int, int], ...] = ()  # with a rank mask: of each concept, all and fewest
    levels: int = 0  # timesteps of the model, for the rank mask

    def at(self, timestep: float) -> Branch:
        """With the ranks that act at a timestep (T-LoRA); the same without a rank mask."""
        if not self.ranks:
            return self
        acting = column_mask(timestep, self.ranks, self.levels)
        return replace(self, weights=self.weights * acting.to(self.weights))

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        """What the concepts add for features x (rows, tokens, in), one slot per row."""
        return aggregation.low_rank_branch(x, self.down, self.up, self.weights[slots])

    def by_place(self, x: Tensor, weights: Tensor) -> Tensor:
        """What the concepts add where every place has weights of its own (rows, cells, columns)."""
        return aggregation.low_rank_branch(x, self.down, self.up, weights)

    def in_boxes(self, insert: Insert, masks: Tensor) -> Tensor:
        """Weights (cells, columns) of a row's places, for masks (regions, cells)."""
        return routing.box_weights(self.weights[insert.outside], self.weights[insert.slots], masks)

    def delta(self, slot: int) -> Tensor:
        """The merged update of a slot (Eq. 3), (out_features, in_features)."""
        return (self.up * self.weights[slot]) @ self.down


@dataclass(frozen=True)
class Insert:
    """Regional cross-attention of one row: the slots to put in and their masks."""

    row: int
    slots: Tensor  # (regions,)
    masks: Tensor  # (regions, height, width) at latent size
    outside: int  # the row's own slot


def branches(
    concepts: Sequence[Concept],
    layer: str,
    weights: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    key_values: Tensor | None = None,
    levels: int | None = None,
) -> dict[str, Branch]:
    """The branch of each projection of a layer that some concept changes.

    Args:
        concepts: Concepts taking part.
        layer: diffusers path of the attn2 module.
        weights: (slots, concepts), psi times strength.
        device: Where the branches will run.
        dtype: In which type.
        key_values: (slots, tokens, concepts), weights of keys and values where tokens are routed
            (`routing.token_weights` times strength).
        levels: Timesteps of the model, from a host that puts `Branch.at` to use in every step.

    Raises:
        HostError: If a concept has a rank mask, and the host cannot follow it.
    """
    masked = [concept.name for concept in concepts if concept.has_rank_mask]
    if masked and levels is None:
        raise HostError(
            f"{masked[0]!r} was learned with a rank mask over the timesteps, which is not followed "
            "here. Draw it with `cidm generate`, or learn it without (rank_mask none)."
        )
    result: dict[str, Branch] = {}
    for projection in PROJECTIONS:
        pairs = [concept.factors.get(f"{layer}.{projection}") for concept in concepts]
        held = [(i, pair) for i, pair in enumerate(pairs) if pair is not None]
        if not held:
            continue
        down, up, columns = aggregation.concatenate([pair for _, pair in held])
        owner = torch.tensor([i for i, _ in held])[columns]
        ranks = [(pair.rank, concepts[i].fewest_ranks(pair.rank)) for i, pair in held]
        chosen = weights
        if key_values is not None and projection in ("to_k", "to_v"):
            chosen = key_values
        result[projection] = Branch(
            down.to(device, dtype),
            up.to(device, dtype),
            chosen[..., owner.to(chosen.device)].to(device, dtype),
            tuple(ranks) if masked else (),
            levels or 0,
        )
    return result
