"""Layer-wise text encoding: every cross-attention layer reads its own version of the prompt.

Paper: CIDM section 4.1. Each concept word owns one embedding per layer, so a prompt with a concept
word is encoded once per layer; all other prompts are encoded once and shared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from ..as_text import warn_once
from ..calls import Name, find_calls
from ..concept import Concept
from ..errors import PromptError
from ..sampling.encoder_updates import changing, encoder_deltas
from ..text import Spans, TextContext
from ..words import canonical
from .base import Base, changed_weights
from .prompt_weights import apply_weights, foreign_syntax, stretches_of

logger = logging.getLogger(__name__)

CONCEPTS_AT_ONCE = 16  # concept words encoded in one call; each is encoded once per layer

Embeddings = Mapping[str, Mapping[str, Tensor]]  # word -> encoder -> (layers or 1, dim)


@dataclass(frozen=True)
class Tokens:
    """One prompt as ids (max_tokens,): where its words and phrases stand, what tokens weigh."""

    ids: list[int]
    words: list[tuple[int, str]]
    spans: Spans
    weights: list[float]


def embeddings_of(concepts: Iterable[Concept]) -> dict[str, dict[str, Tensor]]:
    """Word -> encoder -> (layers or 1, dim) rows of all the concepts."""
    return {
        word: {encoder: rows[i] for encoder, rows in concept.rows.items()}
        for concept in concepts
        for i, word in enumerate(concept.words)
    }


def tokenise(
    tokenizer: Any,
    text: str,
    names: Iterable[Name],
    max_tokens: int,
    phrases: Iterable[str] = (),
    *,
    weighted: bool = False,
    quiet: bool = False,
) -> Tokens:
    """Token ids with one placeholder per concept word, cut and padded to `max_tokens`.

    The placeholder's own embedding is never read; only its position matters.

    Args:
        tokenizer: As transformers has it.
        text: The prompt.
        names: Names made of concept words; only where all of its words stand is one bound.
        max_tokens: What the encoder reads, start and end included.
        phrases: Plain words whose tokens are to be found as well.
        weighted: Whether `(word:1.2)` is a weight, as in prompts, or text, as in captions.
        quiet: Do not tell of plain text beyond the limit, which is cut as everywhere in the field.

    Raises:
        PromptError: If a concept word lies beyond the token limit.
    """
    plain_names = [(canonical(phrase),) for phrase in phrases]
    stretches = stretches_of(canonical(text)) if weighted else [(canonical(text), 1.0)]
    ids: list[int] = [tokenizer.bos_token_id]
    weights: list[float] = [1.0]
    positions: list[tuple[int, str]] = []
    triggers: dict[str, tuple[int, ...]] = {}
    plain: list[int] = []
    for piece, weight, call in _pieces(stretches, [*names, *plain_names]):
        start = len(ids)
        if call is not None and call not in plain_names:
            positions.append((start, piece))
            ids.append(tokenizer.unk_token_id)
        else:
            ids += tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
        if call is not None:
            triggers[piece] = (*triggers.get(piece, ()), *range(start, len(ids)))
        else:
            plain += range(start, len(ids))
        weights += [weight] * (len(ids) - start)
    room = max_tokens - 1
    for position, word in positions:
        if position >= room:
            raise PromptError(
                f"Concept word {word!r} is token {position} of the prompt, but the text encoder "
                f"reads {room - 1}. Move it nearer to the start, or shorten {text[:60]!r}..."
            )
    if len(ids) > room and not quiet:
        warn_once(logger, f"Prompt cut after {room - 1} tokens: {text!r}")
    ids, weights = ids[:room], weights[:room]
    padding = [tokenizer.pad_token_id] * (room - len(ids))
    read = {word: tuple(p for p in at if p < room) for word, at in triggers.items()}
    spans = Spans(read, tuple(position for position in plain if position < room))
    weights += [1.0] * (max_tokens - len(weights))
    return Tokens([*ids, tokenizer.eos_token_id, *padding], positions, spans, weights)


def _pieces(
    stretches: Sequence[tuple[str, float]], names: Sequence[Name]
) -> Iterator[tuple[str, float, Name | None]]:
    """A prompt cut at concept words and changes of weight: piece, weight, whose word it is."""
    text = "".join(part for part, _ in stretches)
    owners = {span: call.name for call in find_calls(text, names) for span in call.at}
    weights = [weight for part, weight in stretches for _ in part]
    cuts = {0, len(text), *accumulate(len(part) for part, _ in stretches)}
    for start, end in owners:
        cuts = {cut for cut in cuts if not start < cut < end} | {start, end}
    for start, end in pairwise(sorted(cuts)):
        yield text[start:end], weights[start], owners.get((start, end))


def encode(base: Base, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Tensor:
    """Layer-wise context of each prompt, (prompts, layers, tokens, dim).

    Args:
        base: The model whose text encoders are used.
        prompts: Each distinct prompt is encoded once, however often it is listed. What is cut
            of them is not told of: a run looks at its captions again and again.
        embeddings: Rows of the concept words, word -> encoder -> (layers or 1, dim); they may
            require gradients.

    Raises:
        PromptError: If a concept word lies beyond the token limit.
    """
    distinct = list(dict.fromkeys(prompts))
    found = encode_texts(base, distinct, embeddings or {}, quiet=True)
    contexts = torch.stack([text.states.expand(len(base.layers), -1, -1) for text in found])
    if len(distinct) == len(prompts):
        return contexts
    where = {prompt: i for i, prompt in enumerate(distinct)}
    return contexts[torch.tensor([where[prompt] for prompt in prompts], device=contexts.device)]


def encode_texts(
    base: Base,
    prompts: Sequence[str],
    embeddings: Embeddings,
    names: Iterable[Name] | None = None,
    phrases: Sequence[str] = (),
    *,
    weighted: bool = False,
    quiet: bool = False,
) -> list[TextContext]:
    """Each prompt as cross-attention reads it, as for `encode`; further arguments: `tokenise`."""
    names = [(word,) for word in embeddings] if names is None else list(names)
    parts: list[tuple[Tensor, ...]] = []
    spans: list[Spans] = []
    for index, row in enumerate(base.family.encoders):
        tokenizer = base.tokenizers[index]
        tokens = [
            tokenise(
                tokenizer, text, names, row.max_tokens, phrases, weighted=weighted, quiet=quiet
            )
            for text in prompts
        ]
        spans = spans or [each.spans for each in tokens]
        parts.append(_states(base, index, tokens, embeddings))
    states = (
        parts[0] if len(parts) == 1 else [torch.cat(each, -1) for each in zip(*parts, strict=True)]
    )
    return [TextContext(each, None, span) for each, span in zip(states, spans, strict=True)]


def _states(
    base: Base, index: int, tokens: Sequence[Tokens], embeddings: Embeddings
) -> tuple[Tensor, ...]:
    """Hidden states of one encoder, (layers or 1, tokens, dim) for each prompt."""
    row, encoder = base.family.encoders[index], base.text_encoders[index]
    ids: list[list[int]] = []
    copies: list[int] = []
    where: list[tuple[int, int]] = []
    vectors: list[Tensor] = []
    for prompt in tokens:
        # A prompt whose words are the same in all layers is encoded once instead of L times.
        count = max((len(embeddings[word][row.name]) for _, word in prompt.words), default=1)
        for position, word in prompt.words:
            where += [(len(ids) + copy, position) for copy in range(count)]
            own = embeddings[word][row.name]
            vectors.append(own if len(own) == count else own.expand(count, -1))
        ids += [prompt.ids] * count
        copies.append(count)
    weighted = any(weight != 1.0 for prompt in tokens for weight in prompt.weights)
    if weighted:
        ids.append(tokenise(base.tokenizers[index], "", (), row.max_tokens).ids)
    states = _run(encoder, torch.tensor(ids).to(base.device), where, vectors, row.penultimate)
    if not weighted:
        return states.split(copies)
    *found, empty = states.split([*copies, 1])
    weights = torch.tensor([prompt.weights for prompt in tokens]).to(states)
    return tuple(apply_weights(*each, empty[0]) for each in zip(found, weights, strict=True))


def _run(
    encoder: Any,
    ids: Tensor,
    where: Sequence[tuple[int, int]],
    vectors: Sequence[Tensor],
    penultimate: bool,
) -> Tensor:
    """Hidden states (rows, tokens, dim) with concept vectors put in at rows and positions."""

    def put_in(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        if not vectors:
            return output
        index = torch.tensor(where, device=output.device).unbind(1)
        return output.index_put(index, torch.cat(list(vectors)).to(output))

    # A hook works with every transformers version; `inputs_embeds` is gone from version 5.
    handle = encoder.get_input_embeddings().register_forward_hook(put_in)
    try:
        output = encoder(ids, output_hidden_states=penultimate)
    finally:
        handle.remove()
    return output.hidden_states[-2] if penultimate else output.last_hidden_state


class DiffusersEncoder:
    """`plan.TextEncoder` on a diffusers base.

    Args:
        base: The model.
        strength: Scale of what the concepts change in the text encoders.
    """

    def __init__(self, base: Base, strength: float = 1.0) -> None:
        self.base, self._strength = base, strength

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str], concepts: Sequence[Concept]) -> list[TextContext]:
        """Each prompt, with its concepts' words and changes of the text encoder."""
        groups: dict[tuple[str, ...], list[str]] = {}
        named = {concept.name: concept for concept in concepts}
        for text in prompts:
            for syntax in foreign_syntax(text):
                logger.warning("%s in the prompt %r is taken as plain words here.", syntax, text)
            names = tuple(concept.name for concept in changing(text, concepts))
            groups.setdefault(names, []).append(text)
        embeddings = embeddings_of(concepts)
        subjects = [subject for concept in concepts for subject in concept.subjects]
        bound = [subject.words for subject in subjects if subject.words]
        phrases = [subject.triggers[0] for subject in subjects if not subject.words]
        found: dict[str, TextContext] = {}
        for names, texts in groups.items():
            deltas = encoder_deltas([named[name] for name in names], self._strength)
            changed = ((self.base.module(path), delta) for path, delta in deltas.items())
            with changed_weights(changed):
                encoded = encode_texts(self.base, texts, embeddings, bound, phrases, weighted=True)
            found |= zip(texts, encoded, strict=True)
        return [replace(found[text], states=found[text].states.float()) for text in prompts]

    def triggers(self, groups: Sequence[Sequence[Concept]]) -> list[TextContext]:
        """The triggers of each group of concepts, encoded as one prompt.

        Raises:
            PromptError: If those of one group exceed the token limit.
        """
        concepts = [concept for group in groups for concept in group]
        texts = [" ".join(concept.trigger for concept in group) for group in groups]
        found: list[TextContext] = []
        for start in range(0, len(texts), CONCEPTS_AT_ONCE):
            found += self.prompts(texts[start : start + CONCEPTS_AT_ONCE], concepts)
        return found
