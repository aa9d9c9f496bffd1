"""Slots: encoded prompts, perhaps encoded apart and with concepts of several banks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..concept import Concept
from ..text import TextContext

ConceptId = tuple[str, ...]
"""What tells a concept from all others: bank, name, version, time, strength, asking phrases."""
Concepts = Mapping[ConceptId, Concept]
ConceptWeights = Mapping[ConceptId, Tensor]  # (layers,) for each concept


@dataclass(frozen=True, eq=False)
class Slot:
    """One encoded prompt with the weights of the concepts.

    Attributes:
        prompt: For messages.
        text: What cross-attention reads; None where the host's own text is left as it is.
        weights: psi(M) of Eq. 3, (layers, concepts).
        relevance: M, likewise.
        owners: Whose each trigger is, by the concept's number; None: that of the only bank.
        residuals: Whether value residuals act in it: not in what a picture should not show, nor in
            rows that lend others their queries (`streams`).
    """

    prompt: str
    text: TextContext | None
    weights: Tensor
    relevance: Tensor
    owners: Mapping[str, int] | None = None
    residuals: bool = True


class Weighed(Protocol):
    """A prompt with the weights of its concepts."""

    @property
    def concepts(self) -> Concepts: ...
    @property
    def weights(self) -> Tensor: ...  # (layers, concepts)


class SlotTable:
    """Collects texts and weights; concepts get their column when all are known."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._concepts: dict[ConceptId, Concept] = {}
        self._held: list[tuple[Slot, ConceptWeights, Concepts]] = []

    def weigh(self, prompts: Sequence[Weighed]) -> ConceptWeights:
        """The mean weights of some prompts, which act together."""
        columns = [dict(zip(p.concepts, p.weights.unbind(1), strict=True)) for p in prompts]
        for prompt in prompts:
            self._concepts |= prompt.concepts
        names = dict.fromkeys(name for each in columns for name in each)
        zero = torch.zeros(self._layers)
        return {n: torch.stack([each.get(n, zero) for each in columns]).mean(0) for n in names}

    def add(
        self,
        prompt: str,
        text: TextContext | None,
        weights: ConceptWeights,
        own: Concepts,
        *,
        residuals: bool = True,
    ) -> int:
        """The number of a new slot, whose words call the concepts `own`; see `Slot`."""
        if residuals:  # which act whoever weighs
            self._concepts |= {k: c for k, c in own.items() if c.residuals}
        none = torch.zeros(self._layers, 0)
        self._held.append((Slot(prompt, text, none, none, residuals=residuals), weights, own))
        return len(self._held) - 1

    def finish(self) -> tuple[tuple[Concept, ...], tuple[Slot, ...]]:
        """The concepts, and every slot with its weights (layers, concepts)."""
        places = {name: i for i, name in enumerate(self._concepts)}
        slots: list[Slot] = []
        for slot, weights, own in self._held:
            table = torch.zeros(self._layers, len(places))
            for name, column in weights.items():
                table[:, places[name]] = column
            owners = {t: places[n] for n, c in own.items() if n in places for t in c.triggers}
            slots.append(replace(slot, weights=table, relevance=table, owners=owners))
        return tuple(self._concepts.values()), tuple(slots)
