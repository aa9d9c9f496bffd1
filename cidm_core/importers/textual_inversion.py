"""Textual inversions: vectors of a word without any weights, as A1111, kohya and diffusers save."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..concept import Concept, Subject
from ..errors import BankError, ConceptError
from ..families import FAMILIES
from ..storage.names import default_name
from ..words import bracketed, new_words

_METHOD = "textual_inversion"
_MOST = 8  # tensors; a LoRA has hundreds
_A1111, _KOHYA = "string_to_param", "emb_params"
_ENCODERS = ("clip_l", "clip_g", "t5xxl")  # keys of models with several text encoders, in order
_WIDTHS = {1024: "SD 2", 1280: "SDXL"}


def vectors_of(table: object) -> dict[str, Tensor] | None:
    """Vectors (tokens, dim) by word, or by what stands for it; None if it is something else.

    Args:
        table: What a file holds (`tables.load_table`).
    """
    held = table.get(_A1111, table) if isinstance(table, Mapping) else None
    if isinstance(held, torch.nn.ParameterDict):
        held = dict(held.items())
    if not isinstance(held, Mapping) or not 0 < len(held) <= _MOST:
        return None
    found: dict[str, Tensor] = {}
    for key, value in held.items():
        plain = isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (1, 2)
        if not plain or not isinstance(key, str) or "lora" in key or key.endswith(".weight"):
            return None
        found[key] = torch.atleast_2d(value.detach().float()).clone()
    return found


def concept_of(
    vectors: Mapping[str, Tensor],
    path: Path,
    *,
    words: Sequence[str],
    class_words: str,
    kind: str,
    family: str,
    base: str,
    layers: tuple[str, ...],
) -> Concept:
    """A concept of these vectors: a word for each, the same in every layer.

    Args:
        vectors: From `vectors_of`.
        path: The file; it names the words where neither the caller nor the file does.
        words: As many as there are vectors, or none.
        class_words: What it shows, in plain words.
        kind: "object", "style" or "human".
        family: Of the model it will be used with.
        base: Fingerprint of that model.
        layers: Its attn2 modules.

    Raises:
        BankError: If the vectors are of another kind of model, or their number is not the words'.
    """
    rows = _rows(vectors, path, family)
    first = next(iter(rows.values()))
    # The tables of several encoders are called after these.
    words = list(words) or _words(vectors if len(rows) == 1 else {"*": first}, path)
    if len(words) != len(first):
        raise BankError(
            f"{path.name} is a textual inversion of {len(first)} vectors, and {len(words)} words "
            "were given. Give a word for each, or none to have them made."
        )
    try:
        chosen = new_words(words)
        if plain := [word for word in chosen if not bracketed(word)]:
            right = " ".join(word if bracketed(word) else f"<{word}>" for word in chosen)
            raise ConceptError(
                f"{plain[0]!r} may be a word that prompts use for other things. Give words in "
                f"angle brackets: {right!r}."
            )
        return Concept(
            name=default_name(chosen, class_words),
            subjects=(Subject(chosen, class_words, kind),),
            family=family,
            base=base,
            layers=layers,
            updates={},
            rows={name: found[:, None] for name, found in rows.items()},
            method=_METHOD,
            facts={"imported": path.name},
        )
    except ConceptError as caught:
        raise BankError(f"{path.name}: {caught}") from caught


def _rows(vectors: Mapping[str, Tensor], path: Path, family: str) -> dict[str, Tensor]:
    """The vectors (words, dim) that each text encoder of a family reads."""
    if (row := FAMILIES.get(family)) is None:
        raise BankError(f"{path.name} cannot be of family {family}, which is unknown here.")
    if len(row.encoders) == 1 and not set(vectors) & set(_ENCODERS):
        found = [torch.cat(list(vectors.values()))] if len(_widths(vectors)) == 1 else []
    else:
        wanted = [key for key, _ in zip(_ENCODERS, row.encoders, strict=False)]
        found = [vectors[key] for key in wanted] if set(wanted) == set(vectors) else []
    dims = [each.dim for each in row.encoders]
    fits = [each.shape[1] for each in found] == dims
    if fits and len({len(each) for each in found}) != 1:
        counts = " and ".join(str(len(each)) for each in found)
        raise BankError(
            f"{path.name} has {counts} vectors for the text encoders, which read the same words. "
            "Get the file again."
        )
    if not fits:
        raise BankError(
            f"{path.name} is a textual inversion of another kind of model ({_described(vectors)}); "
            f"{family} reads words {' and '.join(map(str, dims))} wide. Use one that was made for "
            f"{family}."
        )
    return dict(zip([each.name for each in row.encoders], found, strict=True))


def _widths(vectors: Mapping[str, Tensor]) -> set[int]:
    return {each.shape[1] for each in vectors.values()}


def _words(vectors: Mapping[str, Tensor], path: Path) -> list[str]:
    """`<toy>` for one vector, `<toy-1> <toy-2>` for two; A1111 calls them by the file's name."""
    found: list[str] = []
    for key, rows in vectors.items():
        named = key not in ("*", _KOHYA) and any(letter.isalnum() for letter in key)
        stem = re.sub(r"[^\w.-]+", "_", key.strip("<>") if named else path.stem).strip("_")
        ends = [""] if len(rows) == 1 else [f"-{n}" for n in range(1, len(rows) + 1)]
        found += [f"<{stem}{end}>" for end in ends]
    return found


def _described(vectors: Mapping[str, Tensor]) -> str:
    widths = {key: value.shape[1] for key, value in vectors.items()}
    kind = "SDXL" if {"clip_l", "clip_g"} == set(widths) else _WIDTHS.get(max(widths.values()), "")
    told = ", ".join(f"{key!r} is {width} wide" for key, width in widths.items())
    return f"{kind}: {told}" if kind else told
