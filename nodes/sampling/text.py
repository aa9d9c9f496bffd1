"""A CLIP that knows concept words, for any text encode node (CIDM sections 4.1 and 4.2).

Every concept word becomes one token with an embedding per cross-attention layer. A prompt that
names a concept is encoded once per layer, in one batch; the result is an ordinary CONDITIONING
(the mean over layers, for ControlNet and foreign nodes) that carries the layer-wise context and
the concepts' weights along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...cidm_core.bank import Bank
from ...cidm_core.concept import Concept
from ...cidm_core.config import SampleConfig
from ...cidm_core.errors import HostError
from ...cidm_core.sampling.concept_weights import check_words, owners_of, participants, weigher
from ...cidm_core.words import normalise, pattern
from ..host.model import ModelFacts

PROMPT = "cidm_prompt"  # key of a `ConceptPrompt` in a conditioning's options
_ENCODERS = {"l": "text_encoder", "g": "text_encoder_2"}  # ComfyUI's name -> ours
# Ordinary words of one token each; one that the prompt does not use holds a concept word's place.
_PLACEHOLDERS = ("castle", "forest", "garden", "window", "river", "bridge", "candle", "mountain")

Tokens = dict[str, list[list[tuple[Any, ...]]]]


@dataclass(frozen=True, eq=False)
class ConceptPrompt:
    """What a conditioning says about concepts.

    Attributes:
        text: The concept words named, for messages.
        context: (layers, tokens, dim) float32; one layer where all are the same.
        plain: The conditioning as it left the text encoder, (1, tokens, dim).
        concepts: Concepts that can take part.
        weights: psi(M) of Eq. 3, (layers, concepts).
        relevance: M, likewise.
        layers: diffusers paths of the cross-attention layers.
    """

    text: str
    context: Tensor
    plain: Tensor
    concepts: tuple[Concept, ...]
    weights: Tensor
    relevance: Tensor
    layers: tuple[str, ...]


class _LayerTokens(dict[str, Any]):
    """Tokens repeated for every layer, which the stock encoder takes as they are."""


class _Held(Mapping[str, Concept]):
    """A bank whose concepts are read from disk once; one prompt asks for each several times."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._concepts: dict[str, Concept] = {}

    def __getitem__(self, name: str) -> Concept:
        if name not in self._concepts:
            self._concepts[name] = self._bank[name]
        return self._concepts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bank)

    def __len__(self) -> int:
        return len(self._bank)


@dataclass(eq=False)
class ConceptText:
    """Concept words of a bank for one model: binding, layer-wise encoding, weights."""

    bank: Bank
    facts: ModelFacts
    config: SampleConfig
    owners: Mapping[str, str] = field(init=False)
    _held: _Held = field(init=False)
    _tokens: dict[Any, Tensor] = field(default_factory=dict[Any, Tensor], init=False)

    def __post_init__(self) -> None:
        self.owners = owners_of(self.bank)
        self._held = _Held(self.bank)

    # Binding

    def tokenize(self, clip: Any, text: str, **options: Any) -> Tokens:
        """The stock tokens of a text, with a tagged vector for every concept word.

        Weights `(word:1.2)`, chunks of 77 tokens and word ids are the stock tokenizer's. The
        vector is the mean over layers, so that a node that encodes tokens itself gets a fair
        embedding; the tag says which word it is.

        Raises:
            PromptError: If a word looks like a concept's and is none.
        """
        check_words([text], self.owners)
        plain = normalise(text)
        # A pattern of all words of a large bank takes longer to build than a picture to begin.
        likely = [word for word in self.owners if word in plain]
        matches = list(pattern(likely).finditer(plain))
        if not matches:
            return clip.stock_tokenize(text, **options)
        # Matching spans fit the text itself unless composing changed its length.
        source = text if len(plain) == len(text) else plain
        words = [match.group() for match in matches]
        gaps = [
            source[a:b]
            for a, b in zip(
                [0, *(m.end() for m in matches)], [*(m.start() for m in matches), None], strict=True
            )
        ]
        holder, ids = self._placeholder(clip, " ".join(gaps))
        tokens = clip.stock_tokenize(f" {holder} ".join(gaps), **options)
        return {name: self._bound(name, rows, ids[name], words) for name, rows in tokens.items()}

    def _placeholder(self, clip: Any, rest: str) -> tuple[str, dict[str, int]]:
        """A word of one token that the rest of the prompt does not use, and its id by encoder."""
        used = {
            name: {token[0] for chunk in chunks for token in chunk if isinstance(token[0], int)}
            for name, chunks in clip.stock_tokenize(rest).items()
        }
        ends = {name: chunks[0][1][0] for name, chunks in clip.stock_tokenize("").items()}
        for word in _PLACEHOLDERS:
            found = {name: chunks[0] for name, chunks in clip.stock_tokenize(word).items()}
            ids = {name: chunk[1][0] for name, chunk in found.items()}
            single = all(chunk[2][0] == ends[name] for name, chunk in found.items())
            if single and all(ids[name] not in used[name] for name in ids):
                return word, ids
        raise HostError(
            f"The prompt uses all of the words {', '.join(_PLACEHOLDERS)}, which hold the places "
            "of concept words. Leave one of them out."
        )

    def _bound(
        self, name: str, rows: list[list[tuple[Any, ...]]], holder: int, words: Sequence[str]
    ) -> list[list[tuple[Any, ...]]]:
        left = iter(words)

        def put(token: tuple[Any, ...]) -> tuple[Any, ...]:
            if not isinstance(token[0], int) or token[0] != holder:
                return token
            word = next(left)
            vector = self._rows(name, word).mean(0)
            vector.concept_word = word
            return (vector, *token[1:])

        return [[put(token) for token in chunk] for chunk in rows]

    def _rows(self, name: str, word: str) -> Tensor:
        """Embeddings of a concept word, (layers, dim)."""
        concept = self._held[self.owners[word]]
        return concept.rows[_ENCODERS[name]][concept.words.index(word)].float()

    # Encoding

    def expand(self, tokens: Tokens) -> tuple[Tokens, list[str]]:
        """Repeat tokens for every layer, layer l with its own embeddings of the words."""
        first = next(iter(tokens.values()))
        words = [w for chunk in first for t in chunk if (w := _word_of(t)) is not None]
        if not words:
            return _LayerTokens(tokens), []
        expanded = _LayerTokens()
        for name, chunks in tokens.items():
            rows = {word: self._rows(name, word) for word in set(words)}
            expanded[name] = [
                [(rows[w][layer], *t[1:]) if (w := _word_of(t)) is not None else t for t in chunk]
                for layer in range(len(self.facts.layers))
                for chunk in chunks
            ]
        return expanded, words

    def prompt(self, clip: Any, encoded: Tensor, words: list[str]) -> ConceptPrompt:
        """Weigh the concepts for one encoded prompt.

        Args:
            clip: The CLIP that encoded it.
            encoded: (1, tokens or layers * tokens, dim).
            words: Concept words in it, in order.
        """
        layers = len(self.facts.layers) if words else 1
        context = encoded.reshape(layers, -1, encoded.shape[-1]).float()
        said = set(words)
        named = tuple(dict.fromkeys(n for word, n in self.owners.items() if word in said))
        concepts = participants(self._held, named, self.config)
        present = torch.tensor([concept.name in named for concept in concepts])
        weigh = weigher(_Encoder(self, clip), concepts, self.config)
        all_layers = context.expand(len(self.facts.layers), -1, -1)
        relevance, weights = weigh(all_layers, present)
        plain = encoded if layers == 1 else context.mean(0, keepdim=True).to(encoded)
        text = ", ".join(dict.fromkeys(words))
        return ConceptPrompt(text, context, plain, concepts, weights, relevance, self.facts.names)

    def words_of(self, clip: Any, concepts: Sequence[Concept], joint: bool) -> Tensor:
        """Encoded words of the concepts in one prompt, (layers, words, dim)."""
        text = " ".join(concept.trigger for concept in concepts)
        patcher = clip.patcher
        key = (text, joint, clip.layer_idx, getattr(patcher, "patches_uuid", None))
        if key not in self._tokens:
            tokens = self.tokenize(clip, text)
            expanded, _ = self.expand(tokens)
            encoded = clip.stock_encode(expanded)
            context = encoded.reshape(len(self.facts.layers), -1, encoded.shape[-1]).float()
            flat = [t for chunk in next(iter(tokens.values())) for t in chunk]
            where = [i for i, token in enumerate(flat) if _word_of(token) is not None]
            self._tokens[key] = context[:, where]
        return self._tokens[key]


@dataclass(frozen=True)
class _Encoder:
    """`weighing.ConceptEncoder` on a ComfyUI CLIP."""

    text: ConceptText
    clip: Any

    def concept_tokens(self, concepts: Sequence[Concept], joint: bool) -> tuple[Tensor, Tensor]:
        counts = [len(concept.words) for concept in concepts]
        if joint:
            together = self.text.words_of(self.clip, concepts, True)
            parts = list(together.split(counts, dim=1))
        else:
            parts = [self.text.words_of(self.clip, [concept], False) for concept in concepts]
        padded = pad_sequence([part.transpose(0, 1) for part in parts], batch_first=True)
        mask = torch.tensor([[i < n for i in range(max(counts))] for n in counts])
        return padded.transpose(1, 2), mask


def _word_of(token: tuple[Any, ...]) -> str | None:
    return getattr(token[0], "concept_word", None)


class _KnowsConcepts:
    """Mixed into the class of a CLIP object; the stock methods stay reachable as `stock_*`."""

    concept_text: ConceptText

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        return _adopt(super().clone(*args, **kwargs), self.concept_text)  # type: ignore[misc]

    def stock_tokenize(self, text: str, **options: Any) -> Tokens:
        return super().tokenize(text, **options)  # type: ignore[misc]

    def stock_encode(self, tokens: Tokens) -> Tensor:
        return super().encode_from_tokens(tokens)  # type: ignore[misc]

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Tokens:
        return self.concept_text.tokenize(self, text, return_word_ids=return_word_ids, **kwargs)

    def encode_from_tokens(
        self, tokens: Tokens, return_pooled: Any = False, return_dict: bool = False
    ) -> Any:
        stock = super().encode_from_tokens  # type: ignore[misc]
        if isinstance(tokens, _LayerTokens):
            return stock(tokens, return_pooled=return_pooled, return_dict=return_dict)
        expanded, words = self.concept_text.expand(tokens)
        found = stock(expanded, return_pooled=return_pooled, return_dict=True)
        prompt = self.concept_text.prompt(self, found["cond"], words)
        if return_dict:
            return {**found, "cond": prompt.plain, PROMPT: prompt}
        return (prompt.plain, found["pooled_output"]) if return_pooled else prompt.plain

    def encode_from_tokens_scheduled(self, tokens: Tokens, *args: Any, **kwargs: Any) -> Any:
        expanded, words = self.concept_text.expand(tokens)
        stock = super().encode_from_tokens_scheduled  # type: ignore[misc]
        result: list[list[Any]] = []
        for encoded, options in stock(expanded, *args, **kwargs):
            prompt = self.concept_text.prompt(self, encoded, words)
            result.append([prompt.plain, {**options, PROMPT: prompt}])
        return result


@cache
def _taught(kind: type[Any]) -> type[Any]:
    return type(f"Concept{kind.__name__}", (_KnowsConcepts, kind), {})


def teach(clip: Any, text: ConceptText) -> Any:
    """A copy of a CLIP whose tokenizer and encoder know the concept words; the CLIP is kept."""
    return _adopt(clip.clone(), text)


def _adopt(clip: Any, text: ConceptText) -> Any:
    kind = type(clip)
    taught = object.__new__(kind if issubclass(kind, _KnowsConcepts) else _taught(kind))
    taught.__dict__.update(clip.__dict__)
    taught.concept_text = text
    return taught
