"""What one run of learning works on, with everything checked before any work starts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from ..bank import Bank, free_name
from ..concept import Concept, Subject
from ..config import TrainConfig
from ..errors import HostError, TrainingError
from ..families import Family
from ..methods import adopted, config_for, method_called
from ..methods.base import MakeMethod, Task
from ..storage.compatibility import check_new
from ..storage.names import clean_name, default_name, file_stem
from ..training.data import Photo, TrainingSubject
from ..training.processes import Processes
from ..training.state import RunFolder, run_id
from ..words import parse_words
from .base import Base
from .encode import tokenise

RUNS = ".runs"
_PRECISION = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class Model(Protocol):
    """What of a base model decides the name of a run; a `Base` has it."""

    @property
    def family(self) -> Family: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True)
class Lesson:
    """What is to be learned, and how.

    Attributes:
        subjects: With their photos; most methods teach one at a time.
        prior: Pictures of the class that keep the model as it is.
        method: A name in `METHODS`.
        config: Its settings.
        make: Builds the method instead of the row in `METHODS`.
    """

    subjects: tuple[TrainingSubject, ...]
    prior: Sequence[Photo]
    method: str
    config: TrainConfig
    make: MakeMethod | None = None

    @classmethod
    def of(
        cls,
        base: Model,
        first: TrainingSubject,
        more: Sequence[TrainingSubject],
        prior: Sequence[Photo],
        method: str,
        config: TrainConfig | None,
        make: MakeMethod | None,
    ) -> Lesson:
        """The lesson with the settings as they will be used on this model.

        Raises:
            CidmError: If the method is unknown or the settings are another method's.
            HostError: If the model cannot learn in the precision asked for.
        """
        if config is None:
            config = config_for(method, base.family)
        config = adopted(method, config)
        config = replace(config, precision=_precision(config, base))
        return cls((first, *more), prior, method, config, make)

    def check(self) -> None:
        """Whether the method can teach this.

        Raises:
            TrainingError: If it cannot.
        """
        method = method_called(self.method)
        if len(self.subjects) > 1 and not method.several:
            raise TrainingError(
                f"The method {self.method} teaches one subject at a time, and {len(self.subjects)} "
                "were given. Teach them one after another."
            )
        if method.prior == "unused" and self.prior:
            raise TrainingError(
                f"The method {self.method} does not learn from prior pictures. Leave them out."
            )
        if method.prior == "needed" and not self.prior:
            raise TrainingError(
                f"The method {self.method} needs prior pictures: other things of the class, such "
                "as other dogs. Give a folder of them."
            )
        for subject in self.subjects:
            if method.words == "needed":
                parse_words(subject.words)
            elif method.words == "unused" and subject.words:
                raise TrainingError(
                    f"The method {self.method} teaches no words: {subject.class_words!r} itself "
                    "will call the concept. Leave the words out."
                )


@dataclass(frozen=True)
class PhotoSet:
    """Photos with bound captions, and what each shows."""

    photos: Sequence[Photo]
    kinds: Sequence[str]

    @property
    def captions(self) -> list[str]:
        return [photo.caption for photo in self.photos]


@dataclass(frozen=True)
class Job:
    """A checked run: photos with bound captions, settings as they will be used, its folder."""

    base: Base
    bank: Bank
    photos: PhotoSet
    prior: PhotoSet
    task: Task
    config: TrainConfig
    size_px: int
    processes: Processes
    folder: RunFolder
    make: MakeMethod
    taught: str  # names photos, words, settings and model, but not the bank's other concepts


def prepare(base: Base, bank: Bank, lesson: Lesson, name: str | None, processes: Processes) -> Job:
    """Check all of the input, cheap things first.

    Raises:
        CidmError: As `train_concept` documents.
    """
    config = lesson.config
    size_px = _size_px(config, base)
    if config.batch_size % processes.count:
        raise TrainingError(
            f"batch_size {config.batch_size} cannot be shared by {processes.count} processes. Use "
            f"a multiple of {processes.count}."
        )
    lesson.check()
    task = _task(base, bank, lesson, name)
    photos, prior = _bound(lesson)
    for caption in (*photos.captions, *prior.captions):
        check_caption(base, caption, task.words)
    taught = _inputs(base, lesson, photos, prior, size_px)
    old = [(entry.name, entry.index, entry.created) for entry in bank.entries()]
    run = run_id(config.to_dict(), **taught, old=old)
    folder = RunFolder(folder_of(bank, task.name), run, writes=processes.rank == 0)
    folder.prepare()
    return Job(
        base=base,
        bank=bank,
        photos=photos,
        prior=prior,
        task=task,
        config=config,
        size_px=size_px,
        processes=processes,
        folder=folder,
        make=lesson.make or method_called(lesson.method),
        taught=run_id(config.to_dict(), **taught),
    )


def folder_of(bank: Bank, name: str) -> Path:
    """Where the run of a concept keeps its state, log and pictures."""
    return bank.path / RUNS / file_stem(name)


def find_taught(
    base: Model,
    bank: Bank,
    photos: Sequence[Photo],
    *,
    words: str | Sequence[str] = (),
    class_words: str,
    kind: str = "object",
    name: str | None = None,
    method: str = "cidm",
    config: TrainConfig | None = None,
    subjects: Sequence[TrainingSubject] = (),
    prior: Sequence[Photo] = (),
    mapping: Mapping[str, str] | None = None,
    make: MakeMethod | None = None,
) -> Concept | None:
    """The bank's concept that these very inputs of `train_concept` have taught, if there is one.

    What else the bank holds does not count: a concept stays the one that was learned.

    Args:
        base: The model, or what would be known of it.
        bank: Where to look.
        photos: As for `train_concept`, like all that follows.
        words: Concept words.
        class_words: The plain words they stand for.
        kind: "object", "style" or "human".
        name: Name in the bank; None: any.
        method: How it is learned.
        config: Settings.
        subjects: Further subjects.
        prior: Prior pictures.
        mapping: Replacements in captions.
        make: Instead of the method.

    Raises:
        BankError: If its file is damaged.
        ConceptError: The words cannot be used.
        PhotoError: A photo or caption cannot be used.
    """
    first = TrainingSubject(photos, words, class_words, kind, mapping)
    lesson = Lesson.of(base, first, subjects, prior, method, config, make)
    asked = tuple(each.subject for each in lesson.subjects)
    named = None if name is None else clean_name(name)
    for entry in bank.entries():
        if entry.subjects == asked and named in (None, entry.name) and "taught" in entry.facts:
            size_px = _size_px(lesson.config, base)
            inputs = _inputs(base, lesson, *_bound(lesson), size_px)
            if entry.facts["taught"] == run_id(lesson.config.to_dict(), **inputs):
                return bank[entry.name]
    return None


def _bound(lesson: Lesson) -> tuple[PhotoSet, PhotoSet]:
    """All photos with bound captions, and the prior pictures, whose captions stay as they are."""
    held = [(photo, subject.kind) for subject in lesson.subjects for photo in subject.bound()]
    class_words = lesson.subjects[0].class_words
    # A prior picture without a caption gets a template like a photo.
    prior = [
        (photo, "") if photo.caption else (replace(photo, caption=class_words), "object")
        for photo in lesson.prior
    ]
    return _photos(held), _photos(prior)


def _photos(pairs: Sequence[tuple[Photo, str]]) -> PhotoSet:
    return PhotoSet([photo for photo, _ in pairs], [kind for _, kind in pairs])


def check_caption(base: Base, caption: str, words: Sequence[str]) -> None:
    """Make sure that every encoder reads the concept words of a caption.

    Raises:
        PromptError: If one lies beyond the token limit.
    """
    for row, tokenizer in zip(base.family.encoders, base.tokenizers, strict=True):
        tokenise(tokenizer, caption, words, row.max_tokens)


def _precision(config: TrainConfig, base: Model) -> str:
    """The precision asked for; that of the weights if they are no better."""
    held = _PRECISION.get(base.dtype, "fp32")
    precision = held if config.precision == "fp32" else config.precision
    if precision == "fp16" and base.device.type == "cpu":
        raise HostError(
            "Learning in fp16 needs a GPU, and the model is on the CPU. Use precision bf16 or "
            "fp32, and load the model in one of them."
        )
    return precision


def _size_px(config: TrainConfig, base: Model) -> int:
    size, cell = config.resolution_px or base.family.resolution_px, base.family.latent_px
    if size % cell:
        raise TrainingError(
            f"resolution_px is {size}; {base.family.name} needs a multiple of its latent cell of "
            f"{cell} px. Use {max(1, size // cell) * cell}."
        )
    return size


def _task(base: Base, bank: Bank, lesson: Lesson, name: str | None) -> Task:
    subjects = tuple(each.subject for each in lesson.subjects)
    bank.check(base)
    if name is None:
        name = free_name(bank, _default_name(subjects))
    task = Task(clean_name(name), subjects, base.family.name, base.fingerprint, base.layers)
    # An empty concept stands in for the one to come: what the bank would refuse is refused now.
    empty = task.concept(lesson.method, lesson.config, {}, {}, {})
    check_new(empty, bank.entries())
    return task


def _default_name(subjects: Sequence[Subject]) -> str:
    words = [word for subject in subjects for word in subject.words]
    class_words = " and ".join(subject.class_words for subject in subjects)
    return default_name(words, class_words) if words else clean_name(class_words)


def _inputs(
    base: Model, lesson: Lesson, photos: PhotoSet, prior: PhotoSet, size_px: int
) -> dict[str, object]:
    """What decides the result of a run, beside the settings and the bank's earlier concepts."""
    inputs: dict[str, object] = {
        "method": lesson.method,
        "subjects": [asdict(each.subject) for each in lesson.subjects],
        "photos": _contents(photos),
        "prior": _contents(prior),
        "base": (base.fingerprint, str(base.dtype)),
        "size_px": size_px,
    }
    return inputs if lesson.make is None else inputs | {"make": repr(lesson.make)}


def _contents(photos: PhotoSet) -> list[tuple[str, str, str]]:
    held = zip(photos.photos, photos.captions, photos.kinds, strict=True)
    return [(_digest(photo), caption, kind) for photo, caption, kind in held]


def _digest(photo: Photo) -> str:
    """Content of a photo and its mask, whatever file they came from."""
    held = photo.loaded()
    digest = hashlib.sha256(repr(held.image.size).encode() + held.image.tobytes())
    if held.mask is not None:
        digest.update(held.mask.tobytes())
    return digest.hexdigest()
