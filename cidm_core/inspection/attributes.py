"""Words of appearance right before what a caption calls the concept, and captions without them.

What a caption names is explained by that word: the photos of "a brown dog" teach the new words a
dog, and leave the brown to "brown", which then has to stand in every prompt. So whatever belongs to
the concept is better not named. Kinds differ in what that is:

- An object or a person is its colours, materials, patterns and textures.
- A style is these and its medium: in "an oil painting of a red boat" (class words "painting") "oil"
  is part of the look that should be learned. The boat's red is not; it stays.

Only words in front of the class words count. "A dog on a green lawn" and "a photo in black and
white" name what does not belong to the concept, which is what captions are for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..calls import Name, find_calls
from ..words import canonical
from .attribute_words import (
    COLOURS,
    DEGREES,
    ENDINGS,
    MATERIALS,
    MEDIA,
    NAMES,
    OTHERS,
    PATTERNS,
    SHADES,
    TEXTURES,
)

_ATTRIBUTES = COLOURS | MATERIALS | PATTERNS | TEXTURES
_JOINTS = frozenset({"and", "or", "&", ",", "/"})
_WORD = re.compile(r"[\w'’-]+|[,&/]")  # noqa: RUF001
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.IGNORECASE)
# "an hour", "a unicorn": what is heard counts, not what is written.
_SILENT_H = re.compile(r"(?:heir|honest|honou?r|hour)")
_LIKE_YOU = re.compile(r"(?:eu|ewe|one\b|once|u[nst][aeiou]|ukulele|uk\b|usu)")


class Stripped(NamedTuple):
    """A caption without its attribute words, and these, in order."""

    caption: str
    words: tuple[str, ...]


class _Piece(NamedTuple):
    text: str
    start: int
    end: int
    goes: bool = False


def strip(caption: str, names: Iterable[Name], kind: str) -> Stripped:
    """Take the words out that name what the concept looks like.

    Args:
        caption: One line.
        names: What the caption may call the concept: class words, or concept words.
        kind: One of `config.KINDS`.
    """
    text = unicodedata.normalize("NFC", caption)
    if len(text.lower()) != len(text):  # a few letters grow; places would not fit
        text = canonical(text)
    found: list[str] = []
    for call in reversed(find_calls(text, names)):
        start, end = call.at[0][0], call.at[-1][1]
        before = _modifiers(text[:start], text[start:end], kind)
        gone = [piece.text for piece in before if piece.goes]
        if gone:
            found[:0] = gone
            text = _without(text, before, start)
    return Stripped(text, tuple(found)) if found else Stripped(caption, ())


def _modifiers(before: str, noun: str, kind: str) -> list[_Piece]:
    """The words that stand right before a noun and say more of it, in order."""
    pieces = [_Piece(m[0], *m.span()) for m in _WORD.finditer(before)]
    first_of_noun = canonical(noun).split()[0]
    found: list[_Piece] = []
    behind = len(before)
    for piece in reversed(pieces):
        word = canonical(piece.text)
        if before[piece.end : behind].strip():  # a full stop or bracket
            break
        if not found and (word in _JOINTS or f"{word} {first_of_noun}" in NAMES):
            break
        belongs = word in SHADES | DEGREES and bool(found) and found[-1].goes
        goes = belongs or _is_attribute(word, kind)
        if not goes and word not in _JOINTS | OTHERS:
            break
        found.append(piece._replace(goes=goes))
        behind = piece.start
    while found and _is_joint(found[-1]):
        found.pop()
    return found[::-1]


def _is_joint(piece: _Piece) -> bool:
    return canonical(piece.text) in _JOINTS


def _is_attribute(word: str, kind: str) -> bool:
    parts = [part for part in word.split("-") if part not in _JOINTS]
    wanted = _ATTRIBUTES | (MEDIA if kind == "style" else frozenset())
    if word in wanted or word.endswith(ENDINGS):
        return True
    # "off-white", "navy-blue"; "plush-velvet"
    return len(parts) > 1 and (parts[-1] in COLOURS or all(p in wanted | SHADES for p in parts))


def _without(text: str, before: Sequence[_Piece], noun: int) -> str:
    """A text without the words before a noun that are to go; it still reads as a sentence."""
    kept, joint = "", ""
    for piece in before:
        if _is_joint(piece):
            spaced = {",": ", ", "/": "/"}.get(piece.text, f" {piece.text} ")
            joint = joint or spaced
        elif not piece.goes:
            kept += f"{joint or ' '}{piece.text}" if kept else piece.text
            joint = ""
    start = before[0].start
    rest = f"{kept} {text[noun:]}".lstrip()
    if not text[:start].strip() and text[start].isupper():
        rest = rest[:1].upper() + rest[1:]
    return _with_article(text[:start], rest)


def _with_article(head: str, rest: str) -> str:
    """Both in one, with the article before `rest` that its sound asks for."""
    match = _ARTICLE.search(head)
    if match is None:
        return head + rest
    article = match[1][0] + ("n" if _sounds_open(rest.lower()) else "")
    return head[: match.start()] + article + match[2] + rest


def _sounds_open(text: str) -> bool:
    text = text.lstrip("<")
    if _SILENT_H.match(text):
        return True
    return text[:1] in tuple("aeiou") and not _LIKE_YOU.match(text)
