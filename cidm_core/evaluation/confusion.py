"""Which concept's photos drawn pictures are nearest to: confusion of concepts in a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..errors import CidmError
from .presence import similarities

Doubles = NDArray[np.float64]


def nearest_concepts(
    pictures: Float[Tensor, "pictures dim"], references: Sequence[Float[Tensor, "photos dim"]]
) -> Int[Tensor, " pictures"]:
    """Index of the concept whose photos have the largest mean cosine with each picture.

    Args:
        pictures: Embeddings.
        references: For each concept, the embeddings of its photos.
    """
    return similarities([pictures], references)[:, 0].argmax(dim=-1)


@dataclass(frozen=True, eq=False)
class Confusion:
    """Row: the concept that was asked. Column: the concept whose photos are the nearest.

    Attributes:
        concepts: Names.
        counts: (concepts, concepts), pictures.
    """

    concepts: tuple[str, ...]
    counts: NDArray[np.int64]

    @classmethod
    def from_pairs(
        cls, concepts: Sequence[str], asked: Sequence[int], nearest: Sequence[int]
    ) -> Confusion:
        """Count pictures.

        Args:
            concepts: Names.
            asked: For each picture, the index of the concept it should show.
            nearest: For each picture, the index of the nearest concept.

        Raises:
            CidmError: If the two differ in length, or an index is no concept's.
        """
        pairs = [np.asarray(each, dtype=np.int64).reshape(-1) for each in (asked, nearest)]
        if len(pairs[0]) != len(pairs[1]):
            raise CidmError(
                f"{len(pairs[0])} pictures were asked and {len(pairs[1])} judged. Give one of each."
            )
        if any(((each < 0) | (each >= len(concepts))).any() for each in pairs):
            raise CidmError(f"A picture's concept is none of 0 to {len(concepts) - 1}.")
        counts = np.zeros((len(concepts), len(concepts)), dtype=np.int64)
        np.add.at(counts, (pairs[0], pairs[1]), 1)
        return cls(tuple(concepts), counts)

    @property
    def shares(self) -> Doubles:
        """(concepts, concepts): of each concept's pictures; NaN rows where none was asked."""
        totals = self.counts.sum(axis=1, keepdims=True).astype(np.float64)
        return np.divide(
            self.counts, totals, out=np.full(self.counts.shape, np.nan), where=totals > 0
        )

    @property
    def accuracy(self) -> float:
        """Mean over the concepts asked of the share nearest to their own photos."""
        own = self.shares.diagonal()
        return float(np.nanmean(own)) if np.isfinite(own).any() else float("nan")

    def worst(self, count: int = 3) -> list[tuple[str, str, float]]:
        """The most frequent confusions: asked, nearest, share; none that never happened."""
        shares = np.nan_to_num(self.shares)
        np.fill_diagonal(shares, 0.0)
        order = np.argsort(-shares, axis=None, kind="stable")[:count]
        places = [divmod(int(flat), len(self.concepts)) for flat in order]
        found = [(self.concepts[i], self.concepts[j], float(shares[i, j])) for i, j in places]
        return [each for each in found if each[2] > 0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "concepts": list(self.concepts),
            "counts": self.counts.tolist(),
            "accuracy": None if np.isnan(self.accuracy) else self.accuracy,
        }
