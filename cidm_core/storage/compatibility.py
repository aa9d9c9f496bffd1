"""Whether concepts can live in one bank, and whether they fit a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .. import words as word_rules
from ..concept import Concept
from ..errors import BankError, FamilyError
from ..families import FAMILIES, PROJECTIONS, CrossAttention, Family, same_base
from .concept_file import Entry
from .names import same_key


class Model(Protocol):
    """What of a base model decides whether a concept fits it."""

    @property
    def family(self) -> Family: ...
    @property
    def layers(self) -> tuple[CrossAttention, ...]: ...
    @property
    def fingerprint(self) -> str: ...


def check_words(concept: Concept, entries: Sequence[Entry]) -> None:
    """A new concept needs a name and words of its own.

    Raises:
        BankError: If its name, or a word equal to or inside one of its words, is taken.
    """
    new = [word_rules.normalise(word) for word in concept.triggers]
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


def check_model(
    bank: str,
    entries: Sequence[Entry],
    subject: str,
    marks: tuple[str, str, tuple[str, ...]],
    *,
    allow_other_base: bool,
) -> None:
    """All concepts of a bank must be of one family, base model and set of layers.

    Args:
        bank: Name of the bank, for error texts.
        entries: The concepts in it.
        subject: What is compared with them: "the model", or "concept 'dog'".
        marks: The subject's family, fingerprint of its base model, and layer paths.
        allow_other_base: Only families and layers must agree.

    Raises:
        FamilyError: If one concept differs from the subject, naming both.
    """
    family, base, layers = marks
    # Concepts of one bank nearly always agree: compare each different one once.
    for entry in {(e.family, e.base, e.layers): e for e in entries}.values():
        if entry.family != family:
            raise FamilyError(
                f"Bank '{bank}' is for {_described(entry.family)}, {subject} is "
                f"{_described(family)}. Load a model of family {entry.family}, or another bank."
            )
        if entry.layers != layers:
            raise FamilyError(
                f"Bank '{bank}' was learned on {len(entry.layers)} cross-attention layers, "
                f"{subject} has {len(layers)}{_first_other(entry.layers, layers)}. "
                "Use the model the bank was learned on, or another bank."
            )
        if not allow_other_base and not same_base(entry.base, base):
            raise FamilyError(
                f"Bank '{bank}' was learned on another {family} model: concept {entry.name!r} on "
                f"{_base(entry)}, {subject} has {_short(base)}. Use the model the bank was learned "
                "on, or allow another base, at some cost in likeness."
            )


def _described(family: str) -> str:
    row = FAMILIES.get(family)
    return f"{family} (context {row.context_dim})" if row else family


def _first_other(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    if len(ours) != len(theirs):
        return ""
    pair = next((a, b) for a, b in zip(ours, theirs, strict=True) if a != b)
    return f" of other names ({pair[1]} for {pair[0]})"


def _base(entry: Entry) -> str:
    name = entry.facts.get("base_name")
    return f"'{name}' ({_short(entry.base)})" if isinstance(name, str) else _short(entry.base)


def _short(fingerprint: str) -> str:
    return f"fingerprint {fingerprint[:24]}{'...' if len(fingerprint) > 24 else ''}"


def check_concept(concept: Concept, model: Model, *, allow_other_base: bool = False) -> None:
    """Check that a model can carry a concept.

    Raises:
        FamilyError: If the model's family, layers, widths or (unless allowed) fingerprint differ.
    """
    family, name = model.family.name, concept.name
    if family != concept.family:
        raise FamilyError(
            f"Concept {name!r} was learned on {_described(concept.family)}, the model is "
            f"{_described(family)}. Load a {concept.family} model, or train the concept again."
        )
    paths = tuple(layer.path for layer in model.layers)
    if missing := [layer for layer in concept.layers if layer not in paths]:
        raise FamilyError(
            f"Concept {name!r} has {len(concept.layers)} cross-attention layers, the model "
            f"{len(paths)}; {missing[0]} is not among them. Load the model it was trained on."
        )
    shapes = {f"{at.path}.{part}": at.shape(part) for at in model.layers for part in PROJECTIONS}
    for path, update in concept.updates.items():
        wanted, found = shapes.get(path), getattr(update, "shape", None)
        if wanted is not None and found is not None and wanted != found:
            raise FamilyError(
                f"Concept {name!r} changes a weight of {found[0]} x {found[1]} in {path}; the "
                f"model's is {wanted[0]} x {wanted[1]}. Load the model it was trained on."
            )
    if not (allow_other_base or same_base(model.fingerprint, concept.base)):
        raise FamilyError(
            f"Concept {name!r} was learned on another {family} model "
            f"({concept.facts.get('base_name') or concept.base}). Load that one, or allow other "
            "base models of the family (--allow-other-base); the likeness may suffer."
        )
