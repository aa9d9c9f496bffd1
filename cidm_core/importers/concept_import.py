"""Taking a concept file into a bank: one of ours, of the public code, or a textual inversion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..bank import Bank
from ..catalogue import picture_beside
from ..concept import Concept
from ..errors import BankError
from ..storage.compatibility import Named
from ..storage.concept_file import file_tensors, read_concept
from ..storage.tensor_file import SUFFIX
from .cifc_concept import load_table, read_pth
from .settings import ImportConfig
from .textual_inversion import concept_of, vectors_in, vectors_of

FOREIGN = (".pth", ".pt", ".bin")
ENDINGS = (*FOREIGN, SUFFIX)
_UNSAID = "{} does not say what its concept is. Give class_words, such as 'dog'."


def check_class_words(path: Path, class_words: str) -> None:
    """Make sure that the class words of a foreign file are given.

    Raises:
        BankError: If they are not.
    """
    if path.suffix.lower() not in ENDINGS:
        raise BankError(f"{path.name} ends in none of {' '.join(ENDINGS)}. Choose another file.")
    if path.suffix.lower() in FOREIGN and not class_words.strip():
        raise BankError(_UNSAID.format(f"A {path.suffix.lower()} file"))


def import_concept(
    path: Path, bank: Bank, config: ImportConfig, model: Named | None = None
) -> tuple[Concept, str]:
    """Add the concept of a file to a bank, unless this very concept is there already.

    Args:
        path: A concept file of ours, a `.pth` file of CIFC or Mix-of-Show, or a textual inversion.
        bank: Where it goes.
        config: What is said of it.
        model: For files of other programs: the model they were learned on. By default that of the
            bank's other concepts.

    Returns:
        The concept as the bank holds it, and a note about what was done; "" if there is none.

    Raises:
        CidmError: If the file or what is said of it cannot be used.
    """
    check_class_words(path, config.class_words)
    foreign = path.suffix.lower() in FOREIGN
    vectors = vectors_of(load_table(path)) if foreign else vectors_in(path)
    told = {"class_words": config.class_words.strip(), "kind": config.kind}
    words = config.words.split()
    if vectors is not None:
        what = f"{path.name} is a textual inversion; it"
        if not told["class_words"]:
            raise BankError(_UNSAID.format(what))
        family, base, layers = _model(model, bank, what)
        told |= {"family": family, "base": base}
        concept = concept_of(vectors, path, **told, words=words, layers=layers)
    elif foreign:
        family, base, _ = _model(model, bank, f"{path.name} is of another program; it")
        told |= {"family": family, "base": base}
        concept = read_pth(path, **told, scale=config.scale, words=words or None)
    else:
        concept = read_concept(path)
    if config.name.strip():
        concept = replace(concept, name=config.name.strip())
    if (there := _held(bank, concept)) is not None:
        return there, "It was in the bank already."
    preview = picture_beside(path)
    return bank.add(concept, preview, allow_other_base=config.allow_other_base), _left_out(concept)


def _model(model: Named | None, bank: Bank, what: str) -> tuple[str, str, tuple[str, ...]]:
    """Family, fingerprint and layers of the model given, or of that of the bank's concepts."""
    if model is not None:
        return model.family.name, model.fingerprint, tuple(layer.path for layer in model.layers)
    if entries := bank.entries():
        return entries[0].family, entries[0].base, entries[0].layers
    raise BankError(
        f"{what} does not tell its base model, and the bank is still empty. Give the model it was "
        "learned on (on the command line --model)."
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
