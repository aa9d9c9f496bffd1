"""Layer-wise text encoding: every cross-attention layer reads its own version of the prompt.

Paper: CIDM section 4.1. Each concept word owns one embedding per layer, so a prompt with a concept
word is encoded once per layer; all other prompts are encoded once and shared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..calls import Name
from ..concept import Concept
from ..sampling.encoder_updates import changing, encoder_deltas
from ..sampling.versions import distinct_versions
from ..text import Spans, TextContext, end_to_end, pooled_text
from .base import Base, changed_weights
from .prompt_weights import apply_weights, foreign_syntax
from .tokens import Tokens, tokenise

logger = logging.getLogger(__name__)

CONCEPTS_AT_ONCE = 16  # concept words encoded in one call; each is encoded once per layer

Embeddings = Mapping[str, Mapping[str, Tensor]]  # word -> encoder -> (versions, dim)


def embeddings_of(concepts: Iterable[Concept]) -> dict[str, dict[str, Tensor]]:
    """Word -> encoder -> (layers or 1, dim) rows of all the concepts."""
    return {
        word: {encoder: rows[i] for encoder, rows in concept.rows.items()}
        for concept in concepts
        for i, word in enumerate(concept.words)
    }


def encode(
    base: Base, prompts: Sequence[str], embeddings: Embeddings | None = None
) -> tuple[Tensor, Tensor | None]:
    """What the UNet reads of each prompt.

    Args:
        base: The model whose text encoders are used.
        prompts: Each distinct prompt is encoded once, however often it is listed. What is cut
            of them is not told of: a run looks at its captions again and again.
        embeddings: Rows of the concept words, word -> encoder -> (versions, dim), a version for
            each layer or for some that share it; they may require gradients.

    Returns:
        Hidden states (prompts, versions, tokens, dim), and pooled text (prompts, dim) or None.

    Raises:
        PromptError: If a concept word lies beyond the token limit.
    """
    distinct = list(dict.fromkeys(prompts))
    found = encode_texts(base, distinct, embeddings or {}, quiet=True)
    versions = max(len(text.states) for text in found)
    states = torch.stack([text.states.expand(versions, -1, -1) for text in found])
    vectors = [text.pooled for text in found if text.pooled is not None]
    pooled = torch.stack(vectors) if vectors else None
    if len(distinct) == len(prompts):
        return states, pooled
    where = {prompt: i for i, prompt in enumerate(distinct)}
    rows = torch.tensor([where[prompt] for prompt in prompts], device=states.device)
    return states[rows], None if pooled is None else pooled[rows]


def encode_texts(
    base: Base,
    prompts: Sequence[str],
    embeddings: Embeddings,
    names: Iterable[Name] | None = None,
    phrases: Sequence[str] = (),
    *,
    weighted: bool = False,
    quiet: bool = False,
    padded: bool = True,
) -> list[TextContext]:
    """Each prompt as cross-attention reads it, as for `encode`; further arguments: `tokenise`.

    Without `padded` nothing beyond the longest prompt's end token is encoded. The encoders are
    causal: what stands before it is the same.
    """
    names = [(word,) for word in embeddings] if names is None else list(names)
    parts: list[tuple[Tensor, ...]] = []
    pooled: Sequence[Tensor | None] = [None] * len(prompts)
    spans: list[Spans] = []
    for index, row in enumerate(base.family.encoders):
        tokens = [
            tokenise(
                base.tokenizers[index],
                text,
                names,
                row.max_tokens,
                phrases,
                weighted=weighted,
                quiet=quiet,
                pad_id=row.pad_id,
            )
            for text in prompts
        ]
        spans = spans or [each.spans for each in tokens]
        if not padded:
            longest = max((each.end for each in tokens), default=0) + 1
            tokens = [_cut(each, longest) for each in tokens]
        states, found = _states(base, index, tokens, embeddings)
        parts.append(states)
        pooled = found if row.pooled else pooled
    joined = [_joined(each) for each in zip(*parts, strict=True)]
    return [TextContext(*each) for each in zip(joined, pooled, spans, strict=True)]


def _cut(tokens: Tokens, length: int) -> Tokens:
    return replace(tokens, ids=tokens.ids[:length], weights=tokens.weights[:length])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The states of all encoders side by side; one may have a single version for all layers."""
    if len(parts) == 1:
        return parts[0]
    layers = max(len(part) for part in parts)
    return torch.cat([part.expand(layers, -1, -1) for part in parts], -1)


def _states(
    base: Base, index: int, tokens: Sequence[Tokens], embeddings: Embeddings
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """What one encoder makes of each prompt.

    Returns:
        Hidden states, (layers or 1, tokens, dim) for each prompt; and for an encoder with a
        projection each prompt as one vector (dim,), the mean over the layers' versions.
    """
    row, encoder = base.family.encoders[index], base.text_encoders[index]
    ids: list[list[int]] = []
    copies: list[int] = []
    versions: list[list[int]] = []
    where: list[tuple[int, int]] = []
    vectors: list[Tensor] = []
    for prompt in tokens:
        rows = [embeddings[word][row.name] for _, word in prompt.words]
        kept, places = distinct_versions(rows)
        for (position, _), own in zip(prompt.words, rows, strict=True):
            where += [(len(ids) + copy, position) for copy in range(len(kept))]
            own = own if len(own) == len(places) else own.expand(len(places), -1)
            vectors.append(own if len(kept) == len(places) else own[kept])
        ids += [prompt.ids] * len(kept)
        copies.append(len(kept))
        versions.append(places)
    weighted = any(weight != 1.0 for prompt in tokens for weight in prompt.weights)
    if weighted:
        tokenizer = base.tokenizers[index]
        ids.append(tokenise(tokenizer, "", (), row.max_tokens, pad_id=row.pad_id).ids)
    put = torch.tensor(ids).to(base.device)
    output = run_encoder(encoder, put, where, vectors, row.penultimate)
    pooled = _pooled(encoder, output, tokens, versions, copies) if row.pooled else []
    states: Tensor = output.hidden_states[-2] if row.penultimate else output.last_hidden_state
    *found, empty = states.split([*copies, len(ids) - sum(copies)])
    if weighted:
        weights = torch.tensor([prompt.weights for prompt in tokens]).to(states)
        found = [apply_weights(*each, empty[0]) for each in zip(found, weights, strict=True)]
    return tuple(map(_for_each_version, found, versions)), pooled


def _for_each_version(found: Tensor, places: list[int]) -> Tensor:
    return found if len(found) == len(places) else found[places]


def _pooled(
    encoder: Any,
    output: Any,
    tokens: Sequence[Tokens],
    versions: Sequence[list[int]],
    copies: Sequence[int],
) -> list[Tensor]:
    """The projected state of each prompt's end token; weights of words leave it as it is."""
    ends = [prompt.end for prompt, count in zip(tokens, copies, strict=True) for _ in range(count)]
    rows = torch.arange(len(ends), device=output.last_hidden_state.device)
    states = output.last_hidden_state[rows, torch.tensor(ends).to(rows)]
    projected: Tensor = encoder.text_projection(states)
    split = projected.split(list(copies))
    return [pooled_text(each) for each in map(_for_each_version, split, versions)]


def run_encoder(
    encoder: Any,
    ids: Tensor,
    where: Sequence[tuple[int, int]],
    vectors: Sequence[Tensor],
    penultimate: bool,
) -> Any:
    """The encoder's output for (rows, tokens), concept vectors put in at rows and positions."""

    def put_in(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        if not vectors:
            return output
        index = torch.tensor(where, device=output.device).unbind(1)
        return output.index_put(index, torch.cat(list(vectors)).to(output))

    # A hook works with every transformers version; `inputs_embeds` is gone from version 5.
    handle = encoder.get_input_embeddings().register_forward_hook(put_in)
    try:
        return encoder(ids, output_hidden_states=penultimate)
    finally:
        handle.remove()


def _callers(concepts: Sequence[Concept]) -> tuple[list[Name], list[str]]:
    """Names made of concept words, and the phrases that call subjects without words."""
    subjects = [subject for concept in concepts for subject in concept.subjects]
    bound = [subject.words for subject in subjects if subject.words]
    return bound, [each.triggers[0] for each in subjects if not each.words and not each.on_request]


def _in_full(text: TextContext) -> TextContext:
    pooled = None if text.pooled is None else text.pooled.float()
    return replace(text, states=text.states.float(), pooled=pooled)


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
        embeddings, (bound, phrases) = embeddings_of(concepts), _callers(concepts)
        found: dict[str, TextContext] = {}
        for names, texts in groups.items():
            deltas = encoder_deltas([named[name] for name in names], self._strength)
            changed = ((self.base.module(path).weight, delta) for path, delta in deltas.items())
            with changed_weights(changed):
                encoded = encode_texts(self.base, texts, embeddings, bound, phrases, weighted=True)
            found |= zip(texts, encoded, strict=True)
        return [_in_full(found[text]) for text in prompts]

    @torch.no_grad()
    def captions(self, texts: Sequence[str], concepts: Sequence[Concept]) -> list[TextContext]:
        """Each text as it stands: nothing in it is a weight, and the text encoder is the model's.

        Raises:
            PromptError: If a concept word lies beyond the token limit.
        """
        embeddings, callers = embeddings_of(concepts), _callers(concepts)
        found = encode_texts(self.base, texts, embeddings, *callers, quiet=True, padded=False)
        return [_in_full(text) for text in found]

    def triggers(self, groups: Sequence[Sequence[Concept]]) -> list[TextContext]:
        """The triggers of each group of concepts, encoded as one prompt.

        Those of one concept of very many subjects are encoded as several, one behind another.

        Raises:
            PromptError: If those of several concepts exceed the token limit.
        """
        concepts = [concept for group in groups for concept in group]
        texts = [self._texts(group) for group in groups]
        flat = [text for each in texts for text in each]
        found: list[TextContext] = []
        for start in range(0, len(flat), CONCEPTS_AT_ONCE):
            found += self.prompts(flat[start : start + CONCEPTS_AT_ONCE], concepts)
        parts = iter(found)
        return [end_to_end(list(islice(parts, len(each)))) for each in texts]

    def _texts(self, group: Sequence[Concept]) -> list[str]:
        if len(group) != 1:
            return [" ".join(concept.trigger for concept in group)]
        room = min(row.max_tokens for row in self.base.family.encoders) - 2  # start and end
        texts: list[str] = []
        left = 0
        for name in group[0].names:
            text = " ".join(name)
            size = len(self.base.tokenizers[0](text, add_special_tokens=False).input_ids)
            size = len(name) if name[0] in group[0].words else size
            if size > left:
                texts, left = [*texts, text], room
            else:
                texts[-1] += f" {text}"
            left -= size
        return texts
