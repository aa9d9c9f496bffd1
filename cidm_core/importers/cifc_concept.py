"""Concepts from and to other programs: public CIFC and Mix-of-Show files, plain LoRA files.

Those files are pickles: they are read with weights-only loading or refused, without fallback.
Their deltas are `alpha * up @ down` with plain alpha, not alpha / rank (methods note 9); the
scale is folded in by setting our alpha to `rank * scale`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.pickles import require_safe_torch
from ..concept import Concept, Subject
from ..errors import BankError, ConceptError
from ..families import FAMILIES, PROJECTIONS, Family
from ..updates import DOWN, UP, LowRank
from ..words import normalise

MAX_BYTES = 2 * 2**30
_HINTS = (
    ("string_to_param", "a textual inversion, which has no low-rank weights"),
    ("state_dict", "a whole checkpoint"),
    ("lora_unet_", "a plain LoRA without concept tokens"),
    ("processor.to_", "a diffusers LoRA without concept tokens"),
    ("lora_A", "a peft LoRA without concept tokens"),
    ("text_embedding", "a training state rather than its result"),
)


def read_pth(
    path: str | os.PathLike[str],
    *,
    name: str,
    class_words: str,
    kind: str,
    family: str,
    base: str,
    scale: float = 1.0,
    words: Sequence[str] | None = None,
    complete: bool = False,
) -> Concept:
    """Read a concept that CIFC or Mix-of-Show learned.

    Args:
        path: Their `.pth` file.
        name: The concept's name here.
        class_words: The plain words that its words stand for.
        kind: "object", "style" or "human".
        family: The family of the model it was learned on.
        base: Fingerprint of that model.
        scale: Their plain alpha: 1.0 as trained, 0.8 in the public sampling script.
        words: Which of the file's words to take, in order; all by default.
        complete: Refuse a file with parts that a concept cannot hold (self-attention and
            text-encoder weights) instead of naming them in `facts["left_out"]`.

    Raises:
        BankError: If the file is missing, no plain weights or of another layout.
    """
    origin = Path(path).name
    row = _single_encoder(family, origin)
    if not 0 < scale <= 100:
        raise BankError(f"The scale is {scale}; give a number above 0, such as 1.0 or 0.8.")
    params = _params(_load_weights(Path(path), origin), origin)
    unet = _tensor_table(params["unet"], origin)
    tokens = _tokens(_tensor_table(params["new_concept_embedding"], origin), words, row, origin)
    factors, left = _factors(unet, row, scale, origin)
    others = {key: params[key] for key in params.keys() - {"unet", "new_concept_embedding", "lag"}}
    left |= {key: len(value) for key, value in others.items() if isinstance(value, Mapping)}
    left = {key: count for key, count in sorted(left.items()) if count}
    if left and complete:
        raise BankError(f"{origin} also changes {_listed(left)}. Allow those to be left out.")
    facts: dict[str, object] = {"imported": origin, "scale": scale}
    try:
        return Concept(
            name=name,
            subjects=(Subject(tuple(normalise(word) for word in tokens), class_words, kind),),
            family=family,
            base=base,
            layers=tuple(layer.path for layer in row.layers),
            updates=factors,
            rows={row.encoders[0].name: torch.stack(list(tokens.values()))},
            facts=facts | ({"left_out": left} if left else {}),
        )
    except ConceptError as caught:
        raise BankError(f"{origin}: {caught}") from caught


def _single_encoder(family: str, origin: str) -> Family:
    row = FAMILIES.get(family)
    if row is None or len(row.encoders) != 1:
        known = ", ".join(key for key, value in FAMILIES.items() if len(value.encoders) == 1)
        raise BankError(f"{origin} cannot be of family {family}; such files exist for {known}.")
    return row


def _load_weights(path: Path, origin: str) -> object:
    require_safe_torch(origin, BankError)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BankError(
                f"{origin} is larger than {MAX_BYTES} bytes; concepts are not. Check it."
            )
        return torch.load(path, map_location="cpu", weights_only=True)
    except BankError:
        raise
    except OSError as caught:
        raise BankError(
            f"{origin}: cannot be read ({caught.strerror}). Check the path."
        ) from caught
    except Exception as caught:  # whatever a crafted or cut file makes the unpickler raise
        raise BankError(
            f"{origin} is damaged, or holds more than plain weights and was not opened "
            f"({type(caught).__name__}). Get it from its author again; never load it another way."
        ) from caught


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


def _tensor_table(table: object, origin: str) -> dict[str, Tensor]:
    rows = dict(table) if isinstance(table, Mapping) else {}
    for key, value in rows.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise BankError(f"{origin}: {key!s:.80} is no tensor. Choose another file.")
        if not value.is_floating_point() or value.layout != torch.strided:
            raise BankError(f"{origin}: {key:.80} holds no plain numbers. Choose another file.")
    # A fresh copy: the file may let several names share one storage.
    return {key: _storable(value.detach()).clone().contiguous() for key, value in rows.items()}


def _storable(value: Tensor) -> Tensor:
    keep = value.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return value if keep else value.float()


def _tokens(
    rows: dict[str, Tensor], words: Sequence[str] | None, family: Family, origin: str
) -> dict[str, Tensor]:
    chosen = list(rows) if words is None else list(words)
    if not chosen or any(word not in rows for word in chosen):
        raise BankError(
            f"{origin} holds tokens for {', '.join(rows) or 'no word'}, which is not what was "
            f"asked for ({', '.join(chosen) or 'any'}). Correct the words."
        )
    shape = len(family.layers), family.encoders[0].dim
    tokens: dict[str, Tensor] = {}
    for word in chosen:
        row = rows[word].reshape(-1, rows[word].shape[-1]) if rows[word].ndim else rows[word]
        # One row: learned without layer-wise tokens, so every layer has the same.
        if row.ndim != 2 or row.shape[0] not in (1, shape[0]) or row.shape[1] != shape[1]:
            raise BankError(
                f"{origin}: tokens of {word!r} are {tuple(row.shape)}; {family.name} has {shape}. "
                "Name the family that it was learned on."
            )
        tokens[word] = row.expand(shape).contiguous()
    return tokens


def _factors(
    unet: dict[str, Tensor], family: Family, scale: float, origin: str
) -> tuple[dict[str, LowRank], dict[str, int]]:
    """Factors of the cross-attention layers; how many tensors of what else there are."""
    factors: dict[str, LowRank] = {}
    for layer in family.layers:
        for projection in PROJECTIONS:
            path = f"{layer.path}.{projection}"
            down, up = unet.pop(path + DOWN, None), unet.pop(path + UP, None)
            if down is None and up is None:
                continue
            if down is None or up is None:
                raise BankError(f"{origin}: {path} lacks its down or up. Get the file again.")
            down, up = down.flatten(1), up.flatten(1)
            out, into = layer.shape(projection)
            if (up.shape[0], down.shape[1]) != (out, into) or up.shape[1] != down.shape[0]:
                raise BankError(
                    f"{origin}: {path} is {tuple(up.shape)} x {tuple(down.shape)}; {family.name} "
                    f"has {out} x {into} there. Name the family that it was learned on."
                )
            factors[path] = LowRank(down, up, down.shape[0] * scale)
    if not factors:
        raise BankError(f"{origin} has no cross-attention weights. Choose another file.")
    left: dict[str, int] = {}
    for key in unet:
        part = next((p for p in ("attn1", "attn2", "ff.", "proj_") if p in key), "other")
        left[f"unet {part.strip('._')}"] = left.get(f"unet {part.strip('._')}", 0) + 1
    return factors, left


def _listed(left: Mapping[str, int]) -> str:
    return ", ".join(f"{part} ({count} tensors)" for part, count in left.items())
