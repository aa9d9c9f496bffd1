"""A prompt as a text encoder's ids: where its words stand among them, and what they weigh."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from ..as_text import warn_once
from ..calls import Name, find_calls
from ..errors import ConceptError, PromptError
from ..text import Spans
from ..words import canonical
from .prompt_weights import stretches_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """One prompt as ids (max_tokens,): where its words and phrases stand, what tokens weigh.

    `end` is the place of the end token, which the ids alone do not tell: placeholders have it too.
    """

    ids: list[int]
    words: list[tuple[int, str]]
    spans: Spans
    weights: list[float]
    end: int


def tokenise(
    tokenizer: Any,
    text: str,
    names: Iterable[Name],
    max_tokens: int,
    phrases: Iterable[str] = (),
    *,
    weighted: bool = False,
    quiet: bool = False,
    pad_id: int | None = None,
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
        pad_id: What follows the end token. Default: the tokenizer's own.

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
    ends: list[int] = []
    for piece, weight, call in _pieces(stretches, [*names, *plain_names]):
        start = len(ids)
        if call is not None and call not in plain_names:
            positions.append((start, piece))
            ids.append(tokenizer.unk_token_id)
        else:
            ids += tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
        if call is not None:
            name = call[0] if call in plain_names else piece
            triggers[name] = (*triggers.get(name, ()), *range(start, len(ids)))
            ends.append(len(ids) - 1)
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
    pad: int = tokenizer.pad_token_id if pad_id is None else pad_id
    padding = [pad] * (room - len(ids))
    read = {word: tuple(p for p in at if p < room) for word, at in triggers.items()}
    spans = Spans(read, *(tuple(p for p in at if p < room) for at in (plain, ends)))
    weights += [1.0] * (max_tokens - len(weights))
    ended = [*ids, tokenizer.eos_token_id, *padding]
    return Tokens(ended, positions, spans, weights, end=len(ids))


def count_tokens(tokenizer: Any, text: str, names: Iterable[Name]) -> int:
    """How many tokens a text has, start and end left out, with one for each concept word."""
    pieces = _pieces([(canonical(text), 1.0)], list(names))
    return sum(
        len(tokenizer(piece, add_special_tokens=False, verbose=False).input_ids)
        if call is None
        else 1
        for piece, _, call in pieces
    )


def entry_of(tokenizer: Any, name: str, entries: int) -> int:
    """The number of a vocabulary entry from the number itself or a plain word.

    Args:
        tokenizer: As transformers has it.
        name: "42170" or "dog".
        entries: How many the vocabulary has.

    Raises:
        ConceptError: If there is no such entry, or the word is several.
    """
    if name.isdecimal():
        if int(name) < entries:
            return int(name)
        raise ConceptError(
            f"The vocabulary has {entries} entries, and {name} is none of them. Give a smaller "
            "number, or a plain word."
        )
    ids: list[int] = tokenizer(canonical(name), add_special_tokens=False).input_ids
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    raise ConceptError(
        f"{name!r} is {len(ids)} tokens of the text encoder, and a word can begin as one only. "
        "Give a simpler word, or the number of an entry of the vocabulary."
    )


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
