"""A CLIP that knows concept words, for any text encode node (CIDM sections 4.1 and 4.2).

Every concept word becomes one token with an embedding per cross-attention layer. A prompt that
names a concept is encoded once per layer, in one batch; the result is an ordinary CONDITIONING
(the mean over layers, for ControlNet and foreign nodes) that carries the layer-wise context and
the concepts' weights along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...cidm_core.bank import Bank
from ...cidm_core.calls import Name
from ...cidm_core.concept import Concept
from ...cidm_core.config import SampleConfig
from ...cidm_core.sampling.concept_weights import check_words, participants, weigher
from ...cidm_core.sampling.encoder_updates import changes_encoder, encoder_deltas
from ...cidm_core.sampling.infuse import Requests
from ...cidm_core.storage.compatibility import check_fit
from ...cidm_core.text import Spans, TextContext
from ..host.model import ModelFacts
from .prompts import TRACES, ConceptPrompt, concept_id
from .tokens import Binding, Expanded, HostTokens, named_by, spans_of
from .versions import encoding_versions


class _Held(Mapping[str, Concept]):
    """A bank whose concepts are read and checked once; one prompt asks for each several times."""

    def __init__(
        self, bank: Bank, facts: ModelFacts, config: SampleConfig, requests: Requests
    ) -> None:
        self._bank, self._facts, self._config = bank, facts, config
        self._requests = requests
        self._concepts: dict[str, Concept] = {}

    def __getitem__(self, name: str) -> Concept:
        if name not in self._concepts:
            concept = self._requests.bind(self._bank[name])
            allowed = self._config.allow_other_base
            check_fit([concept], self._facts, allow_other_base=allowed)
            self._concepts[name] = concept
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
    callers: Mapping[Name, str] = field(init=False)
    owners: Mapping[str, str] = field(init=False)
    requests: Requests = field(init=False)
    _binding: Binding = field(init=False)
    _held: _Held = field(init=False)
    _encoded: dict[Any, TextContext] = field(default_factory=dict[Any, TextContext], init=False)

    def __post_init__(self) -> None:
        entries = self.bank.entries()
        self.requests = Requests.of(self.config.infuse, self.bank)
        named = {call: entry.name for entry in entries for call in entry.names}
        self.callers = {**named, **self.requests.callers}
        self.owners = {word: name for call, name in self.callers.items() for word in call}
        words = {word for entry in entries for word in entry.words}
        self._binding = Binding(self.callers, words, self._rows)
        self._held = _Held(self.bank, self.facts, self.config, self.requests)
        self.requests.check_kinds(self._held)

    def tokenize(self, clip: Any, text: str, **options: Any) -> HostTokens:
        """The stock tokens of a text, with a tagged vector for every concept word.

        Raises:
            PromptError: If a word looks like a concept's and is none.
        """
        check_words([text], self.callers, self.bank)
        return self._binding.tokenize(clip, text, **options)

    def _rows(self, encoder: str, word: str) -> Tensor:
        """Embeddings of a concept word in ComfyUI's encoder of that name, (layers or 1, dim)."""
        concept = self._held[self.owners[word]]
        (ours,) = (each.row.name for each in self.facts.encoders if each.key == encoder)
        return concept.rows[ours][concept.words.index(word)].float()

    def encoding(self, clip: Any, tokens: HostTokens) -> Encoding:
        """The tokens for every layer, and the CLIP with what the named concepts change in it."""
        chunks = [chunk for of_encoder in tokens.values() for chunk in of_encoder]
        called = dict.fromkeys(name for chunk in chunks for t in chunk if (name := named_by(t)))
        names = dict.fromkeys(self.owners[each] for each in called)
        changing = [c for name in names if changes_encoder(c := self._held[name])]
        deltas = encoder_deltas(changing, self.config.strength)
        expanded = self._binding.expand(tokens, len(self.facts.layers))
        changed = self._with_deltas(clip, deltas) if deltas else clip
        return Encoding(changed, expanded, spans_of(clip, tokens), tuple(called), tuple(names))

    def _with_deltas(self, clip: Any, deltas: Mapping[str, Tensor]) -> Any:
        """A copy of a CLIP whose text encoders have other weights; the host swaps them."""
        changed = clip.clone()
        patches = {self.facts.encoder_key(at): ("diff", (delta,)) for at, delta in deltas.items()}
        changed.add_patches(patches, 1.0)
        return changed

    def encoded(
        self, encoding: Encoding, encode: Callable[..., Any], *args: Any, **more: Any
    ) -> Any:
        """What a stock method makes of the tokens."""
        with encoding_versions(encoding.clip, self.facts.encoders, encoding.tokens):
            return encode(encoding.tokens, *args, **more)

    def prompt(self, clip: Any, encoding: Encoding, encoded: Tensor) -> ConceptPrompt:
        """Weigh the concepts for one encoded prompt.

        Args:
            clip: The CLIP that encoded it.
            encoding: What was encoded.
            encoded: (1, tokens or layers * tokens, dim).
        """
        text = encoding.context(encoded)
        named = tuple(n for n in dict.fromkeys(self.owners.values()) if n in encoding.names)
        concepts = participants(self._held, named, self.config)
        present = torch.tensor([concept.name in named for concept in concepts])
        weigh = weigher(_Encoder(self, clip), concepts, self.config)
        all_layers = text.states.expand(len(self.facts.layers), -1, -1)
        _, weights = weigh(all_layers, present)
        single = len(text.states) == 1
        plain = encoded if single else text.states.mean(0, keepdim=True).to(encoded)
        called = ", ".join(encoding.called)
        asked = self.requests.phrases_of
        known = {concept_id(self.bank, c, asked(c.name)): c for c in concepts}
        words = [place for at in text.spans.triggers.values() for place in at]
        TRACES.remember(called, plain, words, self.facts.family.encoders[0].max_tokens)
        return ConceptPrompt(called, text, plain, known, weights, self.facts.names)

    def triggers_of(self, clip: Any, concepts: Sequence[Concept]) -> TextContext:
        """The triggers of some concepts, encoded in one prompt; kept for the next time."""
        text = " ".join(concept.trigger for concept in concepts)
        key = (text, clip.layer_idx, getattr(clip.patcher, "patches_uuid", None))
        if key not in self._encoded:
            self._encoded[key] = self._context(clip, self.tokenize(clip, text))
        return self._encoded[key]

    def caption(self, clip: Any, text: str) -> TextContext:
        """A text as it stands: nothing in it is a weight. What goes beyond one chunk is cut."""
        plain = text.replace("(", "\\(").replace(")", "\\)")
        tokens = self._binding.tokenize(clip, plain)
        return self._context(clip, {name: chunks[:1] for name, chunks in tokens.items()})

    def _context(self, clip: Any, tokens: HostTokens) -> TextContext:
        encoding = self.encoding(clip, tokens)
        return encoding.context(self.encoded(encoding, encoding.clip.stock_encode))


@dataclass(frozen=True, eq=False)
class Encoding:
    """A prompt on its way through the text encoder.

    Attributes:
        clip: What encodes it.
        tokens: For the stock encoder: repeated for every layer where the layers differ.
        spans: Where the prompt's words stand.
        called: The concept words and phrases in it, in order.
        names: The concepts they call.
    """

    clip: Any
    tokens: Expanded
    spans: Spans
    called: tuple[str, ...]
    names: tuple[str, ...]

    def context(self, encoded: Tensor) -> TextContext:
        """What the encoder made of it, (1, tokens or layers * tokens, dim), as a context."""
        states = encoded.reshape(self.tokens.copies, -1, encoded.shape[-1]).float()
        return TextContext(states, None, self.spans)


@dataclass(frozen=True)
class _Encoder:
    """`concept_weights.ConceptEncoder` on a ComfyUI CLIP."""

    text: ConceptText
    clip: Any

    def triggers(self, groups: Sequence[Sequence[Concept]]) -> list[TextContext]:
        """The triggers of each group of concepts, encoded as one prompt."""
        return [self.text.triggers_of(self.clip, group) for group in groups]


class _KnowsConcepts:
    """Mixed into the class of a CLIP object; the stock methods stay reachable as `stock_*`."""

    concept_text: ConceptText

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        return _adopt(super().clone(*args, **kwargs), self.concept_text)  # type: ignore[misc]

    def stock_tokenize(self, text: str, **options: Any) -> HostTokens:
        return super().tokenize(text, **options)  # type: ignore[misc]

    def stock_encode(self, tokens: HostTokens, **options: Any) -> Any:
        return super().encode_from_tokens(tokens, **options)  # type: ignore[misc]

    def stock_scheduled(self, tokens: HostTokens, *args: Any, **kwargs: Any) -> Any:
        return super().encode_from_tokens_scheduled(tokens, *args, **kwargs)  # type: ignore[misc]

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> HostTokens:
        return self.concept_text.tokenize(self, text, return_word_ids=return_word_ids, **kwargs)

    def encode_from_tokens(
        self, tokens: HostTokens, return_pooled: Any = False, return_dict: bool = False
    ) -> Any:
        if isinstance(tokens, Expanded):  # the stock methods call one another
            options = {"return_pooled": return_pooled, "return_dict": return_dict}
            return self.stock_encode(tokens, **options)
        encoding = self.concept_text.encoding(self, tokens)
        encode = encoding.clip.stock_encode
        options = {"return_pooled": return_pooled, "return_dict": True}
        found = self.concept_text.encoded(encoding, encode, **options)
        prompt = self.concept_text.prompt(self, encoding, found["cond"])
        if return_dict:
            return {**found, "cond": prompt.plain, **prompt.options()}
        return (prompt.plain, found["pooled_output"]) if return_pooled else prompt.plain

    def encode_from_tokens_scheduled(self, tokens: HostTokens, *args: Any, **kwargs: Any) -> Any:
        encoding = self.concept_text.encoding(self, tokens)
        result: list[list[Any]] = []
        encode = encoding.clip.stock_scheduled
        for encoded, options in self.concept_text.encoded(encoding, encode, *args, **kwargs):
            prompt = self.concept_text.prompt(self, encoding, encoded)
            result.append([prompt.plain, {**options, **prompt.options()}])
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
