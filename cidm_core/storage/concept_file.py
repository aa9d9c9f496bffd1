"""One concept in one safetensors file that a stock LoRA loader reads as well.

Weights carry the widespread names: `lora_unet_<path>` with `.lora_down.weight`, `.lora_up.weight`
and `.alpha`, or `.diff` with a `.diff_b` where a bias changes. What no loader knows rides along as
`lora_unet_cidm_<what>`, well-formed like a LoRA pair (the numbers, and zeros), because strict
loaders refuse a file with any other key and pass over a module that the model lacks: the words'
rows (`tokens_<encoder>`) and value residuals (`values_<path>`). Everything else is in the header
(see `record`). Files of format 1 have low-rank weights and rows only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import BankError, ConceptError
from ..families import PROJECTIONS
from ..updates import (
    ALPHA,
    DIFF,
    DIFF_BIAS,
    DOWN,
    UNET_PREFIX,
    UP,
    FullRank,
    LowRank,
    Update,
    ValueResidual,
    path_of,
)
from .record import NAME, RECORD, parse_record, record_text, unfit
from .stock_lora import lora_key, lora_metadata, lora_tensors
from .tensor_file import pack, read, unpack

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_VALUE = 1e4  # Trained weights stay below 10; larger ones are damage, not learning.
OWN_PREFIX = f"{UNET_PREFIX}cidm_"  # starts the names of what is no LoRA's
_ROWS = f"{OWN_PREFIX}tokens_"
_VALUES = f"{OWN_PREFIX}values_"


def concept_to_bytes(concept: Concept, told: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a concept's file; `told` are further texts for its header.

    Raises:
        BankError: If the concept cannot be stored: dtype, size or values out of bounds.
    """
    try:
        _check(concept)
        tensors = file_tensors(concept)
        _check_types(tensors)
    except ConceptError as caught:
        raise BankError(f"{caught} Nothing was written.") from caught
    record = record_text(concept, sum(t.numel() * t.element_size() for t in tensors.values()))
    return pack(tensors, {RECORD: record} | lora_metadata(concept) | dict(told or {}))


def concept_from_bytes(data: bytes, origin: str) -> Concept:
    """The concept in the bytes of a whole file, which error texts call `origin`.

    Raises:
        BankError: If anything differs from what was written, or does not fit together.
    """
    tensors, metadata = unpack(data, origin)
    record, keys = parse_record(metadata, origin), set(tensors)
    try:
        _check_types(tensors)
        words = sum(len(subject.words) for subject in record["subjects"])
        rows = _take_rows(tensors, words, len(record["layers"]))
        updates = _ordered(_take_values(tensors) | _take_updates(tensors), record["layers"])
        for key in ("rank", "alpha", "tensor_bytes"):
            record.pop(key)
        concept = Concept(**record, updates=updates, rows=rows)
        _check(concept)
        if odd := keys ^ file_tensors(concept).keys():
            raise ConceptError(f"{min(odd)[:80]!r} belongs to no layer of the concept.")
        return concept
    except ConceptError as caught:
        raise unfit(origin, caught) from caught


def read_concept(path: Path) -> Concept:
    """Read a concept file and verify all of it.

    Raises:
        BankError: If it is missing, damaged or no concept file.
    """
    return concept_from_bytes(read(path), path.name)


def file_tensors(concept: Concept) -> dict[str, Tensor]:
    """All that a file holds; what no LoRA loader knows is in a form that they pass over."""
    tensors = lora_tensors(concept)
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
            updates[path] = FullRank(delta, tensors.get(key + DIFF_BIAS))
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
    for ending in (DOWN, UP, ALPHA, DIFF, DIFF_BIAS):
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
        rows[encoder] = held.reshape(words, held.shape[0] // words, held.shape[1])
    return rows


def _take_values(tensors: dict[str, Tensor]) -> dict[str, Update]:
    values: dict[str, Update] = {}
    for name, held in _take(tensors, _VALUES).items():
        if len(held) != 1:
            raise ConceptError(f"{name[:80]} has {len(held)} value residuals; it can have one.")
        values[path_of(name)] = ValueResidual(held[0])
    return values


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors stored as a pair with zeros, by the rest of their name, in order."""
    found: dict[str, Tensor] = {}
    # safetensors gives them in another order in each process.
    for key in [key for key in sorted(tensors) if key.startswith(prefix) and key.endswith(DOWN)]:
        name = key[len(prefix) : -len(DOWN)]
        rows = tensors.pop(key)
        if tensors.pop(f"{prefix}{name}{UP}", None) is None or rows.ndim != 2:
            raise ConceptError(f"The tensors of {name[:80]} are incomplete.")
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
        if path_of(lora_key(concept.family, path)) != path:
            raise ConceptError(
                f"{path} of {concept.name!r} has no LoRA name that leads back to it."
            )
    for encoder, rows in concept.rows.items():
        if not NAME.fullmatch(encoder):
            raise ConceptError(f"Encoder name {encoder[:80]!r} may hold letters, digits, _ and .")
        _check_values(concept.name, encoder, rows)


def _check_types(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
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
