"""One concept in one safetensors file that a stock LoRA loader reads as well.

Weights carry the widespread names: `lora_unet_<path>` with `.lora_down.weight`, `.lora_up.weight`
and `.alpha`, or `.diff`. What no loader knows rides along as `lora_unet_cidm_<what>`, well-formed
like a LoRA pair (the numbers, and zeros), because strict loaders refuse a file with any other key
and pass over a module that the model lacks: the words' rows (`tokens_<encoder>`) and value
residuals (`values_<path>`). Everything else is JSON in the header.

Format 2 holds any number of subjects and any kind of update. Format 1, of one subject with
low-rank weights, is read as well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..concept import Concept, Subject
from ..errors import BankError, ConceptError
from ..families import PROJECTIONS
from ..updates import (
    ALPHA,
    DIFF,
    DOWN,
    UNET_PREFIX,
    UP,
    FullRank,
    LowRank,
    Update,
    ValueResidual,
    path_of,
)
from ..words import normalise, parse_words
from .names import clean_name
from .stock_lora import lora_key, lora_metadata, lora_tensors, rank_and_alpha
from .tensor_file import pack, parse_text, read, read_metadata, unpack

VERSION = 2
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_VALUE = 1e4  # Trained weights stay below 10; larger ones are damage, not learning.
_RECORD = "cidm"  # its key in the metadata
_ROWS = f"{UNET_PREFIX}cidm_tokens_"
_VALUES = f"{UNET_PREFIX}cidm_values_"
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "subjects": list,
    "method": str,
    "family": str,
    "base": str,
    "layers": list,
    "rank": int,
    "alpha": (int, float),
    "config": dict,
    "index": int,
    "created": str,
    "facts": dict,
    "tensor_bytes": int,
}
_SUBJECT: Mapping[str, type] = {"words": list, "class_words": str, "kind": str}


@dataclass(frozen=True)
class Entry:
    """What the header of a concept file tells. `rank` is the largest rank of its updates."""

    name: str
    subjects: tuple[Subject, ...]
    method: str
    family: str
    base: str
    layers: tuple[str, ...]
    rank: int
    alpha: float
    index: int
    created: str
    path: Path
    facts: Mapping[str, object] = field(repr=False)
    config: Mapping[str, object] = field(repr=False)

    # As those of a `Concept`, which these facts become when its tensors are read.
    words = Concept.words
    triggers = Concept.triggers
    trigger = Concept.trigger
    class_words = Concept.class_words
    kind = Concept.kind

    @property
    def preview(self) -> Path:
        """Where its picture is, if it has one."""
        return preview_path(self.path)


def preview_path(path: Path) -> Path:
    """The picture beside a concept file."""
    return path.with_suffix(".png")


def encode(concept: Concept) -> bytes:
    """The bytes of a concept's file.

    Raises:
        BankError: If the concept cannot be stored: dtype, size or values out of bounds.
    """
    try:
        _check(concept)
        tensors = lora_tensors(concept) | _own_tensors(concept)
        _check_types(tensors)
    except ConceptError as caught:
        raise BankError(f"{caught} Nothing was written.") from caught
    record = _record(concept) | {
        "tensor_bytes": sum(t.numel() * t.element_size() for t in tensors.values())
    }
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return pack(tensors, {_RECORD: text} | lora_metadata(concept))


def decode(data: bytes, origin: str) -> Concept:
    """The concept in a file's bytes.

    Args:
        data: The whole file.
        origin: Its name, for error texts.

    Raises:
        BankError: If anything differs from what was written, or does not fit together.
    """
    tensors, metadata = unpack(data, origin)
    record = _parse_record(metadata.get(_RECORD, "null"), origin)
    try:
        _check_types(tensors)
        words = sum(len(subject.words) for subject in record["subjects"])
        rows = _take_rows(tensors, words, len(record["layers"]))
        updates = _ordered(_take_values(tensors) | _take_updates(tensors), record["layers"])
        for key in ("rank", "alpha", "tensor_bytes"):
            record.pop(key)
        concept = Concept(**record, updates=updates, rows=rows)
        _check(concept)
        return concept
    except ConceptError as caught:
        raise _unfit(origin, caught) from caught


def load(path: Path) -> Concept:
    """Read a concept file and verify all of it.

    Raises:
        BankError: If it is missing, damaged or no concept file.
    """
    return decode(read(path), path.name)


def load_entry(path: Path) -> Entry:
    """Read the header of a concept file, and no tensor.

    Raises:
        BankError: If the header is damaged or the file has not the size it tells of.
    """
    metadata, size = read_metadata(path)
    record = _parse_record(metadata.get(_RECORD, "null"), path.name)
    expected = record.pop("tensor_bytes")
    if size != expected:
        raise BankError(
            f"{path.name}: {size} bytes of tensors, where {expected} were written. "
            "Restore the file from a copy, or remove it and train again."
        )
    return Entry(**record, path=path)


def _record(concept: Concept) -> dict[str, object]:
    rank, alpha = rank_and_alpha(concept)
    return {
        "version": VERSION,
        "name": concept.name,
        "subjects": [_subject_row(subject) for subject in concept.subjects],
        "method": concept.method,
        "family": concept.family,
        "base": concept.base,
        "layers": list(concept.layers),
        "rank": rank,
        "alpha": alpha,
        "config": _plain(concept.config),
        "index": concept.index,
        "created": concept.created,
        "facts": _plain(concept.facts),
    }


def _subject_row(subject: Subject) -> dict[str, Any]:
    return asdict(subject) | {"words": [normalise(word) for word in subject.words]}


def _plain(value: object) -> Any:
    """Provenance as JSON; a note that JSON cannot hold must not cost the training it is about."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)


def _own_tensors(concept: Concept) -> dict[str, Tensor]:
    """What no LoRA loader knows, in a form that they pass over."""
    tensors: dict[str, Tensor] = {}
    for encoder, rows in concept.rows.items():
        tensors[f"{_ROWS}{encoder}{DOWN}"] = rows.flatten(0, 1)
        tensors[f"{_ROWS}{encoder}{UP}"] = rows.new_zeros(1, rows.shape[0] * rows.shape[1])
    for path, update in concept.updates.items():
        if isinstance(update, ValueResidual):
            key = _VALUES + path.replace(".", "_")
            tensors |= {key + ending: tensor for ending, tensor in update.tensors().items()}
    return tensors


def _take_updates(tensors: dict[str, Tensor]) -> dict[str, Update]:
    """Whatever is left is an update under a LoRA's name."""
    updates: dict[str, Update] = {}
    for key in dict.fromkeys(_stem(name) for name in tensors):
        path = path_of(key)
        if (delta := tensors.get(key + DIFF)) is not None:
            updates[path] = FullRank(delta)
            continue
        down, up, alpha = (tensors.get(key + ending) for ending in (DOWN, UP, ALPHA))
        if down is None or up is None or alpha is None or alpha.numel() != 1:
            raise ConceptError(f"{path} lacks its down, up or alpha.")
        updates[path] = LowRank(down, up, alpha.item())
    return updates


def _ordered(updates: Mapping[str, Update], layers: tuple[str, ...]) -> dict[str, Update]:
    """Cross-attention in execution order, then the rest: sums over layers keep their order."""
    paths = [f"{layer}.{projection}" for layer in layers for projection in PROJECTIONS]
    place = {path: i for i, path in enumerate(paths)}
    ordered = sorted(updates, key=lambda path: (place.get(path, len(place)), path))
    return {path: updates[path] for path in ordered}


def _stem(name: str) -> str:
    for ending in (DOWN, UP, ALPHA, DIFF):
        if name.endswith(ending):
            return name.removesuffix(ending)
    raise ConceptError(f"{name[:80]!r} belongs to no layer of the concept.")


def _take_rows(tensors: dict[str, Tensor], words: int, layers: int) -> dict[str, Tensor]:
    rows: dict[str, Tensor] = {}
    for encoder, held in _take(tensors, _ROWS).items():
        if not words or held.shape[0] not in (words, words * layers):
            raise ConceptError(
                f"{held.shape[0]} tokens for {encoder[:80]}, where {words} words in {layers} "
                f"layers need {words * layers}."
            )
        rows[encoder] = held.reshape(words, held.shape[0] // words, -1)
    return rows


def _take_values(tensors: dict[str, Tensor]) -> dict[str, Update]:
    return {path_of(name): ValueResidual(row[0]) for name, row in _take(tensors, _VALUES).items()}


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors stored as a pair with zeros, by the rest of their name."""
    found: dict[str, Tensor] = {}
    for key in [key for key in tensors if key.startswith(prefix) and key.endswith(DOWN)]:
        name = key[len(prefix) : -len(DOWN)]
        rows = tensors.pop(key)
        if tensors.pop(f"{prefix}{name}{UP}", None) is None or rows.ndim != 2:
            raise ConceptError(f"The tokens for {name[:80]} are incomplete.")
        found[name] = rows
    return found


def _check(concept: Concept) -> None:
    """Bounds that hold for every stored concept, whoever wrote the file."""
    for path, update in concept.updates.items():
        if isinstance(update, LowRank) and (update.rank < 1 or not 0 < update.alpha <= MAX_VALUE):
            raise ConceptError(
                f"{path} of {concept.name!r} has rank {update.rank} and alpha {update.alpha}; "
                f"rank must be at least 1 and alpha above 0, up to {MAX_VALUE:g}."
            )
        _check_values(concept.name, path, *update.tensors().values())
        is_value = isinstance(update, ValueResidual)
        key = path.replace(".", "_") if is_value else lora_key(concept.family, path)
        if path_of(key) != path:
            raise ConceptError(
                f"{path} of {concept.name!r} has no LoRA name that leads back to it."
            )
    for encoder, rows in concept.rows.items():
        if not _NAME.fullmatch(encoder):
            raise ConceptError(f"Encoder name {encoder[:80]!r} may hold letters, digits, _ and .")
        _check_values(concept.name, encoder, rows)


def _check_types(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ConceptError(
                f"{key[:120]} holds {str(tensor.dtype).removeprefix('torch.')}; a concept file "
                "stores float32, float16 or bfloat16."
            )


def _check_values(name: str, where: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        # One reduction: NaN and infinity fail the comparison as well.
        if tensor.numel() and not tensor.detach().abs().max().item() <= MAX_VALUE:
            raise ConceptError(
                f"{name!r} holds NaN, infinity or values beyond {MAX_VALUE:g} in {where}; "
                "learning went astray there. Train it again with a lower learning rate."
            )


def _parse_record(text: str, origin: str) -> dict[str, Any]:
    record = parse_text(text, origin)
    version = record.get("version") if isinstance(record, dict) else None
    if not isinstance(version, int) or version < 1:
        raise BankError(f"{origin}: holds no concept, perhaps a plain LoRA. Choose a concept file.")
    if version > VERSION:
        raise BankError(
            f"{origin}: written in format {version}; this version reads up to {VERSION}. "
            "Update the package."
        )
    if version == 1:
        record["subjects"] = [{key: record.get(key) for key in _SUBJECT}]
    for key, kind in _FIELDS.items():
        if not isinstance(record.get(key), kind):
            raise _unfit(origin, f"{key!r} is missing or of a wrong type.")
    record = {key: record[key] for key in _FIELDS}
    try:
        record["layers"] = tuple(record["layers"])
        record["subjects"] = tuple(_subject(row) for row in record["subjects"])
        _check_record(record)
    except (ConceptError, BankError) as caught:
        raise _unfit(origin, caught) from caught
    return record


def _subject(row: Any) -> Subject:
    found: dict[str, Any] = row if isinstance(row, dict) else {}
    for key, kind in _SUBJECT.items():
        if not isinstance(found.get(key), kind):
            raise ConceptError(f"{key!r} of a subject is missing or of a wrong type.")
    words = found["words"]
    if not all(isinstance(word, str) for word in words):
        raise ConceptError("its words are malformed.")
    if words and parse_words(words) != tuple(words):
        raise ConceptError("its words are malformed.")
    return Subject(tuple(words), found["class_words"], found["kind"])


def _check_record(record: Mapping[str, Any]) -> None:
    layers = record["layers"]
    if not record["subjects"]:
        raise ConceptError("it has no subject.")
    if not all(isinstance(path, str) and _NAME.fullmatch(path) for path in layers):
        raise ConceptError("a layer's name is malformed.")
    if len(set(layers)) != len(layers) or record["index"] < -1:
        raise ConceptError("a layer repeats, or the place in the learning order is below zero.")
    if clean_name(record["name"]) != record["name"]:
        raise ConceptError("its name is malformed.")


def _unfit(origin: str, reason: object) -> BankError:
    return BankError(
        f"{origin}: {reason} Restore the file from a copy, or remove it and train again."
    )
