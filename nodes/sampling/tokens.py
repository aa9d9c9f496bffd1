"""Concept words among ComfyUI's tokens: bound to tagged vectors, repeated for every layer, found.

Weights `(word:1.2)`, chunks of 77 tokens and word ids are the stock tokenizer's. A concept word is
a vector (the mean over layers, so that a node that encodes tokens itself gets a fair embedding)
with a tag that says which word it is; a token of a trigger phrase is a number with such a tag.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...cidm_core.calls import Call, Name, find_calls
from ...cidm_core.errors import HostError
from ...cidm_core.sampling.versions import distinct_versions
from ...cidm_core.text import Spans
from ...cidm_core.words import canonical, pattern

# Ordinary words of one token each; one that the prompt does not use holds a concept word's place.
PLACEHOLDERS = ("castle", "forest", "garden", "window", "river", "bridge", "candle", "mountain")

Token = tuple[Any, ...]
HostTokens = dict[str, list[list[Token]]]
FindRows = Callable[[str, str], Tensor]
"""Encoder's name in ComfyUI, concept word -> its embeddings (layers or 1, dim)."""


class Expanded(dict[str, Any]):
    """HostTokens repeated for every layer, which the stock encoder takes as they are.

    Attributes:
        copies: How often.
        versions: By encoder, the copies that differ, and where among them the like of each is.
    """

    copies: int
    versions: dict[str, tuple[list[int], list[int]]]


class _PhraseToken(int):
    """A token of a trigger phrase."""

    phrase, is_last = "", False


def word_of(token: Token) -> str | None:
    """The concept word that a token stands for."""
    return getattr(token[0], "concept_word", None)


def named_by(token: Token) -> str | None:
    """The concept word that a token stands for, or the trigger phrase that it belongs to."""
    return word_of(token) or getattr(token[0], "phrase", None)


class Binding:
    """Puts concept words into tokens.

    Args:
        names: What calls concepts.
        words: Concept words with rows of their own; a name without them is a plain phrase.
        rows: The words' embeddings.
    """

    def __init__(self, names: Collection[Name], words: Collection[str], rows: FindRows) -> None:
        self._names, self._words, self._rows = names, words, rows

    def tokenize(self, clip: Any, text: str, **options: Any) -> HostTokens:
        """The stock tokens of a text, with a tagged vector for every concept word."""
        plain = canonical(text)
        calls = find_calls(text, self._names)
        phrases = [w for call in calls for w in call.name if w not in self._words]
        if phrases:
            # The tokenizer would take a quote and the first letter together, as in "don't".
            quoted = rf"'(?={pattern(phrases).pattern})"
            text = re.sub(quoted, "' ", text, flags=re.IGNORECASE)
            plain = canonical(text)
            calls = find_calls(text, self._names)
        spans = [span for call in calls if call.name[0] in self._words for span in call.at]
        phrased = [call for call in calls if call.name[0] not in self._words]
        # Matching spans fit the text itself unless composing changed its length.
        source = text if len(plain) == len(text) else plain
        holder, ids = _placeholder(clip, _held_out(source, spans)) if spans else ("", {})

        def read(end: int | None = None) -> HostTokens:
            """The stock tokens up to a place of the text that no word holds."""
            held = [span for span in spans if end is None or span[1] <= end]
            return clip.stock_tokenize(_held_out(source[:end], held, f" {holder} "), **options)

        if not spans:
            return _tagged(clip, phrased, read, clip.stock_tokenize(text, **options))
        words = [plain[start:end] for start, end in spans]
        bound = {name: self._bound(name, rows, ids[name], words) for name, rows in read().items()}
        return _tagged(clip, phrased, read, bound)

    def _bound(
        self, name: str, chunks: list[list[Token]], holder: int, words: Sequence[str]
    ) -> list[list[Token]]:
        left = iter(words)

        def put(token: Token) -> Token:
            if not isinstance(token[0], int) or token[0] != holder:
                return token
            word = next(left)
            vector = self._rows(name, word).mean(0)
            vector.concept_word = word  # type: ignore[attr-defined]
            return (vector, *token[1:])

        return [[put(token) for token in chunk] for chunk in chunks]

    def expand(self, tokens: HostTokens, layers: int) -> Expanded:
        """Repeat tokens for every layer, layer l with its own embeddings of the words."""
        expanded = Expanded()
        rows = {
            name: {word: self._rows(name, word) for word in _words_in(chunks)}
            for name, chunks in tokens.items()
        }
        held = [len(each) for of_encoder in rows.values() for each in of_encoder.values()]
        expanded.copies = layers if any(n > 1 for n in held) else 1
        expanded.versions = {
            name: distinct_versions(list(own.values())) for name, own in rows.items()
        }

        def at(token: Token, layer: int, own: Mapping[str, Tensor]) -> Token:
            word = word_of(token)
            if word is None:
                return token
            return (own[word][min(layer, len(own[word]) - 1)], *token[1:])

        for name, chunks in tokens.items():
            expanded[name] = [
                [at(token, layer, rows[name]) for token in chunk]
                for layer in range(expanded.copies)
                for chunk in chunks
            ]
        return expanded


def _held_out(text: str, spans: Sequence[tuple[int, int]], holder: str = " ") -> str:
    """A text with something else in the place of its spans."""
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    gaps = [text[a:b] for a, b in zip([0, *ends], [*starts, None], strict=True)]
    return holder.join(gaps)


def _tagged(
    clip: Any, calls: Iterable[Call], read: Callable[[int], HostTokens], tokens: HostTokens
) -> HostTokens:
    """Tag the tokens of trigger phrases where they are called, and not as parts of longer words."""
    for call in calls:
        before = read(call.at[0][0])
        for name, ids in _ids_of(clip, call.name[0]).items():
            places = _places(tokens[name], ids)
            for chunk, start in places[len(_places(before[name], ids)) :][:1]:
                _tag(chunk, start, len(ids), call.name[0])
    return tokens


def spans_of(clip: Any, tokens: HostTokens) -> Spans:
    """Where words stand among the tokens of all chunks; start, end and padding are none.

    Two encoders may read two texts, side by side: a place is a word's if it is that in either.

    Args:
        clip: Whose tokens they are.
        tokens: Before they were repeated for the layers.
    """
    ends = _ends(clip)
    found = [_spans(chunks, ends[name]) for name, chunks in tokens.items()]
    names = dict.fromkeys(name for each in found for name in each.triggers)
    triggers = {
        name: tuple(sorted({place for each in found for place in each.triggers.get(name, ())}))
        for name in names
    }
    taken = {place for places in triggers.values() for place in places}
    plain = {place for each in found for place in each.plain}
    last = {place for each in found for place in each.ends}
    return Spans(triggers, tuple(sorted(plain - taken)), tuple(sorted(last)))


def _spans(chunks: Sequence[Sequence[Token]], end: int) -> Spans:
    triggers: dict[str, tuple[int, ...]] = {}
    plain: list[int] = []
    ends: list[int] = []
    place = 0
    for chunk in chunks:
        last = next((i for i, t in enumerate(chunk) if i and _is(t, end)), len(chunk))
        for i, token in enumerate(chunk):
            trigger = named_by(token)
            if trigger is not None:
                triggers[trigger] = (*triggers.get(trigger, ()), place + i)
                if getattr(token[0], "is_last", True):
                    ends.append(place + i)
            elif 0 < i < last:
                plain.append(place + i)
        place += len(chunk)
    return Spans(triggers, tuple(plain), tuple(ends))


def _is(token: Token, number: int) -> bool:
    return isinstance(token[0], int) and token[0] == number


def _words_in(chunks: Iterable[Iterable[Token]]) -> set[str]:
    return {word for chunk in chunks for token in chunk if (word := word_of(token)) is not None}


def _ends(clip: Any) -> dict[str, int]:
    """The end token of each encoder."""
    return {name: chunks[0][1][0] for name, chunks in clip.stock_tokenize("").items()}


def _ids_of(clip: Any, phrase: str) -> dict[str, list[int]]:
    """Token numbers of a phrase by encoder, without start and end."""
    ends, found = _ends(clip), dict[str, list[int]]()
    for name, chunks in clip.stock_tokenize(phrase).items():
        ids = [token[0] for token in chunks[0][1:]]
        found[name] = ids[: ids.index(ends[name])] if ends[name] in ids else ids
    return found


def _places(chunks: Iterable[list[Token]], ids: Sequence[int]) -> list[tuple[list[Token], int]]:
    """Where some tokens stand in a row: chunk and place in it."""
    found: list[tuple[list[Token], int]] = []
    for chunk in chunks:
        start, numbers = 0, [token[0] for token in chunk]
        while start <= len(chunk) - len(ids):
            window = numbers[start : start + len(ids)]
            fits = all(isinstance(n, int) and n == m for n, m in zip(window, ids, strict=True))
            if fits:
                found.append((chunk, start))
            start += len(ids) if fits else 1
    return found


def _tag(chunk: list[Token], start: int, count: int, phrase: str) -> None:
    for i in range(start, start + count):
        tagged = _PhraseToken(chunk[i][0])
        tagged.phrase, tagged.is_last = phrase, i == start + count - 1
        chunk[i] = (tagged, *chunk[i][1:])


def _placeholder(clip: Any, rest: str) -> tuple[str, dict[str, int]]:
    """A word of one token that the rest of the prompt does not use, and its id by encoder."""
    used = {
        name: {token[0] for chunk in chunks for token in chunk if isinstance(token[0], int)}
        for name, chunks in clip.stock_tokenize(rest).items()
    }
    for word in PLACEHOLDERS:
        ids = _ids_of(clip, word)
        if all(len(found) == 1 and found[0] not in used[name] for name, found in ids.items()):
            return word, {name: found[0] for name, found in ids.items()}
    raise HostError(
        f"The prompt uses all of the words {', '.join(PLACEHOLDERS)}, which hold the places of "
        "concept words. Leave one of them out."
    )
