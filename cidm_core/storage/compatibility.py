"""Whether concepts can live in one bank, and whether they fit a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from .. import words as word_rules
from ..concept import Concept
from ..errors import BankError, FamilyError
from ..families import FAMILIES, CrossAttention, Family
from ..fingerprints import same_base
from .names import same_key
from .record import Entry


class Named(Protocol):
    """What of a base model a concept is called after."""

    @property
    def family(self) -> Family: ...
    @property
    def layers(self) -> tuple[CrossAttention, ...]: ...
    @property
    def fingerprint(self) -> str: ...


class BaseModel(Named, Protocol):
    """What of a base model decides whether a concept fits it."""

    def shape_of(self, path: str) -> tuple[int, ...] | None:
        """Shape of the weight at a path as concepts have it; None if there is none."""
        ...


class BaseWeights(BaseModel, Protocol):
    """A base model whose numbers can be read."""

    def parameter(self, name: str) -> Tensor:
        """A weight or bias by its name in concepts ("...attn2.to_k.weight"), float32 on the CPU.

        It is that of the base model, without LoRAs that may be patched into it.
        """
        ...


def check_new(concept: Concept | Entry, entries: Sequence[Entry]) -> None:
    """A new concept needs a name and words of its own.

    Raises:
        BankError: If its name, or a word equal to or inside one of its words, is taken.
    """
    new = [word_rules.canonical(word) for word in concept.triggers]
    for entry in entries:
        if same_key(entry.name) == same_key(concept.name):
            raise BankError(
                f"The bank already has a concept {entry.name!r}, learned {entry.created}. "
                f"Choose another name than {concept.name!r}, or remove that one first."
            )
        # Containment of the texts is necessary for an overlap and far cheaper to ask.
        near = [taken for taken in entry.triggers if any(w in taken or taken in w for w in new)]
        if taken := word_rules.overlap(new, near):
            raise BankError(
                f"The words {concept.trigger!r} overlap {taken!r} of concept {entry.name!r}. "
                f"Choose other words than {entry.trigger!r}."
            )


def check_fit(
    concepts: Collection[Concept | Entry],
    other: BaseModel | Concept | Entry,
    *,
    allow_other_base: bool = False,
) -> None:
    """Check that concepts fit a model, or a further concept of the same bank.

    They must agree in family, layers and, unless another is allowed, base model. Of whole concepts
    the widths are compared too, which their entries in a bank do not tell.

    Raises:
        FamilyError: If one does not, naming both sides.
    """
    if isinstance(other, (Concept, Entry)):
        title, advice = f"concept {other.name!r}", f"Put {other.name!r} into another bank"
        asked = _Asked(title, other.family, other.base, other.layers, advice)
    else:
        layers = tuple(layer.path for layer in other.layers)
        asked = _Asked("the model", other.family.name, other.fingerprint, layers)
    # Concepts of one bank nearly always agree: compare each different one once.
    for each in {(c.family, c.base, c.layers): c for c in concepts}.values():
        _check_header(each, asked, allow_other_base)
    if not isinstance(other, (Concept, Entry)):
        for each in concepts:
            if isinstance(each, Concept):
                _check_widths(each, other)


class _Asked(NamedTuple):
    """What concepts are compared with, and what to do if they do not fit."""

    title: str
    family: str
    base: str
    layers: tuple[str, ...]
    instead: str = ""

    def advice(self, concept: Concept | Entry) -> str:
        """What to do if a concept does not fit."""
        return self.instead or _load(concept)


def _load(concept: Concept | Entry) -> str:
    name = concept.facts.get("base_name")
    which = f", {name!r}" if isinstance(name, str) and name else ""
    return (
        f"Load the model it was learned on{which} (on the command line --model names it), or use "
        "another bank"
    )


def _check_header(concept: Concept | Entry, asked: _Asked, allow_other_base: bool) -> None:
    name = concept.name
    if concept.family != asked.family:
        raise FamilyError(
            f"Concept {name!r} was learned on {_described(concept.family)}, {asked.title} is "
            f"{_described(asked.family)}. {asked.advice(concept)}."
        )
    if concept.layers != asked.layers:
        raise FamilyError(
            f"Concept {name!r} was learned on {len(concept.layers)} cross-attention layers, "
            f"{asked.title} has {len(asked.layers)}{_first_other(concept.layers, asked.layers)}. "
            f"{asked.advice(concept)}."
        )
    if not allow_other_base and not same_base(concept.base, asked.base):
        raise FamilyError(
            f"Concept {name!r} was learned on another {concept.family} model, "
            f"{_short(concept.base)}; {asked.title} has {_short(asked.base)}. "
            f"{asked.advice(concept)}, or allow another base (allow_other_base), at some cost in "
            "likeness."
        )


def _check_widths(concept: Concept, model: BaseModel) -> None:
    for path, update in concept.updates.items():
        held = model.shape_of(path)
        if held is None or len(held) != 2:
            raise FamilyError(
                f"Concept {concept.name!r} changes {path}, which is no linear layer of the model. "
                f"{_load(concept)}."
            )
        if update.shape != held[: len(update.shape)]:
            raise FamilyError(
                f"Concept {concept.name!r} changes {_sizes(update.shape)} weights in {path}, the "
                f"model has {_sizes(held[: len(update.shape)])} there. {_load(concept)}."
            )
    for row in model.family.encoders if concept.words else ():
        rows = concept.rows.get(row.name)
        if rows is None or rows.shape[-1] != row.dim:
            found = "missing" if rows is None else f"{rows.shape[-1]} wide"
            raise FamilyError(
                f"The words of concept {concept.name!r} are {found} for the {row.name}, the model "
                f"reads words {row.dim} wide. {_load(concept)}."
            )


def _sizes(shape: Iterable[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _described(family: str) -> str:
    row = FAMILIES.get(family)
    return f"{family} (context {row.context_dim})" if row else family


def _first_other(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    if len(ours) != len(theirs):
        return ""
    pair = next((a, b) for a, b in zip(ours, theirs, strict=True) if a != b)
    return f" of other names ({pair[1]} for {pair[0]})"


def _short(fingerprint: str) -> str:
    return f"fingerprint {fingerprint[:24]}{'...' if len(fingerprint) > 24 else ''}"
