"""A concept's file put in its place in a bank, whose only writer the caller is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from ..concept import Concept
from ..errors import BankError
from .atomic import write_atomic
from .concept_file import concept_from_bytes, concept_to_bytes
from .kept import former_kept
from .previews import write_preview


def place_concept(
    concept: Concept,
    path: Path,
    picture: bytes | None = None,
    told: Mapping[str, str] | None = None,
) -> Concept:
    """Write a concept and its picture; a file that is there already is kept as a version.

    Args:
        concept: What to write, complete with index and time.
        path: Where.
        picture: What `previews.as_preview` made.
        told: Further texts for the header.

    Returns:
        The concept as it is read from there.

    Raises:
        BankError: If it cannot be stored, or the system refuses; nothing has changed then.
    """
    data = concept_to_bytes(concept, told)
    stored = concept_from_bytes(data, path.name)  # Nothing is written that could not be read.
    place(data, path)
    if picture is not None:
        write_preview(path, picture)
    return stored


def place(data: bytes, path: Path) -> None:
    """Write a file; one that is there already is kept as a version.

    Raises:
        BankError: If the system refuses; nothing has changed then.
    """
    with former_kept(path) if path.exists() else nullcontext():
        write_atomic(path, data, error=BankError)
