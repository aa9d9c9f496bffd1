"""Concepts from one bank into another: moved or copied, with pictures, and versions on a move.

Everything that forbids it is found before anything is done. A concept leaves its bank, for the
trash, once the other bank has it: whatever ends the program, it is in one of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from ..bank import Bank
from ..catalogue import find_entry, picture_beside
from ..concept import Concept, Subject
from ..errors import BankError, CidmError
from ..storage.compatibility import check_new
from ..storage.concept_file import file_tensors
from ..storage.kept import adopt
from ..storage.names import clean_name, same_key
from ..storage.placing import place_concept
from ..storage.previews import as_preview
from ..storage.record import Entry
from ..storage.trash import Removed, bring_back, discard
from .conflicts import Conflict, find_conflict, with_words
from .fitting import check_returns
from .sharing import THUMBNAIL, thumbnail, without_traces

STOP, LEAVE_OUT, REPLACE, RENAME = "stop", "leave-out", "replace", "rename"


@dataclass(frozen=True)
class Choice:
    """What to do about a conflict.

    Attributes:
        what: LEAVE_OUT; REPLACE, the other becomes a version of it or goes to its bank's trash; or
            RENAME.
        name: With RENAME: its name there. Default: a free one.
        words: With RENAME: what calls it there, as many words as before. Default: free ones.
    """

    what: str
    name: str = ""
    words: str = ""


Decide = Callable[[Conflict], Choice]


@dataclass(frozen=True)
class Moved:
    """What became of a concept.

    Attributes:
        name: What its bank called it.
        called: What the other bank calls it; "" if it was left out.
        phrase: What prompts call it there.
        replaced: Those whose place it took.
        number: Its number in the trash of its bank, where it was moved; 0 if it was copied.
    """

    name: str
    called: str
    phrase: str
    replaced: tuple[str, ...] = ()
    number: int = 0

    def in_words(self) -> str:
        """One line for people."""
        if not self.called:
            return f"{self.name}: left out"
        other = f" as {self.called!r}" if self.called != self.name else ""
        took = f", in the place of {', '.join(self.replaced)}" if self.replaced else ""
        return f"{self.name}: there{other}, called by {self.phrase}{took}"


@dataclass(frozen=True)
class _Step:
    entry: Entry
    name: str
    subjects: tuple[Subject, ...]
    replaces: tuple[Entry, ...] = ()
    damaged: str = ""
    is_there: bool = False  # since an earlier copy, or a move that was cut short

    @property
    def coming(self) -> Entry:
        return replace(self.entry, name=self.name, subjects=self.subjects)


def move_concepts(
    bank: Bank,
    names: Sequence[str],
    into: Bank,
    decide: Decide | None = None,
    *,
    copy: bool = False,
    share: bool = False,
) -> tuple[Moved, ...]:
    """Bring concepts of a bank into another, in their order.

    Args:
        bank: Where they are.
        names: Their names, or their words; empty means all.
        into: Where they go; the first makes the bank.
        decide: What to do where a name or words are taken. By default nothing is moved then.
        copy: They stay in their bank as well; versions then stay there alone.
        share: For other people: without what tells of this machine, with a picture in the file.

    Returns:
        What became of each.

    Raises:
        BankError: If a name or words are taken and nobody decides; if it is the same bank; if a
            file is damaged, or the system refuses, when those before it are done and told of.
        FamilyError: If they do not fit the other bank, before anything is done.
    """
    steps = _plan(bank, names, into, decide)
    done: list[Moved] = []
    for step in steps:
        if isinstance(step, Moved):
            done.append(step)
            continue
        try:
            done.append(_carry(bank, step, into, copy, share))
        except CidmError as error:
            before = "; ".join(each.in_words() for each in done) or "none"
            raise type(error)(f"{error} Done before: {before}.") from error
    return tuple(done)


def _plan(
    bank: Bank, names: Sequence[str], into: Bank, decide: Decide | None
) -> list[_Step | Moved]:
    entries, held = _chosen(bank, names), list(into.stored.entries())
    _check_banks(bank, into)
    for entry in entries:
        check_returns(held, entry)
    steps: list[_Step | Moved] = []
    told: list[Conflict] = []
    renamed: list[Entry] = []
    for entry in entries:
        if (there := _copy_of(bank, entry, into, held)) is not None:
            steps.append(_Step(entry, there.name, there.subjects, is_there=True))
            continue
        conflict = find_conflict(entry, into, (*held, *renamed), entries)
        if conflict is None:
            steps.append(_Step(entry, entry.name, entry.subjects))
        elif decide is None:
            told.append(conflict)
        else:
            step = _decided(conflict, decide(conflict), into, (*held, *renamed))
            steps.append(step)
            if isinstance(step, _Step):
                held = [each for each in held if each not in step.replaces]
                renamed.append(step.coming)
    if told:
        lines = "\n".join(f"- {each.entry.name}: {each.reason}" for each in told)
        raise BankError(
            f"Nothing was moved: {len(told)} of {len(entries)} concepts have names or words that "
            f"bank '{into.name}' has already.\n{lines}\nSay what to do with them: leave them out, "
            "let them replace the others, or rename them (on_conflict of the node, "
            "--on-conflict of the command)."
        )
    return steps


def _chosen(bank: Bank, names: Sequence[str]) -> list[Entry]:
    wanted = {find_entry(bank.stored, each).name for each in names if each.strip()}
    entries = [e for e in bank.stored.entries() if e.name in wanted or not wanted]
    if not entries:
        raise BankError(f"Bank '{bank.name}' holds no concept that could be moved.")
    return entries


def _check_banks(bank: Bank, into: Bank) -> None:
    if os.path.realpath(bank.path) == os.path.realpath(into.path):
        raise BankError(f"'{bank.path}' is the bank itself. Give another bank to move into.")


def _decided(
    conflict: Conflict, choice: Choice, into: Bank, there: Sequence[Entry]
) -> _Step | Moved:
    entry = conflict.entry
    if choice.what == LEAVE_OUT:
        return Moved(entry.name, "", "")
    if choice.what == REPLACE:
        if any(not other.path.is_relative_to(into.path) for other in conflict.others):
            raise BankError(
                f"{entry.name!r} would replace another one that is moved with it. Nothing was "
                f"moved; leave one of them out. {conflict.reason}"
            )
        return _Step(entry, entry.name, entry.subjects, conflict.others, conflict.damaged)
    if conflict.free_words is None and not choice.words:
        raise BankError(
            f"{entry.name!r} cannot be called by other words. Leave it out, or let it replace the "
            f"other one; nothing was moved. {conflict.reason}"
        )
    words = choice.words.split() or conflict.free_words or ()
    name = clean_name(choice.name or conflict.free_name)
    step = _Step(entry, name, with_words(entry.subjects, words))
    if (again := find_conflict(step.coming, into, there)) is not None:
        raise BankError(f"Nothing was moved. {again.reason}")
    return step


def _copy_of(bank: Bank, entry: Entry, into: Bank, held: Sequence[Entry]) -> Entry | None:
    """The very same concept in the other bank, perhaps renamed by us."""
    for other in held:
        pattern = rf"{re.escape(same_key(entry.name))}(-\d+)?"
        alike = _marks(entry) == _marks(other) and re.fullmatch(pattern, same_key(other.name))
        if alike and _same_numbers(bank.stored[entry.name], into.stored[other.name]):
            return other
    return None


def _same_numbers(one: Concept, other: Concept) -> bool:
    mine, theirs = file_tensors(one), file_tensors(other)
    return mine.keys() == theirs.keys() and all(mine[k].equal(theirs[k]) for k in mine)


def _marks(entry: Entry) -> tuple[object, ...]:
    found = (entry.created, entry.method, entry.base, entry.layers, entry.rank)
    return *found, entry.class_words, entry.kind, entry.facts.get("final_loss")


def _carry(bank: Bank, step: _Step, into: Bank, copy: bool, share: bool) -> Moved:
    """Bring one concept over; then it may leave its bank."""
    if not step.is_there:
        _bring(bank, step, into, copy, share)
    if step.entry not in bank.stored.entries():
        copy = True  # others have changed it meanwhile, and it stays
    number = 0 if copy else bank.stored.remove(step.entry.name).number
    replaced = tuple(e.name for e in step.replaces)
    return Moved(step.entry.name, step.name, step.coming.phrase, replaced, number)


def _bring(bank: Bank, step: _Step, into: Bank, copy: bool, share: bool) -> None:
    concept = replace(bank.stored[step.entry.name], name=step.name, subjects=step.subjects)
    picture = picture_beside(step.entry.path)
    told: dict[str, str] = {}
    if share:
        concept = without_traces(concept)
        told = {} if picture is None else {THUMBNAIL: thumbnail(picture)}
    small = None if picture is None else as_preview(picture)
    with into.writing():
        there = into.stored.entries()
        if gone := [e.name for e in step.replaces if e not in there]:
            raise BankError(f"{', '.join(gone)} of bank '{into.name}' changed meanwhile.")
        check_new(step.coming, [e for e in there if e not in step.replaces])
        same = [e for e in step.replaces if same_key(e.name) == same_key(step.name)]
        index = same[0].index if same else max((e.index for e in there), default=-1) + 1
        with _room_made(into, step, same):
            target = same[0].path if same else into.stored.file_for(step.name)
            place_concept(replace(concept, index=index), target, small, told)
        if not copy:
            adopt(step.entry.path, target)


@contextmanager
def _room_made(into: Bank, step: _Step, same: Sequence[Entry]) -> Generator[None]:
    """What a concept replaces goes to the trash, and comes back if that fails; one of its name
    stays, to be kept as a version.
    """
    paths = [other.path for other in step.replaces if other not in same]
    paths += [into.path / step.damaged] if step.damaged else []
    removed: list[Removed] = []
    try:
        for path in paths:
            removed.append(discard(into.path, path))
        yield
    except BaseException:
        for each in removed:
            with suppress(BankError):
                bring_back(into.path, each)
        raise
