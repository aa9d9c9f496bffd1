"""What stands in the way of a concept that comes into a bank, and free names and words for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from .. import words as word_rules
from ..bank import Bank
from ..concept import Subject
from ..errors import BankError, ConceptError
from ..storage.compatibility import check_new
from ..storage.names import clean_name, file_stem, same_key
from ..storage.record import Entry

_MOST_TRIED = 1000
_NO_NAME = "\0"  # that no concept has


@dataclass(frozen=True)
class Conflict:
    """A concept that cannot come into a bank as it is.

    Attributes:
        entry: The concept.
        others: Those of the bank whose name or words it has.
        damaged: The file of its name that is there already and holds no sound concept; "" if none.
        reason: All of it as text.
        free_name: A name that is free there, its own if that is.
        free_words: Words that are free there, its own if they are; None if only class words call
            it, which have no other form.
    """

    entry: Entry
    others: tuple[Entry, ...]
    damaged: str
    reason: str
    free_name: str
    free_words: tuple[str, ...] | None


def find_conflict(
    entry: Entry, bank: Bank, there: Sequence[Entry], besides: Sequence[Entry] = ()
) -> Conflict | None:
    """What forbids a concept in a bank.

    Args:
        entry: The concept, perhaps of another bank.
        bank: Where it is to go.
        there: The concepts of that bank, as they will be by then.
        besides: Others that are to go there; what is free is free of their names and words too.
    """
    damaged = _damaged_file(bank, entry.name)
    if not damaged and _may_come(entry, there):
        return None
    found = [(other, text) for other in there if (text := _refusal(entry, other))]
    reasons = [text for _, text in found]
    if damaged:
        reasons.append(f"The file '{damaged}' is there and holds no sound concept.")
    others = tuple(other for other, _ in found)
    every = [each for each in (*there, *besides) if each is not entry]
    return Conflict(
        *(entry, others, damaged, " ".join(reasons)),
        _free_name(entry, bank, every),
        _free_words(entry, every),
    )


def with_words(subjects: Sequence[Subject], words: Sequence[str]) -> tuple[Subject, ...]:
    """Subjects called by other words, as many as before and in the same order.

    Raises:
        BankError: If there are more or fewer, or they cannot be words.
    """
    try:
        given = list(word_rules.new_words(words)) if words else []
    except ConceptError as error:
        raise BankError(str(error)) from error
    needed = sum(len(each.words) for each in subjects)
    if len(given) != needed:
        raise BankError(f"{len(given)} words were given; it takes as many as before, {needed}.")
    found: list[Subject] = []
    for each in subjects:
        found.append(replace(each, words=tuple(given[: len(each.words)])))
        del given[: len(each.words)]
    return tuple(found)


def _may_come(entry: Entry, there: Sequence[Entry]) -> bool:
    stem = same_key(file_stem(entry.name))
    return _is_free(entry, there) and all(same_key(each.path.stem) != stem for each in there)


def _refusal(entry: Entry, other: Entry) -> str:
    """Why two concepts cannot be in one bank; "" if they can."""
    try:
        check_new(entry, [other])
    except BankError as error:
        return str(error)
    if _may_come(entry, [other]):
        return ""
    return f"Its file would be '{other.path.name}', which is that of {other.name!r}."


def _damaged_file(bank: Bank, name: str) -> str:
    stem = same_key(file_stem(name))
    return next((p.name for p, _ in bank.stored.broken() if same_key(p.stem) == stem), "")


def _free_name(entry: Entry, bank: Bank, every: Sequence[Entry]) -> str:
    taken = {same_key(each.name) for each in every}
    taken |= {same_key(file_stem(each.name)) for each in every}
    for number in count(1):
        wanted = entry.name if number == 1 else f"{entry.name}-{number}"
        name = bank.stored.free_name(clean_name(wanted))
        if not {same_key(name), same_key(file_stem(name))} & taken:
            return name
    raise AssertionError("numbers do not end")


def _free_words(entry: Entry, there: Sequence[Entry]) -> tuple[str, ...] | None:
    """`<dog1-2> <dog2-2>` for `<dog1> <dog2>`: the first number that is free for all."""
    nameless = replace(entry, name=_NO_NAME)
    if _is_free(nameless, there):
        return entry.words
    for number in range(2, _MOST_TRIED if entry.words else 0):
        words = tuple(re.sub(r"(>?)$", rf"-{number}\1", word, count=1) for word in entry.words)
        try:
            changed = replace(nameless, subjects=with_words(entry.subjects, words))
        except BankError:  # of another program, and not in a form that ours can have
            return None
        if _is_free(changed, there):
            return words
    return None


def _is_free(entry: Entry, there: Sequence[Entry]) -> bool:
    try:
        check_new(entry, there)
    except BankError:
        return False
    return True
