"""What calls a concept in a prompt: the name it was taught by, all of its words in order."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from .words import alone, canonical

Name = tuple[str, ...]
"""Words as taught, such as ("<dog1>", "<dog2>"); of a subject without words its class words."""

# Weights and punctuation may stand inside a name: "(<dog1>:1.2) <dog2>".
_BETWEEN = r"(?:[\s()\[\],]|:\s*-?\d*\.?\d+)*"
_TAG = re.compile(r"<[^<>\s:]{1,40}>|<\s*[\w-]{1,40}\s*>")
_ANY_TAG = re.compile(r"<[^<>\n]*>")
_HALF_TAG = re.compile(r"(?<=<)\s*([\w-]+)|([\w-]+)\s*(?=>)")
_FULL_WIDTH = str.maketrans("\uff1c\uff1e", "<>")


def name_of(words: Name, class_words: str) -> Name:
    """What calls a subject: its words; without any, its class words as one phrase."""
    return words or (" ".join(canonical(class_words).split()),)


@dataclass(frozen=True)
class Call:
    """A name in a text: where each of its words stands in the canonical text, (start, end)."""

    name: Name
    at: tuple[tuple[int, int], ...]


def find_calls(text: str, names: Iterable[Name]) -> list[Call]:
    """The names in a text, in order; longer ones go before shorter ones."""
    text = canonical(text)
    # A plain look-up first: a pattern of all names of a large bank takes far longer to build.
    likely = [name for name in names if all(part in text for word in name for part in word.split())]
    if not likely:
        return []
    likely.sort(key=lambda name: len(" ".join(name)), reverse=True)
    pattern = "|".join(_BETWEEN.join(f"({_spaced(word)})" for word in name) for name in likely)
    return [_call(match, likely) for match in re.finditer(pattern, text)]


def _spaced(word: str) -> str:
    """A pattern for a word or a phrase, however its parts are spaced."""
    return alone(word).replace(r"\ ", r"\s+")


def _call(match: re.Match[str], names: Sequence[Name]) -> Call:
    first = 1
    for name in names:
        groups = range(first, first + len(name))
        if match.group(first) is not None:
            return Call(name, tuple(match.span(group) for group in groups))
        first += len(name)
    raise AssertionError("one of the alternatives has matched")


def is_called(text: str, names: Iterable[Name]) -> bool:
    """Whether one of the names stands in the text."""
    return bool(find_calls(text, names))


def stray_tags(text: str, calls: Iterable[Call], words: Container[str]) -> list[str]:
    """What looks like a concept word and is part of no call, in the form `<word>`.

    `< rex >`, `<rex`, `rex>` and full-width brackets are mistakes of writing `<rex>`. A tag with a
    colon, such as `<lora:name:1>`, is another tool's.

    Args:
        text: A prompt.
        calls: The names found in it.
        words: Concept words; a single bracket counts only beside one of them.
    """
    left = list(canonical(text))
    for call in calls:
        for start, end in call.at:
            left[start:end] = " " * (end - start)
    rest = "".join(left).translate(_FULL_WIDTH)
    found = ["".join(tag.split()) for tag in _TAG.findall(rest)]
    tags = _HALF_TAG.finditer(_ANY_TAG.sub(" ", rest))
    halves = [f"<{match.group(1) or match.group(2)}>" for match in tags]
    return found + [tag for tag in halves if tag in words]


def as_written(name: Name) -> str:
    """A name as one writes it into a prompt."""
    return " ".join(name)
