"""Concept words inside text: finding and replacing them on token boundaries.

The released code binds words with `str.replace`, which also hits `v1` inside `v10`
(methods note 12); here a word only matches where neither neighbour continues it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from .errors import ConceptError

MAX_WORD_LENGTH = 64
# Combining marks continue a word, but `\w` leaves them out (Devanagari vowels, accents that have
# no composed letter).
_MARKS = "".join(chr(c) for c in range(0x10000) if unicodedata.category(chr(c)).startswith("M"))
_WIDE = "\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # no spaces between words
_WIDE_LETTER = re.compile(f"[{_WIDE}]")
_SYNTAX = re.compile(r"[,;:+()\[\]{}<>|\\]")
_LETTER = rf"[^\W{_WIDE}]"
# "dog-shaped" is another word than "dog"; "dog's" is not.
_BEFORE = rf"(?<!{_LETTER})(?<![<{_MARKS}])(?<!{_LETTER}-)"
_AFTER = rf"(?!{_LETTER}|[>{_MARKS}]|-{_LETTER})"


def canonical(text: str) -> str:
    """Lower-case, composed (NFC) text, as the CLIP tokenizers see it."""
    # Composed again: lower-casing takes some letters apart, or makes marks fit (J and caron).
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())


def parse_words(words: str | Sequence[str]) -> tuple[str, ...]:
    """Split `"<dog1> <dog2>"` into its words and check each of them.

    Raises:
        ConceptError: If there is no word, a word repeats, is too long, or holds control
            characters or no letter or digit.
    """
    parts = words.split() if isinstance(words, str) else [part for w in words for part in w.split()]
    found = tuple(canonical(part) for part in parts)
    if not found:
        raise ConceptError("No concept words given. Name at least one, such as '<dog1> <dog2>'.")
    if len(set(found)) != len(found):
        raise ConceptError(f"Concept words repeat in {' '.join(found)!r}. Use each word once.")
    for word in found:
        if len(word) > MAX_WORD_LENGTH:
            raise ConceptError(
                f"Concept word {word[:20]!r}... has {len(word)} characters; "
                f"the limit is {MAX_WORD_LENGTH}. Choose a shorter one."
            )
        if not word.isprintable() or not any(ch.isalnum() for ch in word):
            raise ConceptError(
                f"Concept word {word!r} needs a letter or digit and no control characters. "
                "Use a form such as <dog1>."
            )
    return found


def new_words(words: str | Sequence[str]) -> tuple[str, ...]:
    """Words to be taught: `parse_words`, and nothing in them that prompts use for something else.

    Raises:
        ConceptError: If a word holds a comma, a bracket or the like; with the nearest right form.
    """
    found = parse_words(words)
    for word in found:
        if _SYNTAX.search(word[1:-1] if bracketed(word) else word):
            inside = [_SYNTAX.sub("", part) for part in re.findall(r"<([^<>]+)>", word)]
            parts = [f"<{part}>" for part in inside if part] or _SYNTAX.sub(" ", word).split()
            raise ConceptError(
                f"{word!r} cannot be a concept word: prompts use such signs for other things. Did "
                f"you mean {' '.join(parts)!r}?"
            )
    return found


def pattern(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern for canonical text: any of the words on token boundaries, longest first."""
    ordered = sorted({canonical(word) for word in words} - {""}, key=len, reverse=True)
    return re.compile("|".join(alone(word) for word in ordered) or r"(?!)")


def alone(word: str) -> str:
    """A pattern for one canonical word where nothing continues it.

    Angle brackets are boundaries by themselves: `<rex>s` and `a<rex>` hold `<rex>`. Writing
    without spaces has none to look for, so Chinese and Japanese letters neither continue a word of
    other letters nor are continued.
    """
    escaped = re.escape(word)
    if bracketed(word):
        return escaped
    before, after = _BEFORE, _AFTER
    if _WIDE_LETTER.match(word[0]):
        before = ""
    if _WIDE_LETTER.match(word[-1]):
        after = ""
    return before + escaped + after


def bracketed(word: str) -> bool:
    """Whether the word has the form `<dog1>`."""
    return re.fullmatch(r"<[^<>\s]+>", word) is not None


def contains(text: str, word: str) -> bool:
    """Whether the word stands in the text on token boundaries."""
    text, word = canonical(text), canonical(word)
    return word in text and pattern([word]).search(text) is not None


def replace(text: str, mapping: Mapping[str, str]) -> str:
    """Replace each key by its value on token boundaries, in one pass (no cascades)."""
    table = {canonical(key): value for key, value in mapping.items()}
    return pattern(table).sub(lambda match: table[match.group()], canonical(text))


def overlap(words: Sequence[str], taken: Iterable[str]) -> str | None:
    """The first taken word that equals, contains or is contained in one of `words`, if any.

    Containment counts on token boundaries only: `<v1>` and `<v10>` live together.
    """
    for other in taken:
        if any(contains(other, word) or contains(word, other) for word in words):
            return other
    return None
