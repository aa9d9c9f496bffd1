"""Which concepts of a bank take part in a prompt, and with which weights (CIDM section 4.2)."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..bank import Bank
from ..calls import Name, as_written, find_calls, stray_tags
from ..concept import Concept
from ..config import SampleConfig
from ..errors import PromptError
from ..ops import aggregation
from ..storage.record import Entry
from ..text import TextContext

logger = logging.getLogger(__name__)

Weigher = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Context (layers, tokens, dim), present (concepts) -> relevance, weights (layers, concepts)."""


class ConceptEncoder(Protocol):
    """What a host offers for weighing."""

    def triggers(self, groups: Sequence[Sequence[Concept]]) -> Sequence[TextContext]:
        """The triggers of each group of concepts, encoded as one prompt."""
        ...


def callers_of(bank: Mapping[str, Concept]) -> dict[Name, str]:
    """What calls a concept -> name of that concept; of a `Bank` only the headers are read."""
    if isinstance(bank, Bank):
        return bank.callers()
    return {call: name for name, concept in bank.items() for call in concept.names}


def known_in(bank: Mapping[str, Concept]) -> Mapping[str, Concept | Entry]:
    """The concepts of a bank by name; of a `Bank` only the headers are read."""
    return {entry.name: entry for entry in bank.entries()} if isinstance(bank, Bank) else bank


def check_words(
    texts: Iterable[str], callers: Mapping[Name, str], bank: Mapping[str, Concept]
) -> None:
    """Refuse a prompt with what looks like a concept word and is none; note half a name.

    Raises:
        PromptError: Naming the word, and the nearest one there is or the files that may hold it.
    """
    words = {word: call for call in callers for word in call}
    for text in texts:
        for tag in stray_tags(text, find_calls(text, callers), words):
            call = words.get(tag)
            if call is None:
                hint = _hint(tag, words, bank)
                raise PromptError(f"No concept has the word {tag!r} of the prompt {text!r}. {hint}")
            if len(call) == 1:
                raise PromptError(f"The prompt {text!r} nearly holds {tag!r}. Write {tag!r}.")
            logger.warning(
                "%r in the prompt %r is a part of the name %r; the concept %r takes part only "
                "where the whole name stands.",
                *(tag, text, as_written(call), callers[call]),
            )


def _hint(tag: str, words: Iterable[str], bank: Mapping[str, Concept]) -> str:
    if near := difflib.get_close_matches(tag, words, n=1):
        return f"Did you mean {near[0]!r}?"
    return unreadable(bank) or "The bank holds no such word."


def unreadable(bank: Mapping[str, Concept]) -> str:
    """What to tell of files of a bank that may hold what is sought; "" if there are none."""
    broken = bank.broken() if isinstance(bank, Bank) else ()
    files = ", ".join(f"'{path.name}'" for path, _ in broken)
    return f"It holds files that cannot be read: {files}. Restore them." if files else ""


def named(texts: Iterable[str], callers: Mapping[Name, str]) -> tuple[str, ...]:
    """Names of the concepts that the texts call, in learning order (as a bank lists them)."""
    calls = {found.name for text in texts for found in find_calls(text, callers)}
    return tuple(dict.fromkeys(name for call, name in callers.items() if call in calls))


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

    The concept tokens are encoded here, once. Concepts that act at their own tokens alone have no
    weights to be weighed and take nothing from the others: 1 where they are present, else 0.
    """
    held = [i for i, concept in enumerate(concepts) if not concept.at_tokens_alone]
    if len(held) < len(concepts):
        return _beside(held, weigher(encoder, [concepts[i] for i in held], config))
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


def _beside(held: Sequence[int], weigh_held: Weigher) -> Weigher:
    """Weighs some of the concepts; the others count where they are present."""

    def weigh(context: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        relevance, weights = weigh_held(context, present[list(held)])
        shape = (len(context), len(present))
        of_all = present.to(weights).expand(shape).clone()
        of_all[:, list(held)] = weights
        told = relevance.new_zeros(shape)
        told[:, list(held)] = relevance
        return told, of_all

    return weigh
