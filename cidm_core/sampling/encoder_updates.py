"""What concepts change in the text encoders, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..calls import is_called
from ..concept import Concept
from ..ops import aggregation
from ..updates import TEXT_ENCODERS, FullRank, LowRank


def changing(text: str, concepts: Sequence[Concept]) -> tuple[Concept, ...]:
    """The concepts that a text names and that change a text encoder."""
    return tuple(c for c in concepts if changes_encoder(c) and is_called(text, c.names))


def changes_encoder(concept: Concept) -> bool:
    """Whether a concept changes a text encoder."""
    return any(path.startswith(TEXT_ENCODERS) for path in concept.updates)


def encoder_deltas(concepts: Sequence[Concept], strength: float = 1.0) -> dict[str, Tensor]:
    """The changes of the text encoders' weights, by path, (out, in).

    Before a prompt is encoded there is no relevance to weigh by: the concepts count alike, by the
    gate of Eq. 3 (one concept 1, n of them 1/sqrt(n) each), each times its own strength.
    """
    if not concepts:
        return {}
    present = torch.ones(len(concepts), dtype=torch.bool)
    weights = aggregation.normalise(torch.ones(len(concepts)), "gate", present).tolist()
    total: dict[str, Tensor] = {}
    for concept, weight in zip(concepts, weights, strict=True):
        for path, update in concept.updates.items():
            if path.startswith(TEXT_ENCODERS) and isinstance(update, LowRank | FullRank):
                delta = weight * strength * concept.strength * update.delta.float()
                total[path] = total[path] + delta if path in total else delta
    return total
