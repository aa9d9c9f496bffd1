"""What programs for Custom Diffusion save, as a concept: whole matrices become changes of the base.

Each family of formats has a file of its own, which says whether a table is one of its kind and
reads it as an `Artifact`. Compressed ones hold the change already, as two factors u and v.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..concept import Concept, Subject
from ..errors import BankError, ConceptError
from ..storage.compatibility import BaseWeights
from ..storage.names import default_name
from ..updates import FullRank, LowRank, Update
from ..words import bracketed, canonical, new_words

METHOD = "custom_diffusion"
_MOST_CHANGE = 0.8  # of the matrices' size; that of two unrelated models differs by 1.4
_ROUNDING = 0.002  # what storing in fp16 or bf16 changes
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Artifact:
    """What a file holds, under diffusers' names.

    Attributes:
        weights: Parameters of attn2 by name ("...attn2.to_k.weight"): their values, or the factors
            u (out, rank) and v (rank, in) of their change.
        rows: For each word its embedding in every text encoder, (dim,).
        beside: For a whole model: parameters that Custom Diffusion leaves alone.
        left_out: How many tensors of what else there are.
    """

    weights: Mapping[str, Tensor | tuple[Tensor, Tensor]]
    rows: Mapping[str, tuple[Tensor, ...]]
    beside: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Told:
    """What is said of a file: class words ("cat", or "cat+dog" for two words), kind, words."""

    class_words: str
    kind: str
    words: Sequence[str] = ()
    allow_other_base: bool = False


def concept_of(artifact: Artifact, origin: str, model: BaseWeights, told: Told) -> Concept:
    """The concept that an artifact is on the model it was learned on.

    Raises:
        BankError: If it does not fit the model, or what is told does not fit it.
    """
    encoders = model.family.encoders
    names, vectors = chosen(artifact.rows, told.words, origin)
    for name, each in zip(names, vectors, strict=True):
        if [tuple(row.shape) for row in each] != [(row.dim,) for row in encoders]:
            found = " and ".join(str(row.shape[-1]) for row in each)
            raise BankError(
                f"{origin}: {name!r} is {found} wide; {model.family.name} reads words "
                f"{' and '.join(str(row.dim) for row in encoders)} wide. Give the model it was "
                "learned on."
            )
    rows = {row.name: [each[i] for each in vectors] for i, row in enumerate(encoders)}
    updates, change = _updates(artifact, origin, model)
    left_out = {**artifact.left_out, **_changed_beside(artifact, origin, model, told)}
    facts: dict[str, object] = {"imported": origin}
    try:
        concept = Concept(
            name=_name(names, told),
            subjects=_subjects(names, told, origin),
            family=model.family.name,
            base=model.fingerprint,
            layers=tuple(layer.path for layer in model.layers),
            updates=updates,
            rows={name: torch.stack(each)[:, None] for name, each in rows.items() if each},
            method=METHOD,
            facts=facts | ({"left_out": left_out} if left_out else {}),
        )
    except ConceptError as caught:
        raise BankError(f"{origin}: {caught}") from caught
    if not updates and not names:
        raise BankError(f"{origin} changes nothing of the model, and has no words. Check the file.")
    if change > _MOST_CHANGE and not told.allow_other_base:
        raise BankError(
            f"{origin} differs from the model by {change:.0%} of its keys and values; learning "
            "changes far less. Give the model it was learned on, or allow another base "
            "(allow_other_base)."
        )
    return concept


def plain(value: object, name: str, origin: str) -> Tensor:
    """A tensor of plain numbers, apart from all others.

    Raises:
        BankError: If it is none.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise BankError(f"{origin}: {name[:80]} holds no plain numbers. Choose another file.")
    if value.layout != torch.strided or value.is_quantized:
        raise BankError(f"{origin}: {name[:80]} holds no plain numbers. Choose another file.")
    value = value if value.dtype in _DTYPES else value.float()
    return value.detach().clone(memory_format=torch.contiguous_format)


def matrix(value: object, name: str, origin: str) -> Tensor | tuple[Tensor, Tensor]:
    """A parameter, or the two factors of its change.

    Raises:
        BankError: If it is neither.
    """
    if not isinstance(value, Mapping):
        return plain(value, name, origin)
    if set(value) != {"u", "v"}:
        raise BankError(f"{origin}: {name[:80]} has not the factors u and v. Get the file again.")
    u, v = (plain(value[key], f"{name}.{key}", origin) for key in ("u", "v"))
    if u.ndim != 2 or v.ndim != 2 or u.shape[1] != v.shape[0]:
        raise BankError(
            f"{origin}: the factors of {name[:80]} are {tuple(u.shape)} and {tuple(v.shape)}. Get "
            "the file again."
        )
    return u, v


def chosen(
    rows: Mapping[str, tuple[Tensor, ...]], words: Sequence[str], origin: str
) -> tuple[tuple[str, ...], list[tuple[Tensor, ...]]]:
    """Words and their embeddings: all of the file's, those asked for, or all under new names."""
    held = {canonical(_bracketed(word)): vectors for word, vectors in rows.items()}
    asked = [canonical(word) for word in words]
    if not asked or set(asked) <= set(held):
        names = asked or list(held)
        return tuple(names), [held[name] for name in names]
    if not held:
        raise BankError(
            f"{origin} holds no word, and {' '.join(words)!r} was asked for. Put the file of the "
            "word (such as <new1>.bin) beside it, or give no words: its class words then call it."
        )
    if len(asked) != len(held):
        raise BankError(
            f"{origin} holds {len(held)} words ({' '.join(held)}), and {len(asked)} were given. "
            "Give some of these, or a new name for each."
        )
    try:
        chosen = new_words(words)
    except ConceptError as caught:
        raise BankError(f"{origin}: {caught}") from caught
    if unmarked := [word for word in chosen if not bracketed(word)]:
        raise BankError(
            f"{unmarked[0]!r} may be a word that prompts use for other things. Give words in angle "
            f"brackets: '<{unmarked[0].strip('<>')}>'."
        )
    return chosen, list(held.values())


def _name(names: Sequence[str], told: Told) -> str:
    """After its words, unless they are those that every file of this kind has."""
    if names and not all(re.fullmatch(r"<new\d+>", name) for name in names):
        return default_name(names, told.class_words)
    return " and ".join(part.strip() for part in told.class_words.split("+"))


def _bracketed(word: str) -> str:
    """`<new1>` for it and for "new1"."""
    stem = re.sub(r"[^\w.-]+", "_", word).strip("_")
    return word if bracketed(word) else f"<{stem}>"


def _subjects(names: Sequence[str], told: Told, origin: str) -> tuple[Subject, ...]:
    """One subject for each word, as in joint training; without words one for each class."""
    classes = [part.strip() for part in told.class_words.split("+")]
    if len(names) in (0, len(classes)):
        each = [(name,) for name in names] or [()] * len(classes)
        pairs = zip(each, classes, strict=True)
        return tuple(Subject(words, known, told.kind) for words, known in pairs)
    example = "+".join((classes * len(names))[: max(len(names), 1)])
    raise BankError(
        f"{origin} holds {len(names)} words ({' '.join(names)}) for {len(classes)} class words. "
        f"Say what each word is: class_words {example!r}, or take some of them by words."
    )


def _updates(
    artifact: Artifact, origin: str, model: BaseWeights
) -> tuple[dict[str, Update], float]:
    """What changes, and by how much of their size the keys and values do."""
    found: dict[str, Update] = {}
    squares = torch.zeros(2, dtype=torch.float64)
    biases: dict[str, Tensor] = {}
    for name, value in artifact.weights.items():
        path, _, part = name.rpartition(".")
        base = _base_of(name, value, origin, model)
        if isinstance(value, tuple):
            u, v = value
            if v.shape[0]:
                found[path] = LowRank(v, u, float(v.shape[0]))
            continue
        delta = value.float() - base
        sizes = torch.stack([delta.double().norm(), base.double().norm()]).square()
        squares += sizes
        # A whole model was stored in another precision than the base may be.
        if artifact.beside and bool(sizes[0] <= _ROUNDING**2 * sizes[1]):
            continue
        if part == "bias":
            biases[path] = delta
        elif bool((delta != 0).any()):
            found[path] = FullRank(delta)
    for path, bias in biases.items():
        if bool((bias != 0).any()):
            out, into = model.shape_of(path) or (len(bias), 0)
            kept = found.get(path, FullRank(torch.zeros(out, into)))
            if isinstance(kept, FullRank):
                found[path] = replace(kept, bias=bias)
    return found, float((squares[0] / squares[1]).sqrt()) if squares[1] else 0.0


def _base_of(
    name: str, value: Tensor | tuple[Tensor, Tensor], origin: str, model: BaseWeights
) -> Tensor:
    """The model's own parameter of that name and shape."""
    path, _, part = name.rpartition(".")
    shape = model.shape_of(path)
    held = shape and (shape if part == "weight" else shape[:1])
    given = (
        (value[0].shape[0], value[1].shape[1]) if isinstance(value, tuple) else tuple(value.shape)
    )
    if given != held:
        has = " x ".join(map(str, held)) if held else "no such layer"
        raise BankError(
            f"{origin}: {name} is {' x '.join(map(str, given))}; the model ({model.family.name}) "
            f"has {has}. Give the model it was learned on."
        )
    return model.parameter(name)


def _changed_beside(
    artifact: Artifact, origin: str, model: BaseWeights, told: Told
) -> dict[str, int]:
    """Parameters of a whole model that differ, though Custom Diffusion leaves them alone."""
    changed = 0
    for name, value in artifact.beside.items():
        base = _base_of(name, value, origin, model)
        changed += bool((value.float() - base).norm() > _ROUNDING * base.norm())
    if changed and not told.allow_other_base:
        raise BankError(
            f"{origin} differs from the model outside of cross-attention too: it was trained as a "
            "whole, or on another model. Give the model it was learned on, or allow another base "
            "(allow_other_base); what differs outside is then left out."
        )
    return {"unet attn1": changed} if changed else {}
