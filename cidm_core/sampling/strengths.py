"""Concepts at strengths of their own, "dog=0.8": factors on what each of them changes.

They multiply the weights that the concepts have after weighing, so the others keep theirs. The
words and their rows stay.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import overload

from torch import Tensor

from ..as_text import listed
from ..bank import Bank
from ..concept import Concept, check_strength
from ..errors import PromptError
from ..upkeep.views import BankView, views_of
from .parts import QUOTED, bare, parts_of, unknown

_STRENGTH = re.compile(rf'({QUOTED}|[^="]+)\s*=([^="]+)')


def read_strengths(text: str) -> dict[str, float]:
    """The strength of each concept that `SampleConfig.strengths` names.

    Args:
        text: "concept=number"; several with commas, semicolons or line ends between them. A name
            may stand in double quotes, which are doubled inside.

    Raises:
        PromptError: If a part is not of that form, or a concept is there twice.
        ConceptError: If a number is out of its limits.
    """
    found: dict[str, float] = {}
    for part in parts_of(text):
        name, strength = _sides(part)
        if name in found:
            raise PromptError(f"strengths has {name!r} twice. Give it one number.")
        check_strength(name, strength)
        found[name] = strength
    return found


@overload
def at_strengths(bank: Bank, text: str) -> Bank: ...
@overload
def at_strengths(bank: Mapping[str, Concept], text: str) -> Mapping[str, Concept]: ...
def at_strengths(bank: Mapping[str, Concept], text: str) -> Mapping[str, Concept]:
    """A bank whose concepts come at strengths of their own; nothing in its folder changes.

    Strengths that it has already stay for the concepts that the text does not name.

    Args:
        bank: The concepts; of a `Bank` only the headers are read.
        text: As for `read_strengths`.

    Raises:
        PromptError: If the text is malformed, or names a concept that the bank does not have.
        ConceptError: If a number is out of its limits.
    """
    strengths = read_strengths(text)
    if not strengths:
        return bank
    names = set(bank)
    for name in strengths:
        if name not in names:
            raise PromptError(unknown("strengths", name, bank))
    if isinstance(bank, Bank):
        return BankAtStrengths(bank, strengths)
    return {**bank, **{name: replace(bank[name], strength=s) for name, s in strengths.items()}}


class BankAtStrengths(BankView):
    """A bank whose concepts come at strengths of their own.

    Attributes:
        strengths: By name; the others have 1.
    """

    def __init__(self, bank: Bank, strengths: Mapping[str, float]) -> None:
        super().__init__(bank)
        self.strengths: Mapping[str, float] = {**own_strengths(bank), **strengths}

    def __getitem__(self, name: str) -> Concept:
        """A concept of the bank, at its strength."""
        concept, strength = super().__getitem__(name), self.strengths.get(name, 1.0)
        return concept if strength == 1.0 else replace(concept, strength=strength)


def own_strengths(bank: Mapping[str, Concept]) -> Mapping[str, float]:
    """The strengths that a bank was given by `at_strengths`."""
    return next((v.strengths for v in views_of(bank) if isinstance(v, BankAtStrengths)), {})


def unheard(strengths: Collection[str], taking_part: Sequence[Concept]) -> str:
    """What to tell of concepts that have a strength and take no part; "" if there are none."""
    drawn = {concept.name for concept in taking_part}
    rest = [repr(name) for name in strengths if name not in drawn]
    names = listed(rest, most=8)
    return f"No prompt here names {names}: strengths has no effect there." if rest else ""


def acting_weights(concepts: Sequence[Concept], weights: Tensor) -> Tensor:
    """Weights (..., concepts), each times the strength of its concept."""
    return weights * weights.new_tensor([concept.strength for concept in concepts])


def strength_note(concept: Concept) -> str:
    """What stands behind a concept's weight: " (strength 0.8)"; "" at 1."""
    return "" if concept.strength == 1.0 else f" (strength {concept.strength:g})"


def name_with_strength(concept: Concept) -> str:
    """A concept's name for a picture, where it may be cut: "0.8 x dog"; "dog" at 1."""
    return concept.name if concept.strength == 1.0 else f"{concept.strength:g} x {concept.name}"


def _sides(part: str) -> tuple[str, float]:
    """A concept's name and its strength."""
    match = _STRENGTH.fullmatch(part)
    try:
        if match is not None:
            return bare(match[1]), float(match[2])
    except ValueError:
        pass
    raise PromptError(
        f"strengths has {part!r}. Write CONCEPT=NUMBER with a decimal point, such as dog=0.8; in "
        "double quotes a name that holds a comma, a semicolon or an equals sign. One number for "
        "all concepts is called strength."
    )
