"""Taking a concept file into a bank: one of ours, or a `.pth` that the public code learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..bank import Bank
from ..catalogue import picture_beside
from ..concept import Concept
from ..errors import BankError
from ..storage.concept_file import file_tensors, read_concept
from .cifc_concept import read_pth
from .settings import ImportConfig

FOREIGN = ".pth"


def check_class_words(path: Path, class_words: str) -> None:
    """Make sure that the class words of a foreign file are given.

    Raises:
        BankError: If they are not.
    """
    if path.suffix.lower() == FOREIGN and not class_words.strip():
        raise BankError(
            f"A {FOREIGN} file does not say what its concept is. Give class_words, such as 'dog'."
        )


def import_concept(
    path: Path, bank: Bank, config: ImportConfig, model: tuple[str, str] | None = None
) -> tuple[Concept, str]:
    """Add the concept of a file to a bank, unless this very concept is there already.

    Args:
        path: A concept file of ours, or a `.pth` file of CIFC or Mix-of-Show.
        bank: Where it goes.
        config: What is said of it.
        model: For `.pth` files: family and fingerprint of the model it was learned on. By default
            those of the bank's other concepts.

    Returns:
        The concept as the bank holds it, and a note about what was done; "" if there is none.

    Raises:
        CidmError: If the file or what is said of it cannot be used.
    """
    check_class_words(path, config.class_words)
    if path.suffix.lower() == FOREIGN:
        family, base = model or _model_of(bank)
        concept = read_pth(
            path,
            class_words=config.class_words.strip(),
            kind=config.kind,
            family=family,
            base=base,
            scale=config.scale,
            words=config.words.split() or None,
        )
    else:
        concept = read_concept(path)
    if config.name.strip():
        concept = replace(concept, name=config.name.strip())
    if (there := _held(bank, concept)) is not None:
        return there, "It was in the bank already."
    preview = picture_beside(path)
    return bank.add(concept, preview, allow_other_base=config.allow_other_base), _left_out(concept)


def _model_of(bank: Bank) -> tuple[str, str]:
    if entries := bank.entries():
        return entries[0].family, entries[0].base
    raise BankError(
        "Such a file does not tell its base model, and the bank is still empty. Give the model it "
        "was learned on."
    )


def _held(bank: Bank, concept: Concept) -> Concept | None:
    """The bank's concept of that name, if it is this very one."""
    there = bank.get(concept.name)
    if there is None or there.words != concept.words:
        return None
    mine, its = file_tensors(concept), file_tensors(there)
    same = mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in mine)
    return there if same else None


def _left_out(concept: Concept) -> str:
    """What a foreign file held that a concept cannot."""
    left = concept.facts.get("left_out")
    if not isinstance(left, dict) or not left:
        return ""
    listed = ", ".join(f"{part} ({count} tensors)" for part, count in left.items())
    return f"Left out, no part of a concept: {listed}."
