"""Reading the files that Import Concept takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...cidm_core.bank import Bank
from ...cidm_core.concept import Concept
from ...cidm_core.errors import BankError
from ...cidm_core.storage.names import default_name


def base_of(bank: Bank, model: Any) -> tuple[str, str]:
    """Family and fingerprint of the model a foreign file was learned on."""
    if model is not None:
        from ..host.model import facts_of

        facts = facts_of(model)
        return facts.family.name, facts.fingerprint
    if entries := bank.entries():
        return entries[0].family, entries[0].base
    raise BankError(
        "Such a file does not tell its base model, and the bank is still empty. Connect the model "
        "it was learned on to model."
    )


def from_pth(
    path: Path,
    name: str,
    class_words: str,
    kind: str,
    words: str,
    scale: float,
    family: str,
    base: str,
) -> Concept:
    """A concept of the public code; unnamed, it is called after its words."""
    from ...cidm_core.importers.cifc_concept import read_pth

    concept = read_pth(
        path,
        name=name.strip() or "imported",
        class_words=class_words.strip(),
        kind=kind,
        family=family,
        base=base,
        scale=scale,
        words=words.split() or None,
    )
    if name.strip():
        return concept
    return replace(concept, name=default_name(concept.words, concept.class_words))


def own_file(path: Path, name: str) -> Concept:
    """A concept file of ours, under another name if one is given."""
    from ...cidm_core.importers.cifc_concept import read_concept_file

    concept = read_concept_file(path)
    return replace(concept, name=name.strip()) if name.strip() else concept


def holds(bank: Bank, concept: Concept) -> bool:
    """Whether this very concept is there, as when a graph runs a second time."""
    if concept.name not in bank:
        return False
    there = bank[concept.name]
    if there.words != concept.words or there.low_rank.keys() != concept.low_rank.keys():
        return False
    pairs = [(pair, there.low_rank[path]) for path, pair in concept.low_rank.items()]
    return all(torch.equal(a.down, b.down) and torch.equal(a.up, b.up) for a, b in pairs)


def left_out(concept: Concept) -> str:
    """What a foreign file held that a concept cannot."""
    left = concept.facts.get("left_out")
    if not isinstance(left, dict) or not left:
        return ""
    listed = ", ".join(f"{part} ({count} tensors)" for part, count in left.items())
    return f"Left out, no part of a concept: {listed}."


def picture_beside(path: Path) -> Any:
    """The picture that lies beside one of our own files."""
    from PIL import Image

    try:
        with Image.open(path.with_suffix(".png")) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
