"""Which concepts of a bank take part in a prompt, and with which weights (CIDM section 4.2)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..bank import Bank
from ..concept import Concept
from ..config import SampleConfig
from ..errors import PromptError
from ..ops import aggregation
from ..text import TextContext
from ..words import canonical, contains

# Tags such as <lora:name:1> are other tools' syntax.
_LOOKS_LIKE_WORD = re.compile(r"<[^<>\s:]{1,40}>")

Weigher = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Context (layers, tokens, dim), present (concepts) -> relevance, weights (layers, concepts)."""


class ConceptEncoder(Protocol):
    """What a host offers for weighing."""

    def triggers(self, groups: Sequence[Sequence[Concept]]) -> Sequence[TextContext]:
        """The triggers of each group of concepts, encoded as one prompt."""
        ...


def owners_of(bank: Mapping[str, Concept]) -> dict[str, str]:
    """What calls a concept -> name of that concept; of a `Bank` only the headers are read."""
    if isinstance(bank, Bank):
        return dict(bank.words())
    return {word: name for name, concept in bank.items() for word in concept.triggers}


def check_words(texts: Iterable[str], owners: Mapping[str, str]) -> None:
    """Refuse a prompt with a word that looks like a concept's and is none.

    Raises:
        PromptError: Naming the word and the nearest one there is.
    """
    for text in texts:
        for word in _LOOKS_LIKE_WORD.findall(canonical(text)):
            if word in owners:
                continue
            near = difflib.get_close_matches(word, owners, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "The bank holds no such word."
            raise PromptError(f"No concept has the word {word!r} of the prompt {text!r}. {hint}")


def named(texts: Iterable[str], owners: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the concepts that the texts name, in learning order (as a bank lists its words)."""
    plain = [canonical(text) for text in texts]
    # A plain look-up first: matching every word of a large bank by pattern takes far longer.
    found = dict.fromkeys(
        name
        for word, name in owners.items()
        if any(word in text and contains(text, word) for text in plain)
    )
    return tuple(found)


def participants(
    bank: Mapping[str, Concept], names: Sequence[str], config: SampleConfig
) -> tuple[Concept, ...]:
    """The concepts that can get a weight: all of them in dense modes, the named ones gated."""
    return tuple(bank[name] for name in (names if config.weights == "gate" else bank))


def concept_tokens(
    encoder: ConceptEncoder, concepts: Sequence[Concept], joint: bool
) -> tuple[Tensor, Tensor]:
    """Encoded triggers, each concept alone, or as released all in one prompt.

    Returns:
        Tokens (concepts, layers, words, dim), padded, and which are words (concepts, words).
    """
    groups = [concepts] if joint else [[concept] for concept in concepts]
    contexts = encoder.triggers(groups)
    owned = zip(groups, contexts, strict=True)
    found = [_rows(context, concept) for group, context in owned for concept in group]
    counts = [rows.shape[1] for rows in found]
    padded = [functional.pad(rows, (0, 0, 0, max(counts) - rows.shape[1])) for rows in found]
    mask = torch.tensor([[i < count for i in range(max(counts))] for count in counts])
    return torch.stack(padded), mask.to(found[0].device)


def _rows(context: TextContext, concept: Concept) -> Tensor:
    """A concept's tokens in an encoded text, (layers, tokens, dim)."""
    at = [place for trigger in concept.triggers for place in context.spans.triggers[trigger]]
    return context.states.expand(len(concept.layers), -1, -1)[:, at]


def weigher(encoder: ConceptEncoder, concepts: Sequence[Concept], config: SampleConfig) -> Weigher:
    """A function from a prompt's context to relevance M and weights psi(M) (Eq. 3).

    The concept tokens are encoded here, once.
    """
    if not concepts:

        def none(context: Tensor, _present: Tensor) -> tuple[Tensor, Tensor]:
            empty = context.new_zeros(len(context), 0)
            return empty, empty

        return none
    tokens, words = concept_tokens(encoder, concepts, config.encoding == "joint")
    tokens = tokens.transpose(0, 1).double()  # (layers, concepts, words, dim)
    gated = config.weights == "gate"

    def weigh(context: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        mode = "released" if config.weights == "released" else "paper"
        relevance = aggregation.relevance(context.double(), tokens, words, mode)
        weights = aggregation.normalise(
            relevance,
            config.weights,
            present=present.to(relevance.device) if gated else None,
            top_k=config.top_k if gated else None,
        )
        return relevance.float(), weights.float()

    return weigh
