"""Text states of a merge: what a host encoded, as the rows that count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import CidmError
from ..ops import merging
from ..text import Spans, TextContext
from .settings import OnProgress
from .texts import first_token, target_texts

Encode = Callable[[Sequence[str], Sequence[Concept]], Sequence[TextContext]]
"""What a host offers: texts as they stand, without weights, in which the concepts' words count."""

_AT_ONCE = 32  # captions encoded in one call


def ordinary(
    encode: Encode, captions: Sequence[str], tell: OnProgress
) -> tuple[merging.OrdinaryText, int]:
    """What the captions hold the weights to, and the number of their rows.

    Raises:
        CidmError: If there is no caption, or a state is not finite.
    """
    gram, count = torch.zeros(()), 0
    for start in range(0, len(captions), _AT_ONCE):
        texts = captions[start : start + _AT_ONCE]
        pairs = zip(texts, encode(texts, ()), strict=True)
        rows = torch.cat([_rows(text, found)[0] for text, found in pairs])
        gram, count = gram + rows.mT @ rows, count + len(rows)
        tell(start + len(texts), len(captions), "Encoding captions")
    if not count:
        raise CidmError("There are no ordinary captions. Give some, one a line.")
    return merging.ordinary_text(gram), count


@dataclass(frozen=True, eq=False)
class Wanted:
    """The texts that concepts are held to: whose each is, and its states (layers or 1, rows, dim).

    The words of some concepts have rows of their own in every layer, so layers read other states.
    """

    owners: tuple[int, ...]
    states: tuple[Tensor, ...]

    @classmethod
    def of(cls, concepts: Sequence[Concept], encode: Encode, rows: str) -> Wanted:
        """Encode the texts of all subjects, by the rule `rows` of `settings.ROWS`."""
        texts = [
            (i, text)
            for i, concept in enumerate(concepts)
            for subject in concept.subjects
            for text in target_texts(subject, rows)
        ]
        contexts = encode([text for _, text in texts], concepts)
        pairs = zip(texts, contexts, strict=True)
        states = tuple(_rows(text, found) for (_, text), found in pairs)
        return cls(tuple(i for i, _ in texts), states)

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(each.shape[1] for each in self.states)

    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """Whose each row is, (rows,), and the rows as a layer reads them, (rows, dim)."""
        rows = [each[min(layer, len(each) - 1)] for each in self.states]
        counts = torch.tensor([len(each) for each in rows])
        return torch.tensor(self.owners).repeat_interleave(counts), torch.cat(rows)


def _rows(text: str, context: TextContext) -> Tensor:
    """The states that count, (layers or 1, rows, dim): up to the end token."""
    return context.states[:, first_token(text) : _end(context.spans) + 1].cpu().double()


def _end(spans: Spans) -> int:
    """The place of the end token: right behind the last word."""
    places = [*spans.plain, *(place for at in spans.triggers.values() for place in at)]
    return max(places, default=0) + 1
