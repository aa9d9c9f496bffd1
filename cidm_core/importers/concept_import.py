"""Taking a concept file into a bank: one of ours, or what other programs wrote."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..bank import Bank
from ..catalogue import picture_beside
from ..concept import Concept
from ..errors import BankError
from ..sampling.parts import quoted
from ..storage.compatibility import BaseWeights, Named, check_fit
from ..storage.concept_file import file_tensors, read_concept
from ..storage.tensor_file import SUFFIX, is_ours
from . import (
    clif_release,
    compvis_delta,
    custom_diffusion,
    delta_bin,
    diffusers_delta,
    infusion_checkpoint,
    textual_inversion,
)
from .cifc_concept import read_pth
from .custom_diffusion import Artifact, Told
from .settings import ImportConfig
from .tables import load_table

FOREIGN = (".pth", ".pt", ".bin", ".ckpt")
ENDINGS = (*FOREIGN, SUFFIX)
_UNSAID = "{} does not say what its concept is. Give class_words, such as 'dog'."


def check_class_words(path: Path, class_words: str) -> None:
    """Make sure that the class words of a foreign file are given.

    Raises:
        BankError: If they are not.
    """
    if path.suffix.lower() not in ENDINGS:
        raise BankError(f"{path.name} ends in none of {' '.join(ENDINGS)}. Choose another file.")
    if path.suffix.lower() in FOREIGN and not class_words.strip() and not is_ours(path):
        raise BankError(_UNSAID.format(f"A {path.suffix.lower()} file"))


def import_concept(
    path: Path, bank: Bank, config: ImportConfig, model: BaseWeights | None = None
) -> tuple[Concept, str]:
    """Add the concept of a file to a bank, unless this very concept is there already.

    Args:
        path: A concept file of ours, a `.pth` file of CIFC or Mix-of-Show, a textual inversion, a
            checkpoint of Infusion, what a program for Custom Diffusion wrote (diffusers': the file
            or its folder), or the folder that CLIF's script wrote.
        bank: Where it goes.
        config: What is said of it.
        model: For files of other programs: the model they were learned on. By default that of the
            bank's other concepts; Custom Diffusion needs its numbers.

    Returns:
        The concept as the bank holds it, and a note about what was done; "" if there is none.

    Raises:
        CidmError: If the file or what is said of it cannot be used.
    """
    release = clif_release.release_in(path) if path.is_dir() else None
    if release is not None:
        foreign = _clif(release, bank, config, model)
    else:
        path = diffusers_delta.weights_file(path) if path.is_dir() else path
        check_class_words(path, config.class_words)
        foreign = None if is_ours(path) else _foreign(path, bank, config, model)
    concept = foreign or read_concept(path)
    if config.name.strip():
        concept = replace(concept, name=config.name.strip())
    if (there := _held(bank, concept)) is not None:
        return there, "It was in the bank already."
    if foreign and not config.name.strip():  # the name was made here, as for a concept just taught
        concept = replace(concept, name=bank.free_name(concept.name))
    preview = picture_beside(path)
    return bank.add(concept, preview, allow_other_base=config.allow_other_base), _note(concept)


def _foreign(
    path: Path, bank: Bank, config: ImportConfig, model: BaseWeights | None
) -> Concept | None:
    """The concept in a file of another program; None if it is ours, or nothing known."""
    table = load_table(path)
    class_words, words = config.class_words.strip(), config.words.split()
    if isinstance(table, Mapping) and _is_custom_diffusion(table):
        what = f"{path.name} is of Custom Diffusion; it"
        if not class_words:
            raise BankError(_UNSAID.format(what))
        if model is None:
            raise BankError(
                f"{path.name} holds weights of Custom Diffusion, a concept their change from the "
                "base model. Give the model it was learned on (on the command line --model)."
            )
        told = Told(class_words, config.kind, words, config.allow_other_base)
        artifact = _artifact(table, path, tuple(layer.path for layer in model.layers))
        return custom_diffusion.concept_of(artifact, path.name, model, told)
    if isinstance(table, Mapping) and infusion_checkpoint.matches(table):
        return _infusion(table, path, bank, config, model)
    if isinstance(table, Mapping) and clif_release.matches(table):
        beside = clif_release.release_in(path.parent)
        release = clif_release.Release(path, beside and beside.encoders)
        return _clif(release, bank, config, model)
    if (vectors := textual_inversion.vectors_of(table)) is not None:
        what = f"{path.name} is a textual inversion; it"
        if not class_words:
            raise BankError(_UNSAID.format(what))
        family, base, layers = _model(model, bank, what)
        told = {"class_words": class_words, "kind": config.kind, "family": family, "base": base}
        return textual_inversion.concept_of(vectors, path, **told, words=words, layers=layers)
    if path.suffix.lower() not in FOREIGN:
        return None
    family, base, _ = _model(model, bank, f"{path.name} is of another program; it")
    told = {"class_words": class_words, "kind": config.kind, "family": family, "base": base}
    return read_pth(path, **told, scale=config.scale, words=words or None)


def _infusion(
    table: Mapping[str, object],
    path: Path,
    bank: Bank,
    config: ImportConfig,
    model: BaseWeights | None,
) -> Concept:
    what = f"{path.name} is a checkpoint of Infusion; it"
    if not config.class_words.strip():
        raise BankError(_UNSAID.format(what))
    if config.words.strip():
        raise BankError(f"{path.name} is of Infusion, which teaches no words. Leave them out.")
    family, base, layers = _model(model, bank, what)
    told = {"class_words": config.class_words.strip(), "kind": config.kind, "family": family}
    concept = infusion_checkpoint.concept_of(table, path.name, **told, base=base, layers=layers)
    if model is not None:
        check_fit([concept], model)
    return concept


def _clif(
    release: clif_release.Release, bank: Bank, config: ImportConfig, model: BaseWeights | None
) -> Concept:
    what = f"{release.origin} is of CLIF; it"
    if not config.class_words.strip():
        raise BankError(_UNSAID.format(what))
    told = Told(config.class_words, config.kind, config.words.split(), config.allow_other_base)
    concept = clif_release.concept_of(release, told, *_model(model, bank, what))
    if model is not None:
        check_fit([concept], model)
    return concept


def _is_custom_diffusion(table: Mapping[str, object]) -> bool:
    readers = (compvis_delta, delta_bin, diffusers_delta)
    return any(reader.matches(table) for reader in readers)


def _artifact(table: Mapping[str, object], path: Path, layers: tuple[str, ...]) -> Artifact:
    if compvis_delta.matches(table):
        return compvis_delta.read(table, layers, path.name)
    if delta_bin.matches(table):
        return delta_bin.read(table, path.name)
    return diffusers_delta.read(table, path)


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
    """The bank's concept of these words, if it is this very one."""
    entry = next((each for each in bank.entries() if each.triggers == concept.triggers), None)
    if entry is None:
        return None
    there = bank[entry.name]
    mine, its = file_tensors(concept), file_tensors(there)
    same = mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in mine)
    return there if same else None


def _note(concept: Concept) -> str:
    """What a foreign file held that a concept cannot, and what calls one without words."""
    notes: list[str] = []
    left = concept.facts.get("left_out")
    if isinstance(left, dict) and left:
        listed = ", ".join(f"{part} ({count} tensors)" for part, count in left.items())
        notes.append(f"Left out, no part of a concept: {listed}.")
    if concept.on_request:
        notes.append(
            f"It has no word of its own: {concept.phrase!r} calls it where drawing asks for it "
            f"(infuse, on the command line --infuse {shlex.quote(quoted(concept.name))})."
        )
    elif concept.method == custom_diffusion.METHOD and not concept.words:
        notes.append(f"It came without a word of its own: {concept.phrase!r} calls it.")
    return " ".join(notes)
