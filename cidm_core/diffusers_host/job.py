"""What one run of learning works on, with everything checked before any work starts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from ..bank import Bank, free_name
from ..concept import Concept, Subject
from ..config import TrainConfig
from ..errors import HostError, PhotoError, TrainingError
from ..families import Family
from ..methods import METHODS
from ..methods.base import MakeMethod, Task
from ..storage.compatibility import check_words
from ..storage.names import clean_name, default_name, file_stem
from ..training.data import Photo, bind_photos
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
class Job:
    """A checked run: photos with bound captions, settings as they will be used, its folder."""

    base: Base
    bank: Bank
    photos: Sequence[Photo]
    task: Task
    config: TrainConfig
    size_px: int
    processes: Processes
    folder: RunFolder
    make: MakeMethod
    taught: str  # names photos, words, settings and model, but not the bank's other concepts


def prepare(
    base: Base,
    bank: Bank,
    photos: Sequence[Photo],
    config: TrainConfig,
    processes: Processes,
    words: str | Sequence[str],
    class_words: str,
    kind: str,
    name: str | None,
    mapping: Mapping[str, str] | None,
    make: MakeMethod | None = None,
) -> Job:
    """Check all of the input, cheap things first.

    Raises:
        CidmError: As `train_concept` documents.
    """
    config = replace(config, precision=_precision(config, base))
    size_px = _size_px(config, base)
    if config.batch_size % processes.count:
        raise TrainingError(
            f"batch_size {config.batch_size} cannot be shared by {processes.count} processes. Use "
            f"a multiple of {processes.count}."
        )
    task = _task(base, bank, words, class_words, kind, name)
    if not photos:
        raise PhotoError("There are no photos to learn from. Give three to five of the concept.")
    bound = bind_photos(photos, task.words, task.class_words, mapping)
    for photo in bound:
        check_caption(base, photo.caption, task.words)
    inputs = _inputs(base, bound, task.words, class_words, kind, size_px, make)
    old = [(entry.name, entry.index, entry.created) for entry in bank.entries()]
    run = run_id(config.to_dict(), **inputs, old=old)
    folder = RunFolder(folder_of(bank, task.name), run, writes=processes.rank == 0)
    folder.prepare()
    taught = run_id(config.to_dict(), **inputs)
    chosen = make or METHODS[config.method]
    return Job(base, bank, bound, task, config, size_px, processes, folder, chosen, taught)


def folder_of(bank: Bank, name: str) -> Path:
    """Where the run of a concept keeps its state, log and pictures."""
    return bank.path / RUNS / file_stem(name)


def find_taught(
    base: Model,
    bank: Bank,
    photos: Sequence[Photo],
    *,
    words: str | Sequence[str],
    class_words: str,
    kind: str = "object",
    name: str | None = None,
    config: TrainConfig,
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
        config: Settings.
        mapping: Replacements in captions.
        make: Instead of `config.method`.

    Raises:
        BankError: If its file is damaged.
        ConceptError: The words cannot be used.
        PhotoError: A photo or caption cannot be used.
    """
    parsed = parse_words(words)
    named = None if name is None else clean_name(name)
    for entry in bank.entries():
        if entry.words == parsed and named in (None, entry.name) and "taught" in entry.facts:
            config = replace(config, precision=_precision(config, base))
            bound = bind_photos(photos, parsed, class_words, mapping)
            size_px = _size_px(config, base)
            inputs = _inputs(base, bound, parsed, class_words, kind, size_px, make)
            if entry.facts["taught"] == run_id(config.to_dict(), **inputs):
                return bank[entry.name]
    return None


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


def _task(
    base: Base,
    bank: Bank,
    words: str | Sequence[str],
    class_words: str,
    kind: str,
    name: str | None,
) -> Task:
    parsed = parse_words(words)
    bank.check(base.family.name, base.fingerprint, base.layers)
    chosen = free_name(bank, default_name(parsed, class_words)) if name is None else name
    # An empty concept stands in for the one to come: what the bank would refuse is refused now.
    probe = Concept(
        name=clean_name(chosen),
        subjects=(Subject(parsed, class_words, kind),),
        family=base.family.name,
        base=base.fingerprint,
        layers=tuple(layer.path for layer in base.layers),
        updates={},
        rows={},
    )
    check_words(probe, bank.entries())
    return Task(
        name=probe.name,
        words=parsed,
        class_words=class_words,
        kind=kind,
        family=base.family.name,
        base=base.fingerprint,
        layers=base.layers,
    )


def _inputs(
    base: Model,
    photos: Sequence[Photo],
    words: Sequence[str],
    class_words: str,
    kind: str,
    size_px: int,
    make: MakeMethod | None,
) -> dict[str, object]:
    """What decides the result of a run, beside the settings and the bank's earlier concepts."""
    inputs: dict[str, object] = {
        "words": list(words),
        "class_words": class_words,
        "kind": kind,
        "photos": [(_digest(photo), photo.caption) for photo in photos],
        "base": (base.fingerprint, str(base.dtype)),
        "size_px": size_px,
    }
    return inputs if make is None else inputs | {"make": repr(make)}


def _digest(photo: Photo) -> str:
    """Content of a photo and its mask, whatever file they came from."""
    held = photo.loaded()
    digest = hashlib.sha256(repr(held.image.size).encode() + held.image.tobytes())
    if held.mask is not None:
        digest.update(held.mask.tobytes())
    return digest.hexdigest()
