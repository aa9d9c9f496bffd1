"""Encoded text as cross-attention reads it, the same in every host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spans:
    """Where things stand among the tokens of a prompt; start, end and padding are neither.

    Attributes:
        triggers: Positions of the tokens of each concept word or trigger phrase.
        plain: Positions of the tokens of all other words.
        ends: Positions of the last token of each word or phrase among the triggers.
    """

    triggers: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    plain: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class TextContext:
    """One encoded prompt.

    Attributes:
        states: Hidden states (layers, tokens, dim), one version per cross-attention layer; a
            single layer where all are the same.
        pooled: The prompt as one vector (dim,), for families whose UNet reads one.
        spans: Where its words stand.
    """

    states: Tensor
    pooled: Tensor | None
    spans: Spans

    def at(self, layer: int) -> Tensor:
        """What a cross-attention layer reads, (tokens, dim)."""
        return self.states[min(layer, len(self.states) - 1)]


def end_to_end(parts: Sequence[TextContext]) -> TextContext:
    """Texts that were encoded apart as one behind another; it has no vector of its own."""
    if len(parts) == 1:
        return parts[0]
    layers = max(len(part.states) for part in parts)
    states = [part.states.expand(layers, -1, -1) for part in parts]
    triggers: dict[str, tuple[int, ...]] = {}
    plain: list[int] = []
    starts = [0, *accumulate(each.shape[1] for each in states[:-1])]
    for part, start in zip(parts, starts, strict=True):
        for word, places in part.spans.triggers.items():
            triggers[word] = (*triggers.get(word, ()), *(start + place for place in places))
        plain += [start + place for place in part.spans.plain]
    return TextContext(torch.cat(states, 1), None, Spans(triggers, tuple(plain)))


def pooled_text(versions: Tensor) -> Tensor:
    """The pooled text (dim,) of a prompt's versions (layers, dim): a UNet reads one for all layers.

    It is their mean; how far one layer's words reach into it is then the same for all layers.
    """
    return versions.mean(0)
