"""Teaching a concept again: whether it was taught before, what differs, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..as_text import minute
from ..bank import Bank
from ..catalogue import as_words
from ..concept import Concept, Subject
from ..config import AGAIN
from ..errors import BankError, CidmError
from ..fingerprints import same_base
from ..storage.names import same_key
from ..storage.record import Entry
from .lesson import Lesson, Model
from .state import COSMETIC, run_id

REFUSE, REPLACE, GO_ON = AGAIN
_PRIOR = "prior pictures"
_PREDICTION = "kind of prediction or noise levels"


class Others(Mapping[str, Concept]):
    """The concepts of a bank but for one, each read when its turn comes.

    Args:
        bank: The bank.
        but: Name of the one that is taught again, if it is.
    """

    def __init__(self, bank: Bank, but: str | None) -> None:
        self.entries = tuple(entry for entry in bank.entries() if entry.name != but)
        self._bank = bank

    def __getitem__(self, name: str) -> Concept:
        return self._bank[name]

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def marks(inputs: Mapping[str, object]) -> dict[str, str]:
    """Short names of photos, captions and the like, to tell later whether they are others.

    Args:
        inputs: From `Lesson.inputs`.
    """
    photos: Any = inputs["photos"]
    base: Any = inputs["base"]
    held = {
        "photos": [row[0] for row in photos],
        "captions": [row[1] for row in photos],
        _PRIOR: inputs["prior"],
        _PREDICTION: [base[2], inputs.get("trained_betas")],
    }
    return {part: run_id({}, held=rows)[:8] for part, rows in held.items()}


def mark_of(taught: Entry) -> str:
    """A name for a concept as it is now, for runs that go on from it."""
    return f"{taught.created} {taught.facts.get('taught', '')}"


def steps_of(taught: Entry) -> int:
    """All steps that a concept was learned for, those before it went on included."""
    counts = (taught.facts.get(key) for key in ("steps", "earlier_steps"))
    return sum(count for count in counts if isinstance(count, int))


def taught_before(bank: Bank, lesson: Lesson, name: str | None, again: str) -> Entry | None:
    """The bank's concept of these very words, if there is one.

    Raises:
        BankError: If there is nothing to go on from, or it has another name than was asked for.
        CidmError: If `again` is unknown.
    """
    if again not in AGAIN:
        raise CidmError(f"again is {again[:40]!r}; choose one of {', '.join(AGAIN)}.")
    subjects = tuple(each.subject for each in lesson.subjects)
    words = tuple(word for subject in subjects for word in subject.triggers)
    taught = _of_words(bank, subjects, name)
    if taught is None and again == GO_ON:
        unread = ", ".join(f"'{path.name}'" for path, _ in bank.broken())
        note = f" but has files that cannot be read: {unread}" if unread else ""
        raise BankError(
            f"Bank '{bank.name}' holds no concept of the words {' '.join(words)!r} to go on from"
            f"{note}. Correct the words, or teach them from the beginning."
        )
    if taught and again != REFUSE and name and same_key(name) != same_key(taught.name):
        raise BankError(
            f"The words {taught.trigger!r} are those of concept {taught.name!r}, not {name!r}. "
            "Leave the name out, or give that one."
        )
    return taught


def _of_words(bank: Bank, subjects: tuple[Subject, ...], name: str | None) -> Entry | None:
    """Plain words that call nothing by themselves may be taught under several names."""
    on_request = any(subject.on_request for subject in subjects)
    names = tuple(subject.triggers for subject in subjects)
    for entry in bank.entries():
        if on_request and tuple(each.triggers for each in entry.subjects) == names:
            if entry.on_request and name in (None, entry.name):
                return entry
        elif not on_request and entry.names == names:
            return entry
    return None


def refusal(taught: Entry, lesson: Lesson, base: Model, inputs: Mapping[str, object]) -> BankError:
    """Why a concept is not simply taught again, and how it can be."""
    found = [*_other_settings(taught, lesson), *_other_inputs(taught, lesson, inputs)]
    if not same_base(taught.base, base.fingerprint):
        found.append(f"the model, {taught.facts.get('base_name') or 'another'} then")
    instead = "give it another name" if taught.on_request else "teach other words"
    told = f"What differs: {'; '.join(found)}." if found else "Nothing differs."
    return BankError(
        f"The words {taught.phrase!r} are those of concept {taught.name!r}, learned "
        f"{minute(taught.created)}. {told} To teach it again, set again (on the "
        "command line --again): replace puts the new one in its place once it is complete, go_on "
        f"(go-on) learns on from it. Or {instead}."
    )


def _other_settings(taught: Entry, lesson: Lesson) -> list[str]:
    now, then = lesson.config.to_dict(), taught.config
    subjects = [each.subject for each in lesson.subjects]
    class_words = " and ".join(subject.class_words for subject in subjects)
    pairs: dict[str, tuple[object, object]] = {
        "method": (taught.method, lesson.method),
        "class words": (taught.class_words, class_words),
        "kind": (taught.kind, subjects[0].kind),
        "earlier steps": (taught.facts.get("earlier_steps", 0), 0),
    }
    pairs |= {key: (then[key], now[key]) for key in now if key in then and key not in COSMETIC}
    return [f"{key} {as_words(a)}, now {as_words(b)}" for key, (a, b) in pairs.items() if a != b]


def _other_inputs(taught: Entry, lesson: Lesson, inputs: Mapping[str, object]) -> list[str]:
    held, mine = taught.facts.get("inputs"), marks(inputs)
    if not isinstance(held, Mapping):
        return ["its photos are not known"]
    before, now = taught.facts.get("photos"), sum(len(each.photos) for each in lesson.subjects)
    found = [f"other {part}" for part in mine if held.get(part, mine[part]) != mine[part]]
    if before != now:  # which says that photos and captions are others
        kept = [each for each in found if each.endswith((_PRIOR, _PREDICTION))]
        found = [f"{before} photos, now {now}", *kept]
    return found
