"""What one run of learning works on, with everything checked before any work starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..bank import Bank
from ..concept import Concept
from ..config import TrainConfig
from ..errors import ConceptError, PromptError, TrainingError
from ..methods import config_for, method_called
from ..methods.base import MakeMethod, Task
from ..methods.shared import CompositesConfig
from ..storage.compatibility import check_fit, check_new
from ..storage.names import clean_name, file_stem, name_of_subjects
from ..storage.record import Entry
from ..training.again import GO_ON, REFUSE, Others, mark_of, marks, refusal, steps_of, taught_before
from ..training.data import Photo, TrainingSubject
from ..training.lesson import Lesson, Model, settled, size_px
from ..training.processes import Processes, share_of
from ..training.state import RunFolder, run_id
from ..words import bracketed
from .base import Base
from .reading import Reader
from .tokens import tokenise

logger = logging.getLogger(__name__)

RUNS = ".runs"


@dataclass(frozen=True)
class Job:
    """A checked run: photos with bound captions, settings as they will be used, its folder."""

    base: Base
    bank: Bank
    lesson: Lesson
    photos: Sequence[Photo]
    prior: Sequence[Photo]
    task: Task
    others: Others
    config: TrainConfig
    size_px: int
    processes: Processes
    folder: RunFolder
    make: MakeMethod
    facts: Mapping[str, object]  # what is known of the concept before it is learned
    replaces: Entry | None

    @property
    def composites(self) -> CompositesConfig:
        """The settings of composites, for methods that have them."""
        assert isinstance(self.config, CompositesConfig)
        return self.config


def prepare(
    base: Base, bank: Bank, lesson: Lesson, name: str | None, again: str, processes: Processes
) -> Job:
    """Check all of the input, cheap things first.

    Raises:
        CidmError: As `train_concept` documents.
    """
    config = lesson.config
    side = size_px(config, base.family)
    share_of(config.batch_size, processes)
    lesson.check()
    _tell_shared_steps(lesson, base)
    refuse_ordinary_words(base, [word for each in lesson.subjects for word in each.subject.words])
    taught = taught_before(bank, lesson, name, again)
    others = Others(bank, taught and taught.name)
    for path, error in bank.broken():
        logger.warning("Learning goes on without '%s' of the bank. %s", path.name, error)
    task = _task(base, bank, others, lesson, name, taught)
    photos, prior = lesson.photo_sets()
    for photo in lesson.templated([*photos, *prior]):
        check_caption(base, photo.caption, task.words, task.phrases)
    if getattr(method_called(lesson.method), "masked", False) and (told := told_of_masks(photos)):
        logger.warning("%s", told)
    inputs = lesson.inputs(base, photos, prior)
    before: dict[str, object] = {}
    if taught and again == REFUSE:
        raise refusal(taught, lesson, base, inputs)
    if taught and again == GO_ON:
        task = replace(task, start=_start(base, bank, lesson, taught.name))
        before = {"start": mark_of(taught), "earlier_steps": steps_of(taught)}
        inputs["start"] = before["start"]
    old = [(entry.name, entry.index, entry.created) for entry in others.entries]
    run = run_id(config.to_dict(), **inputs, old=old)
    folder = RunFolder(folder_of(bank, task.name), run, writes=processes.rank == 0)
    return Job(
        base=base,
        bank=bank,
        lesson=lesson,
        photos=photos,
        prior=prior,
        task=task,
        others=others,
        config=config,
        size_px=side,
        processes=processes,
        folder=folder,
        make=lesson.make or method_called(lesson.method),
        facts={
            "photos": len(photos),
            "base_name": base.name,
            "taught": run_id(config.to_dict(), **inputs),
            "inputs": marks(inputs),
            **before,
        },
        replaces=taught,
    )


def _tell_shared_steps(lesson: Lesson, base: Base) -> None:
    """Say so where several subjects share fewer steps than each would have alone."""
    count, steps = len(lesson.subjects), lesson.config.steps
    alone = config_for(lesson.method, base.family).steps
    if count > 1 and steps < count * alone:
        logger.warning(
            "%d subjects share %d steps; one alone has %d by default. With steps at %d each learns "
            "as long.",
            *(count, steps, alone, count * alone),
        )


def folder_of(bank: Bank, name: str) -> Path:
    """Where the run of a concept keeps its state, log and pictures."""
    return bank.path / RUNS / file_stem(name)


def find_taught(
    base: Model,
    bank: Bank,
    photos: Sequence[Photo],
    *,
    name: str | None = None,
    method: str = "cidm",
    config: TrainConfig | None = None,
    subjects: Sequence[TrainingSubject] = (),
    prior: Sequence[Photo] = (),
    make: MakeMethod | None = None,
    again: str = REFUSE,
    contrast: Mapping[str, object] | None = None,
    **first: Any,
) -> Concept | None:
    """The bank's concept that these very inputs of `train_concept` have taught, if there is one.

    What else the bank holds does not count: a concept stays the one that was learned.

    Args:
        base: The model, or what would be known of it.
        bank: Where to look.
        photos: As for `train_concept`, like all that follows.
        name: Name in the bank; None: any.
        method: How it is learned.
        config: Settings.
        subjects: Further subjects.
        prior: Prior pictures.
        make: Instead of the method.
        again: Whether the concept was to be taught again; with "go_on" one counts that has gone on.
        contrast: What `Contrast.facts` says of it.
        first: Words and kind of the photos, as `TrainingSubject` has them.

    Raises:
        BankError: If its file is damaged.
        ConceptError: The words cannot be used.
        PhotoError: A photo or caption cannot be used.
    """
    config = settled(config, method, base)
    held = (TrainingSubject(photos, prior=prior, **first), *subjects)
    lesson = Lesson.of(held, method, config, make, contrast)
    asked = tuple(each.subject for each in lesson.subjects)
    named = None if name is None else clean_name(name)
    for entry in bank.entries():
        if entry.subjects == asked and named in (None, entry.name) and "taught" in entry.facts:
            inputs = lesson.inputs(base, *lesson.photo_sets())
            if again == GO_ON:
                inputs["start"] = entry.facts.get("start")
            if entry.facts["taught"] == run_id(lesson.config.to_dict(), **inputs):
                return bank[entry.name]
    return None


def refuse_ordinary_words(base: Reader, words: Sequence[str]) -> None:
    """Make sure that the words to be taught do not take ordinary ones away.

    Raises:
        ConceptError: If the tokenizer knows one as a word, so that prompts use it for something
            else.
    """
    plain = [word for word in words if not bracketed(word)]
    right = " ".join(word if bracketed(word) else f"<{word}>" for word in words)
    for word in plain:
        if len(base.tokenizers[0](word, add_special_tokens=False).input_ids) == 1:
            raise ConceptError(
                f"{word!r} is a word of its own already, and prompts use it for other things. "
                f"Teach words in angle brackets, {right!r}; captions keep the class words."
            )
        logger.warning(
            "%r is plain text: wherever it stands in a prompt it can mean the concept. In angle "
            "brackets, %r, it could not be met by chance.",
            *(word, f"<{word}>"),
        )


def check_caption(
    base: Reader,
    caption: str,
    words: Sequence[str],
    phrases: Sequence[str] = (),
    *,
    quiet: bool = False,
) -> None:
    """Make sure that every encoder reads what names the concept; tell what is cut of a caption.

    Raises:
        PromptError: If a concept word, or every phrase in its stead, lies beyond the token limit.
    """
    for row, tokenizer in zip(base.family.encoders, base.tokenizers, strict=True):
        names = [(word,) for word in words]
        found = tokenise(tokenizer, caption, names, row.max_tokens, phrases, quiet=quiet).spans
        if found.triggers and not found.ends:
            raise PromptError(
                f"{next(iter(found.triggers))!r} lies beyond the {row.max_tokens - 2} tokens that "
                f"the text encoder reads of the caption {caption[:60]!r}... Shorten it."
            )


def told_of_masks(photos: Sequence[Photo]) -> str:
    """What to tell where whole photos will be learned: nobody said where the concept is; or ""."""
    without = sum(not photo.has_mask for photo in photos)
    if not without:
        return ""
    return (
        f"{without} of {len(photos)} photos have no mask: all that is in them is learned, the "
        "background too. Give masks, white on the concept."
    )


def _task(
    base: Base, bank: Bank, others: Others, lesson: Lesson, name: str | None, taught: Entry | None
) -> Task:
    subjects = tuple(each.subject for each in lesson.subjects)
    check_fit(others.entries, base)
    if taught is not None:
        name = taught.name
    elif name is None:
        name = bank.free_name(name_of_subjects(subjects))
    task = Task(clean_name(name), subjects, base.family.name, base.fingerprint, base.layers)
    # An empty concept stands in for the one to come: what the bank would refuse is refused now.
    empty = task.concept(lesson.method, lesson.config, {}, {}, {})
    check_new(empty, others.entries)
    if taught is None:
        bank.file_for(task.name)
    return task


def _start(base: Base, bank: Bank, lesson: Lesson, name: str) -> Concept:
    """The taught concept, if learning can go on from it."""
    check = getattr(lesson.make or method_called(lesson.method), "check_start", None)
    if check is None:
        raise TrainingError(
            f"The method {lesson.method} cannot go on from a taught concept. Replace it instead."
        )
    start = bank[name]
    check_fit([start], base)
    check(start, lesson.config)
    return start
