"""Changes to a concept that is learned: another name, another picture."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..bank import Bank
from ..errors import BankError
from ..storage.atomic import write_atomic
from ..storage.compatibility import check_new
from ..storage.concept_file import concept_to_bytes, read_concept
from ..storage.kept import moves_of
from ..storage.moves import Move, move_all
from ..storage.names import clean_name, file_stem, same_key
from ..storage.previews import as_preview
from ..storage.record import Entry, preview_path, read_entry

if TYPE_CHECKING:
    from PIL.Image import Image


def rename(bank: Bank, name: str, new_name: str) -> Entry:
    """Give a concept another name; its words, weights, picture and versions stay.

    Raises:
        BankError: If there is no such concept, it is damaged, the name cannot be used or is taken,
            or the system refuses.
    """
    wanted = clean_name(new_name)
    with bank.writing():
        path, error = bank.find(name)
        if error is not None:
            raise error
        old = read_entry(path)
        check_new(replace(old, name=wanted), [e for e in bank.stored.entries() if e.path != path])
        target = path
        # Another case alone is the same file on many systems.
        if same_key(file_stem(wanted)) != same_key(path.stem):
            target = bank.file_for(wanted)
        moves = _moves(path, target)
        data = concept_to_bytes(replace(read_concept(path), name=wanted))
        write_atomic(path, data, error=BankError)
        try:
            move_all(bank.path, moves, f"rename '{path.name}' to '{target.name}'")
        except BankError as caught:  # It has its name; that of its file is only decoration.
            warnings.warn(str(caught), stacklevel=2)
            target = path
        return read_entry(target)


def set_preview(bank: Bank, name: str, image: Image) -> None:
    """Give a concept another picture, which is made small.

    Raises:
        BankError: If there is no such concept, the picture cannot be read, or the system refuses.
    """
    picture = as_preview(image)
    with bank.writing():
        path, _ = bank.find(name)
        write_atomic(preview_path(path), picture, error=BankError)


def _moves(path: Path, target: Path) -> list[Move]:
    """Picture and versions go before the file, so that it is never without them."""
    if path == target:
        return []
    found = moves_of(path, target)[::-1]
    for _, to in found:
        if os.path.lexists(to):
            raise BankError(
                f"'{to}' is in the way of the new name. Move that away, or choose another name; "
                "nothing was changed."
            )
    return found
