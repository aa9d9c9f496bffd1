"""Names of concepts: what they may be, the file each one gets, and good guesses."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ..concept import Subject
from ..errors import BankError
from ..words import parse_words

MAX_NAME_LENGTH = 200
MAX_STEM_BYTES = 100
_MOST_NAMED = 3
_FORBIDDEN = frozenset('<>:"/\\|?*')
_JOINER = "\u200d"  # holds composed emoji together
# Windows reads these as devices, whatever follows the first dot.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³"]
)


def clean_name(name: str) -> str:
    """The name in composed form (NFC) without outer spaces.

    Raises:
        BankError: If it is empty, too long or holds control or direction characters.
    """
    text = unicodedata.normalize("NFC", name).strip()
    if not text.replace(_JOINER, "").strip():  # joiners alone cannot be seen
        raise BankError("The concept has no name. Give it one, for example 'dog'.")
    if len(text) > MAX_NAME_LENGTH:
        raise BankError(
            f"The name {text[:20]!r}... has {len(text)} characters; the limit is "
            f"{MAX_NAME_LENGTH}. Choose a shorter one."
        )
    if not text.replace(_JOINER, "").isprintable():
        raise BankError(
            f"The name {text!a} holds control, direction or line break characters. "
            "Use letters, digits and spaces."
        )
    return text


def same_key(name: str) -> str:
    """Two names with the same key would be confused by people or by file systems."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def file_stem(name: str) -> str:
    """The file name, without its ending, that a concept of this name gets on every system.

    No separators, no device names, no leading dot, no trailing dot or space, at most
    `MAX_STEM_BYTES` bytes of UTF-8.
    """
    text = clean_name(name)
    text = "".join("_" if ch in _FORBIDDEN or not ch.isprintable() else ch for ch in text)
    if text.startswith(".") or text.split(".")[0].rstrip().casefold() in _DEVICES:
        text = f"_{text}"
    short = text.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
    return short.rstrip(". ")


def default_name(words: str | Sequence[str], class_words: str = "") -> str:
    """A name for a concept from its words: "dog" for "<dog1> <dog2>", else its class words.

    Raises:
        ConceptError: If the words are unusable.
    """
    parsed = parse_words(words)
    stems = {re.sub(r"[\W_]*\d*$", "", word.strip("<>[](){}*")) for word in parsed}
    if len(stems) == 1 and (stem := stems.pop()):
        return stem
    return " ".join(class_words.split()) or parsed[0].strip("<>") or parsed[0]


def name_of_subjects(subjects: Sequence[Subject]) -> str:
    """A name for what holds several: "rex and tom" for "<rex>" and "<tom>".

    Words that make the same name for all, such as "<new1>" and "<new2>", give way to class words:
    "dog and cat". Of more than three the first two are named.

    Raises:
        ConceptError: If words are unusable.
    """
    names = [
        default_name(each.words, each.class_words) if each.words else clean_name(each.class_words)
        for each in subjects
    ]
    if len(set(names)) < len(names):
        names = list(dict.fromkeys(each.class_words.strip() or "concept" for each in subjects))
    if len(names) > _MOST_NAMED:
        names = [*names[:2], f"{len(names) - 2} more"]
    return clean_name(" and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names))
