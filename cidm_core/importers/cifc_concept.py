"""Concepts that CIFC or Mix-of-Show learned: their `.pth` files.

Those files are pickles: they are read with weights-only loading or refused, without fallback.
Their deltas are `alpha * up @ down` with plain alpha, not alpha / rank; the scale is folded in by
setting our alpha to `rank * scale`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..concept import Concept, Subject
from ..errors import BankError, ConceptError
from ..families import FAMILIES, PROJECTIONS, Family
from ..paths import user_path
from ..storage.names import default_name
from ..updates import DOWN, UP, LowRank
from ..words import canonical
from .tables import load_table

_HINTS = (
    ("string_to_param", "a textual inversion, which has no low-rank weights"),
    ("state_dict", "a whole checkpoint"),
    ("lora_unet_", "a plain LoRA without concept tokens"),
    ("processor.to_", "a diffusers LoRA without concept tokens"),
    ("lora_A", "a peft LoRA without concept tokens"),
    ("text_embedding", "a training state rather than its result"),
)
_TEXT_ATTENTION = re.compile(r"text_model\.encoder\.layers\.\d{1,2}\.self_attn\.(?:[qkv]|out)_proj")


def read_pth(
    path: str | os.PathLike[str],
    *,
    class_words: str,
    kind: str,
    family: str,
    base: str,
    scale: float = 1.0,
    words: Sequence[str] | None = None,
) -> Concept:
    """Read a concept that CIFC or Mix-of-Show learned; it is called after its words.

    Attention weights of UNet and text encoder come in; the rest is named in `facts["left_out"]`.

    Args:
        path: Their `.pth` file.
        class_words: The plain words that its words stand for.
        kind: "object", "style" or "human".
        family: The family of the model it was learned on.
        base: Fingerprint of that model.
        scale: Their plain alpha: 1.0 as trained, 0.8 in the public sampling script.
        words: Which of the file's words to take, in order; all by default.

    Raises:
        BankError: If the file is missing, no plain weights or of another layout.
    """
    path = user_path(path)
    origin, row = path.name, single_encoder(family, path.name)
    if not 0 < scale <= 100:
        raise BankError(f"The scale is {scale}; give a number above 0, such as 1.0 or 0.8.")
    params = _params(load_table(path), origin)
    tables = {part: _tensors(params.get(part), origin) for part in ("unet", "text_encoder")}
    tokens = _rows(_tensors(params["new_concept_embedding"], origin), words, row, origin)
    updates = dict(_updates(tables, row, scale, origin))
    if not any(".attn2." in path for path in updates):
        raise BankError(f"{origin} has no cross-attention weights. Choose another file.")
    left = _left_out(params, tables)
    facts: dict[str, object] = {"imported": origin, "scale": scale}
    try:
        chosen = tuple(canonical(word) for word in tokens)
        return Concept(
            name=default_name(chosen, class_words),
            subjects=(Subject(chosen, class_words, kind),),
            family=family,
            base=base,
            layers=tuple(layer.path for layer in row.layers),
            updates=updates,
            rows={row.encoders[0].name: torch.stack(list(tokens.values()))},
            facts=facts | ({"left_out": left} if left else {}),
        )
    except ConceptError as caught:
        raise BankError(f"{origin}: {caught}") from caught


def single_encoder(family: str, origin: str) -> Family:
    """A family whose models have one text encoder.

    Raises:
        BankError: If it is unknown or has several.
    """
    row = FAMILIES.get(family)
    if row is None or len(row.encoders) != 1:
        known = ", ".join(key for key, value in FAMILIES.items() if len(value.encoders) == 1)
        raise BankError(f"{origin} cannot be of family {family}; such files exist for {known}.")
    return row


def _params(loaded: object, origin: str) -> Mapping[str, object]:
    table = loaded.get("params", loaded) if isinstance(loaded, Mapping) else None
    if isinstance(table, Mapping) and {"unet", "new_concept_embedding"} <= set(table):
        return table
    keys = [str(key) for key in table][:1000] if isinstance(table, Mapping) else []
    found = next((what for mark, what in _HINTS if any(mark in key for key in keys)), None)
    seen = found or (f"a table with {', '.join(keys[:3])!r}" if keys else type(loaded).__name__)
    raise BankError(
        f"{origin} is {seen}; expected a CIFC or Mix-of-Show file with 'new_concept_embedding' and "
        "'unet' under 'params'. Choose the edlora_model-*.pth of a training run."
    )


def _tensors(table: object, origin: str) -> dict[str, Tensor]:
    """A table of plain numbers by name; empty if it is no table."""
    rows = dict(table) if isinstance(table, Mapping) else {}
    for key, value in rows.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise BankError(f"{origin}: {key!s:.80} is no tensor. Choose another file.")
        if not value.is_floating_point() or value.layout != torch.strided:
            raise BankError(f"{origin}: {key:.80} holds no plain numbers. Choose another file.")
    storable = (torch.float32, torch.float16, torch.bfloat16)
    kept = {key: t if t.dtype in storable else t.float() for key, t in rows.items()}
    # A fresh copy: the file may let several names share one storage.
    return {key: tensor.detach().clone().contiguous() for key, tensor in kept.items()}


def _rows(
    rows: dict[str, Tensor], words: Sequence[str] | None, family: Family, origin: str
) -> dict[str, Tensor]:
    """Rows of the chosen words, (layers, dim) each."""
    chosen = list(rows) if words is None else list(words)
    if not chosen or any(word not in rows for word in chosen):
        raise BankError(
            f"{origin} holds tokens for {', '.join(rows) or 'no word'}, which is not what was "
            f"asked for ({', '.join(chosen) or 'any'}). Correct the words."
        )
    shape = len(family.layers), family.encoders[0].dim
    tokens: dict[str, Tensor] = {}
    for word in chosen:
        row = torch.atleast_2d(rows[word]).flatten(0, -2)
        # One row: learned without layer-wise tokens, so every layer has the same.
        if row.shape[0] not in (1, shape[0]) or row.shape[1] != shape[1]:
            raise BankError(
                f"{origin}: tokens of {word!r} are {tuple(row.shape)}; {family.name} has {shape}. "
                "Name the family that it was learned on."
            )
        tokens[word] = row.expand(shape).contiguous()
    return tokens


def _updates(
    tables: Mapping[str, dict[str, Tensor]], family: Family, scale: float, origin: str
) -> Iterator[tuple[str, LowRank]]:
    """Take the updates of all attention layers out of the tables, with their paths here."""
    places = [("unet", path, path, *shape) for path, shape in _attention(family).items()]
    name, dim = family.encoders[0].name, family.encoders[0].dim
    for key in dict.fromkeys(k.removesuffix(DOWN).removesuffix(UP) for k in tables["text_encoder"]):
        if _TEXT_ATTENTION.fullmatch(key):
            places.append(("text_encoder", key, f"{name}.{key}", dim, dim))
    for part, key, path, out, into in places:
        down, up = tables[part].pop(key + DOWN, None), tables[part].pop(key + UP, None)
        if down is None and up is None:
            continue
        if down is None or up is None:
            raise BankError(f"{origin}: {key} lacks its down or up. Get the file again.")
        down, up = down.flatten(1), up.flatten(1)
        if (up.shape[0], down.shape[1]) != (out, into) or up.shape[1] != down.shape[0]:
            raise BankError(
                f"{origin}: {key} is {tuple(up.shape)} x {tuple(down.shape)}; {family.name} "
                f"has {out} x {into} there. Name the family that it was learned on."
            )
        yield path, LowRank(down, up, down.shape[0] * scale)


def _attention(family: Family) -> dict[str, tuple[int, int]]:
    """Shapes of the linear layers of the UNet's cross- and self-attention, by path."""
    shapes: dict[str, tuple[int, int]] = {}
    for layer in family.layers:
        itself = f"{layer.path.removesuffix('attn2')}attn1"
        for projection in PROJECTIONS:
            shapes[f"{layer.path}.{projection}"] = layer.shape(projection)
            shapes[f"{itself}.{projection}"] = layer.width, layer.width
    return shapes


def _left_out(
    params: Mapping[str, object], tables: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, int]:
    """How many tensors of what else there are."""
    left = Counter({part: len(rows) for part, rows in tables.items() if part != "unet"})
    for key in tables["unet"]:
        part = next((p for p in ("attn1", "attn2", "ff", "proj") if p in key), "other")
        left[f"unet {part}"] += 1
    for key in params.keys() - {"new_concept_embedding", "lag", *tables}:
        left[key] = len(value) if isinstance(value := params[key], Mapping) else 0
    return {part: count for part, count in sorted(left.items()) if count}
