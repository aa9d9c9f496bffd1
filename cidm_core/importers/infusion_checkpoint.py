"""Infusion's checkpoints (`models/step=500.ckpt` of a run): one vector for each key or value.

They are Lightning files whose public code descends from Perfusion's. Of their tables only
`target_output` matters; `C_inv`, `target_input` and `embedding` never were trained or used.
Perfusion's look alike, with a row for each of the 77 tokens, and need its gate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..concept import Concept, Subject
from ..errors import BankError, ConceptError
from ..families import layers_per_block, ldm_path
from ..updates import ValueResidual

METHOD = "infusion"
OUTPUTS = "target_output"
_KEY = re.compile(
    r"((?:input_blocks|middle_block|output_blocks)\.[\w.]+\.attn2)\.(to_[kv])\.target_output"
)


def matches(table: Mapping[str, object]) -> bool:
    """Whether a table is of Infusion's code, or of Perfusion's."""
    held = table.get(OUTPUTS)
    return isinstance(held, Mapping) and any(_KEY.fullmatch(str(key)) for key in held)


def concept_of(
    table: Mapping[str, object],
    origin: str,
    *,
    class_words: str,
    kind: str,
    family: str,
    base: str,
    layers: Sequence[str],
) -> Concept:
    """The concept in a checkpoint; its class words call it where drawing asks for it.

    Args:
        table: What the file holds.
        origin: What errors call the file.
        class_words: What was learned, in plain words: the word it was learned at.
        kind: "object", "style" or "human".
        family: Of the model it was learned on.
        base: Fingerprint of that model.
        layers: diffusers paths of its attn2 modules.

    Raises:
        BankError: If it is Perfusion's, malformed, or of another model.
    """
    held = table[OUTPUTS]
    assert isinstance(held, Mapping)
    vectors = dict(_vectors(held, layers, origin))
    # The released code learned keys too wherever it ran as its authors had it.
    keys = any(path.endswith("to_k") for path in vectors)
    try:
        return Concept(
            name=class_words,
            subjects=(Subject((), class_words, kind, on_request=True),),
            family=family,
            base=base,
            layers=tuple(layers),
            updates={path: ValueResidual(vector) for path, vector in vectors.items()},
            rows={},
            method=METHOD,
            config={"variant": "released" if keys else "paper"},
            facts={"imported": origin},
            two_streams=not keys,
            last_piece=True,
        )
    except ConceptError as caught:
        raise BankError(f"{origin}: {caught}") from caught


def _vectors(
    held: Mapping[object, object], layers: Sequence[str], origin: str
) -> list[tuple[str, Tensor]]:
    """The vectors by our paths of the linear layers, in the order of the layers."""
    per_block = layers_per_block(layers)
    paths = {ldm_path(layer, per_block): layer for layer in layers}
    found: dict[str, Tensor] = {}
    for key, value in held.items():
        match = _KEY.fullmatch(str(key))
        if match is None or match[1] not in paths:
            raise BankError(
                f"{origin}: the model has no layer for {str(key)[:100]!r}. Give the model it was "
                "learned on."
            )
        found[f"{paths[match[1]]}.{match[2]}"] = _vector(value, str(key), origin)
    ordered = [f"{layer}.{part}" for layer in layers for part in ("to_k", "to_v")]
    return [(path, found[path]) for path in ordered if path in found]


def _vector(value: object, key: str, origin: str) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise BankError(f"{origin}: {key[:100]} holds no plain numbers. Choose another file.")
    if value.ndim == 2:
        raise BankError(
            f"{origin} is a checkpoint of Perfusion: {key[:100]} has a row for each token "
            f"({value.shape[0]} x {value.shape[1]}), which its gate weighs. That method is not "
            "known here; learn the concept anew from its photos."
        )
    if value.ndim != 1 or value.layout != torch.strided:
        raise BankError(
            f"{origin}: {key[:100]} is {tuple(value.shape)}; a vector was expected. Get the file "
            "again."
        )
    storable = (torch.float32, torch.float16, torch.bfloat16)
    value = value if value.dtype in storable else value.float()
    return value.detach().clone().contiguous()
