"""Merging and compressing the concepts of a bank; both need another bank for what they make.

What is made has the words of what it was made from, and in one bank a word calls one concept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from ..bank import Bank
from ..catalogue import find_entry, picture_beside
from ..concept import Concept
from ..errors import BankError
from ..storage.compatibility import BaseModel, check_fit, check_new
from ..storage.names import clean_name, same_key
from ..storage.record import Entry
from .compress import MUCH, CompressReport, compress
from .merge import MergeReport, merge, outline
from .settings import CompressConfig, MergeConfig, OnProgress
from .states import Encode


def beside(bank: Bank, what: str) -> Bank:
    """The bank `<bank>-<what>` in the same folder, made by the first concept."""
    return Bank(bank.path.parent / f"{bank.name}-{what}")


def merge_in_bank(
    bank: Bank,
    names: Sequence[str],
    into: Bank,
    name: str,
    model: BaseModel,
    encode: Encode,
    captions: Sequence[str],
    config: MergeConfig | None = None,
    on_progress: OnProgress | None = None,
    *,
    overwrite: bool = False,
) -> tuple[Concept, MergeReport]:
    """Merge concepts of a bank into a new one of another bank; see `merge`.

    Args:
        bank: Where they are; it stays as it is.
        names: Their names, or their words; empty means all.
        into: Where the new one goes.
        name: Its name.
        model: The model they were learned on.
        encode: Its text encoders.
        captions: Ordinary captions.
        config: Which rows count.
        on_progress: Is told of captions and layers done.
        overwrite: Whether it takes the place of a concept of that name in the other bank.

    Raises:
        CidmError: If they cannot be merged, or the other bank cannot take the new one. Both is
            found before any work starts.
    """
    chosen = [find_entry(bank, each).name for each in names if each.strip()] or list(bank)
    concepts = [bank[each] for each in chosen]
    made = outline(concepts, clean_name(name))
    old = _place(made, bank, into, overwrite)
    merged, report = merge(concepts, made.name, model, encode, captions, config, on_progress)
    return into.add(merged, replaces=old), report


def compress_in_bank(
    bank: Bank,
    name: str,
    into: Bank | None,
    new_name: str = "",
    config: CompressConfig | None = None,
    on_progress: OnProgress | None = None,
    *,
    overwrite: bool = False,
) -> tuple[Concept, CompressReport]:
    """Compress a concept of a bank; see `compress`.

    Args:
        bank: Where it is.
        name: Its name, or its words.
        into: Where the compressed one goes. None puts it in the place of the whole one.
        new_name: Its name there. Default: the same.
        config: How much is kept.
        on_progress: Is told of layers done.
        overwrite: Whether it takes the place of a concept of that name in the other bank.

    Raises:
        CidmError: If it cannot be compressed, or the other bank cannot take the result.
    """
    entry = find_entry(bank, name)
    concept = bank[entry.name]
    if into is None and new_name.strip():
        raise BankError(
            f"What takes the place of {entry.name!r} keeps its name. Leave the new name out, or "
            "put the compressed concept into another bank."
        )
    named = clean_name(new_name) if new_name.strip() else concept.name
    old = entry
    if into is not None:
        old = _place(replace(concept, name=named, updates={}), bank, into, overwrite)
    made, report = compress(concept, config, on_progress)
    if into is None and report.error > MUCH:
        raise BankError(f"Nothing was replaced. {report.in_words()} Or put it into another bank.")
    if into is None:
        return bank.add(made, replaces=old), report
    picture = picture_beside(entry.path)
    return into.add(replace(made, name=named), picture, replaces=old), report


def _place(made: Concept, bank: Bank, into: Bank, overwrite: bool) -> Entry | None:
    """Whose place a concept takes in the other bank; what that would refuse is refused now."""
    if os.path.realpath(bank.path) == os.path.realpath(into.path):
        raise BankError(
            f"{made.name!r} has the words of what it is made from, and in one bank a word calls "
            f"one concept. Put it into another bank than {bank.name!r}."
        )
    entries = into.entries()
    same = [entry for entry in entries if same_key(entry.name) == same_key(made.name)]
    old = same[0] if same and overwrite else None
    others = [entry for entry in entries if entry is not old]
    try:
        check_new(made, others)
    except BankError as error:
        raise BankError(f"{error} Or put what is made into another bank (into).") from error
    check_fit(others, made)
    if old is None:
        into.file_for(made.name)
    return old
