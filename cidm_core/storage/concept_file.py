"""One concept in one safetensors file that a stock LoRA loader reads as well.

Weights carry the widespread names `lora_unet_<path>.lora_down.weight`, `.lora_up.weight` and
`.alpha`. The layer-wise tokens ride along as `lora_unet_cidm_tokens_<encoder>`: well-formed like
a LoRA pair (the tokens, and zeros), because strict loaders refuse a file with any other key and
pass over a module that the model lacks. Everything else is JSON in the header.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..concept import KINDS, Concept
from ..errors import BankError, ConceptError
from ..families import PROJECTIONS
from ..updates import FILE_PREFIX, LoraFactors, file_key
from ..words import parse_words
from .names import clean_name
from .stock_lora import ALPHA, DOWN, UP, lora_metadata, lora_tensors, rank_and_alpha
from .tensor_file import pack, parse_text, read, read_first, unpack

VERSION = 1
_RECORD = "cidm"  # first in the metadata, where a listing finds it
MAX_VALUE = 1e4  # Trained weights stay below 10; larger ones are damage, not learning.
_TOKENS = f"{FILE_PREFIX}cidm_tokens_"
_PATH = re.compile(r"[A-Za-z0-9_.]{1,200}")
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "words": list,
    "class_words": str,
    "kind": str,
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


@dataclass(frozen=True)
class Entry:
    """What the header of a concept file tells. `rank` is the largest rank of its factors."""

    name: str
    words: tuple[str, ...]
    class_words: str
    kind: str
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

    @property
    def trigger(self) -> str:
        """The words as one phrase, e.g. "<dog1> <dog2>"."""
        return " ".join(self.words)

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
    except ConceptError as caught:
        raise BankError(f"{caught} Nothing was written.") from caught
    tensors = lora_tensors(concept) | _token_tensors(concept)
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
        factors = _take_factors(tensors, record["layers"])
        tokens = _take_tokens(tensors, len(record["words"]), len(record["layers"]))
        if tensors:
            raise ConceptError(f"{min(tensors)[:80]!r} belongs to no layer of the concept.")
        for key in ("rank", "alpha", "tensor_bytes"):
            record.pop(key)
        concept = Concept(**record, factors=factors, tokens=tokens)
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
    key, text, size = read_first(path)
    record = _parse_record(text if key == _RECORD else "null", path.name)
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
        "words": list(parse_words(concept.words)),
        "class_words": concept.class_words,
        "kind": concept.kind,
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


def _token_tensors(concept: Concept) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for encoder, rows in concept.tokens.items():
        tensors[f"{_TOKENS}{encoder}{DOWN}"] = rows.flatten(0, 1)
        tensors[f"{_TOKENS}{encoder}{UP}"] = rows.new_zeros(1, rows.shape[0] * rows.shape[1])
    return tensors


def _take_factors(tensors: dict[str, Tensor], layers: tuple[str, ...]) -> dict[str, LoraFactors]:
    factors: dict[str, LoraFactors] = {}
    for path in (f"{layer}.{projection}" for layer in layers for projection in PROJECTIONS):
        key = file_key(path)
        down, up, alpha = (tensors.pop(key + ending, None) for ending in (DOWN, UP, ALPHA))
        if down is None and up is None and alpha is None:
            continue
        if down is None or up is None or alpha is None or alpha.numel() != 1:
            raise ConceptError(f"{path} lacks its down, up or alpha.")
        factors[path] = LoraFactors(down, up, alpha.item())
    return factors


def _take_tokens(tensors: dict[str, Tensor], words: int, layers: int) -> dict[str, Tensor]:
    tokens: dict[str, Tensor] = {}
    for key in [key for key in tensors if key.startswith(_TOKENS) and key.endswith(DOWN)]:
        encoder = key[len(_TOKENS) : -len(DOWN)]
        rows = tensors.pop(key)
        if tensors.pop(f"{_TOKENS}{encoder}{UP}", None) is None or rows.ndim != 2:
            raise ConceptError(f"The tokens for {encoder[:80]} are incomplete.")
        if rows.shape[0] != words * layers:
            raise ConceptError(
                f"{rows.shape[0]} tokens for {encoder[:80]}, where {words} words in {layers} "
                f"layers need {words * layers}."
            )
        tokens[encoder] = rows.reshape(words, layers, -1)
    return tokens


def _check(concept: Concept) -> None:
    """Bounds that hold for every stored concept, whoever wrote the file."""
    for path, pair in concept.factors.items():
        if pair.rank < 1 or not 0 < pair.alpha <= MAX_VALUE:
            raise ConceptError(
                f"{path} of {concept.name!r} has rank {pair.rank} and alpha {pair.alpha}; "
                f"rank must be at least 1 and alpha above 0, up to {MAX_VALUE:g}."
            )
        _check_values(concept.name, path, pair.down, pair.up)
    for encoder, rows in concept.tokens.items():
        if not _PATH.fullmatch(encoder):
            raise ConceptError(f"Encoder name {encoder[:80]!r} may hold letters, digits, _ and .")
        _check_values(concept.name, encoder, rows)
    if len({file_key(path) for path in concept.factors}) != len(concept.factors):
        raise ConceptError(f"Two layers of {concept.name!r} have the same LoRA name.")


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
    for key, kind in _FIELDS.items():
        if not isinstance(record.get(key), kind):
            raise _unfit(origin, f"{key!r} is missing or of a wrong type.")
    record = {key: record[key] for key in _FIELDS}
    for key in ("words", "layers"):
        record[key] = tuple(record[key])
    try:
        _check_record(record)
    except (ConceptError, BankError) as caught:
        raise _unfit(origin, caught) from caught
    return record


def _check_record(record: Mapping[str, Any]) -> None:
    layers, words = record["layers"], record["words"]
    if not all(isinstance(path, str) and _PATH.fullmatch(path) for path in layers):
        raise ConceptError("a layer's name is malformed.")
    if len(set(layers)) != len(layers) or record["index"] < -1:
        raise ConceptError("a layer repeats, or the place in the learning order is below zero.")
    if clean_name(record["name"]) != record["name"]:
        raise ConceptError("its name is malformed.")
    if not all(isinstance(word, str) for word in words) or parse_words(words) != words:
        raise ConceptError("its words are malformed.")
    if record["kind"] not in KINDS:
        raise ConceptError(f"kind {record['kind'][:40]!r} is none of {', '.join(KINDS)}.")


def _unfit(origin: str, reason: object) -> BankError:
    return BankError(
        f"{origin}: {reason} Restore the file from a copy, or remove it and train again."
    )
