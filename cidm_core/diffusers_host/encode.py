"""Layer-wise text encoding: every cross-attention layer reads its own version of the prompt.

Paper: CIDM section 4.1. Each concept token owns one embedding per layer, so a prompt with a
concept word is encoded once per layer; all other prompts are encoded once and shared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..concept import Concept
from ..errors import PromptError
from ..ops import routing
from ..words import normalise, split
from .load import Base

log = logging.getLogger(__name__)

CONCEPTS_AT_ONCE = 16  # concept words encoded in one call; each is encoded once per layer

Embeddings = Mapping[str, Mapping[str, Tensor]]  # word -> encoder -> (layers, dim)


@dataclass(frozen=True)
class Tokens:
    """One prompt as ids (max_tokens,): where its concept words stand, and its end token."""

    ids: list[int]
    positions: list[tuple[int, str]]
    end: int


def embeddings_of(concepts: Iterable[Concept]) -> dict[str, dict[str, Tensor]]:
    """Word -> encoder -> (layers, dim) rows of all the concepts."""
    return {
        word: {encoder: rows[i] for encoder, rows in concept.tokens.items()}
        for concept in concepts
        for i, word in enumerate(concept.words)
    }


def tokenise(tokenizer: Any, text: str, words: Iterable[str], max_tokens: int) -> Tokens:
    """Token ids with one placeholder per concept word, cut and padded to `max_tokens`.

    The placeholder's own embedding is never read; only its position matters.

    Raises:
        PromptError: If a concept word lies beyond the token limit. Plain text beyond it is cut
            with a warning, as everywhere in the field.
    """
    known = {normalise(word) for word in words}
    ids: list[int] = [tokenizer.bos_token_id]
    positions: list[tuple[int, str]] = []
    for piece in split(text, known):
        if piece in known:
            positions.append((len(ids), piece))
            ids.append(tokenizer.unk_token_id)
        else:
            ids += tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
    room = max_tokens - 1
    for position, word in positions:
        if position >= room:
            raise PromptError(
                f"Concept word {word!r} is token {position} of the prompt, but the text encoder "
                f"reads {room - 1}. Move it nearer to the start, or shorten {text[:60]!r}..."
            )
    if len(ids) > room:
        log.warning("Prompt cut after %d tokens: %r", room - 1, text[:80])
    ids = ids[:room]
    padding = [tokenizer.pad_token_id] * (room - len(ids))
    return Tokens([*ids, tokenizer.eos_token_id, *padding], positions, len(ids))


def word_positions(base: Base, prompt: str, words: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Where each concept word stands among the prompt's tokens, in the first encoder.

    Raises:
        PromptError: If a word lies beyond the token limit.
    """
    row, wanted = base.family.encoders[0], [normalise(word) for word in words]
    found = tokenise(base.tokenizers[0], prompt, wanted, row.max_tokens).positions
    return {word: tuple(p for p, w in found if w == word) for word in wanted}


def encode(base: Base, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Tensor:
    """Layer-wise context of each prompt, (prompts, layers, tokens, dim).

    Args:
        base: The model whose text encoders are used.
        prompts: Each distinct prompt is encoded once, however often it is listed.
        embeddings: Rows of the concept words, word -> encoder -> (layers, dim); they may require
            gradients.

    Raises:
        PromptError: If a concept word lies beyond the token limit.
    """
    distinct = list(dict.fromkeys(prompts))
    per_encoder = [
        _encode_one(base, index, distinct, embeddings or {})
        for index in range(len(base.text_encoders))
    ]
    contexts = torch.cat(per_encoder, dim=-1)
    if len(distinct) == len(prompts):
        return contexts
    where = {prompt: i for i, prompt in enumerate(distinct)}
    return contexts[torch.tensor([where[prompt] for prompt in prompts], device=contexts.device)]


def _encode_one(base: Base, index: int, prompts: list[str], embeddings: Embeddings) -> Tensor:
    row, encoder = base.family.encoders[index], base.text_encoders[index]
    layers = len(base.layers)
    tokens = [
        tokenise(base.tokenizers[index], prompt, embeddings, row.max_tokens) for prompt in prompts
    ]
    # A prompt without concept words is the same in all layers: one row instead of L.
    copies = [layers if t.positions else 1 for t in tokens]
    ids = torch.tensor([t.ids for t, n in zip(tokens, copies, strict=True) for _ in range(n)])
    where, vectors = _replacements(tokens, copies, embeddings, row.name)
    states = _run(encoder, ids.to(base.device), where, vectors, row.penultimate)
    chunks = states.split(copies)
    return torch.stack([chunk.expand(layers, -1, -1) for chunk in chunks])


def _replacements(
    tokens: list[Tokens], copies: list[int], embeddings: Embeddings, encoder: str
) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    rows: list[int] = []
    columns: list[int] = []
    vectors: list[Tensor] = []
    start = 0
    for t, count in zip(tokens, copies, strict=True):
        for position, word in t.positions:
            rows += range(start, start + count)
            columns += [position] * count
            vectors.append(embeddings[word][encoder])
        start += count
    where = (torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long))
    return where, torch.cat(vectors) if vectors else None


def _run(
    encoder: Any,
    ids: Tensor,
    where: tuple[Tensor, Tensor],
    vectors: Tensor | None,
    penultimate: bool,
) -> Tensor:
    """Hidden states (rows, tokens, dim) with the concept vectors put in at `where`."""

    def put_in(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        if vectors is None:
            return output
        index = tuple(axis.to(output.device) for axis in where)
        return output.index_put(index, vectors.to(output.device, output.dtype))

    # A hook works with every transformers version; `inputs_embeds` is gone from version 5.
    handle = encoder.get_input_embeddings().register_forward_hook(put_in)
    try:
        output = encoder(ids, output_hidden_states=penultimate)
    finally:
        handle.remove()
    return output.hidden_states[-2] if penultimate else output.last_hidden_state


class DiffusersEncoder:
    """`plan.TextEncoder` on a diffusers base."""

    def __init__(self, base: Base) -> None:
        self.base = base

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str], concepts: Sequence[Concept]) -> Tensor:
        return encode(self.base, prompts, embeddings_of(concepts)).float()

    def owners(self, prompts: Sequence[str], concepts: Sequence[Concept]) -> Tensor:
        """Whose token each one is, (prompts, tokens).

        Plain words keep the base weights. The start, the end and the padding belong to no word:
        they sum the prompt up, and keep its weights.
        """
        index = {word: i for i, concept in enumerate(concepts) for word in concept.words}
        limit = self.base.family.encoders[0].max_tokens
        table = torch.full((len(prompts), limit), routing.PROMPT)
        for row, prompt in zip(table, prompts, strict=True):
            tokens = tokenise(self.base.tokenizers[0], prompt, index, limit)
            row[1 : tokens.end] = routing.BARE
            for position, word in tokens.positions:
                row[position] = index[word]
        return table

    @torch.no_grad()
    def concept_tokens(self, concepts: Sequence[Concept], joint: bool) -> tuple[Tensor, Tensor]:
        """Concept words encoded each task alone, or as released all in one prompt.

        Raises:
            PromptError: If joint, and the words of all concepts exceed the token limit.
        """
        embeddings = embeddings_of(concepts)
        triggers = [concept.trigger for concept in concepts]
        texts = [" ".join(triggers)] if joint else triggers
        longest = max(len(concept.words) for concept in concepts)
        row = self.base.family.encoders[0]
        result: list[Tensor] = []
        for start in range(0, len(texts), CONCEPTS_AT_ONCE):
            part = texts[start : start + CONCEPTS_AT_ONCE]
            contexts = encode(self.base, part, embeddings).float()
            for text, context in zip(part, contexts, strict=True):
                found = tokenise(self.base.tokenizers[0], text, embeddings, row.max_tokens)
                where = {word: position for position, word in found.positions}
                owners = concepts if joint else [concepts[len(result)]]
                for concept in owners:
                    rows = context[:, [where[word] for word in concept.words]]
                    result.append(nn.functional.pad(rows, (0, 0, 0, longest - rows.shape[1])))
        mask = torch.tensor([[i < len(c.words) for i in range(longest)] for c in concepts])
        return torch.stack(result), mask.to(self.base.device)
