"""What a bank and its concepts tell of themselves, and a concept found by what was typed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .as_text import listed, minute, table
from .errors import BankError
from .storage.names import same_key
from .storage.record import preview_path

if TYPE_CHECKING:
    from PIL.Image import Image

    from .bank import Bank
    from .storage.record import Entry

# Told elsewhere, or for programs.
UNTOLD = ("base_name", "taught", "inputs", "start", "losses")
_FIRST = ("steps", "rank", "lr_tokens", "lr_lora", "seed", "resolution_px", "precision")


def listing(bank: Bank) -> str:
    """The bank's concepts as a table in learning order, and its broken files with the reason."""
    rows = [
        (e.name, e.trigger or "(by infuse)", e.class_words, e.kind, e.family)
        for e in bank.entries()
    ]
    lines = [f"Bank '{bank.name}' holds no concept yet. Train or import one."]
    if rows:
        lines = [table(("name", "words", "class words", "kind", "family"), rows)]
    lines += [f"Not usable: {error}" for _, error in bank.broken()]
    return "\n".join(lines)


def find_entry(bank: Bank, name: str) -> Entry:
    """A concept by its name, in any case, or by its words; without a name the last one learned.

    Raises:
        BankError: If there is none, with the nearest name.
    """
    entries, wanted = bank.entries(), name.strip()
    if not wanted and entries:
        return entries[-1]
    key = same_key(wanted)
    for entry in entries:
        if key in (same_key(entry.name), same_key(entry.trigger)):
            return entry
    for path, error in bank.broken():
        if same_key(path.stem) == key:
            raise BankError(f"{error} {_others(entries)}")
    if not entries:
        raise BankError(f"Bank '{bank.name}' holds no concept yet. Train or import one first.")
    names = {entry.name: entry.name for entry in entries}
    names |= {word: entry.name for entry in entries for word in (*entry.words, entry.trigger)}
    near = nearest(wanted, names)
    hint = f"Do you mean {names[near]!r}? " if near else ""
    raise BankError(f"Bank '{bank.name}' has no concept {wanted!r}. {hint}{_others(entries)}")


def find_name(bank: Bank, name: str) -> str:
    """What the bank calls a concept found by `find_entry`, or a file too damaged to be listed.

    Raises:
        BankError: If there is none, with the nearest name.
    """
    key = same_key(name.strip())
    damaged = [path.stem for path, _ in bank.broken() if same_key(path.stem) == key]
    return damaged[0] if damaged else find_entry(bank, name).name


def _others(entries: tuple[Entry, ...]) -> str:
    known = listed([entry.name for entry in entries], most=20)
    return f"It holds {known or 'nothing else'}."


def nearest(wanted: str, known: Iterable[str]) -> str | None:
    """The known name most like the wanted one, if any is."""
    names = {same_key(each): each for each in known}
    found = difflib.get_close_matches(same_key(wanted), names, n=1, cutoff=0.5)
    return names[found[0]] if found else None


def described(entry: Entry) -> dict[str, str]:
    """What people are shown of a concept, in order: label and text."""
    rank = f", rank {entry.rank}" if entry.rank else ""
    texts: dict[str, Any] = {
        "name": entry.name,
        "words": entry.phrase,
        "class": entry.class_words,
        "kind": entry.kind,
        "learned": f"{minute(entry.created)} as number {entry.index + 1}",
        "model": f"{entry.facts.get('base_name') or entry.base[:24]} ({entry.family})",
        "method": f"{entry.method}, {len(entry.layers)} layers{rank}",
    }
    texts |= {key: value for key, value in entry.facts.items() if key not in UNTOLD}
    settings = sorted(entry.config.items(), key=lambda item: item[0] not in _FIRST)
    chosen = [f"{key} {as_words(value)}" for key, value in settings if value not in ("", None)]
    texts["settings"] = ", ".join(chosen) or None
    texts["file"] = entry.path.name
    return {key.replace("_", " "): as_words(value) for key, value in texts.items()}


def record(entry: Entry) -> dict[str, object]:
    """What the header of a concept's file holds, for programs."""
    names = ("name", "words", "class_words", "kind", "family", "method", "rank", "alpha", "base")
    found: dict[str, object] = {name: getattr(entry, name) for name in names}
    return found | {
        "order": entry.index,
        "layers": len(entry.layers),
        "created": entry.created,
        "file": entry.path,
        "preview": entry.preview if entry.preview.exists() else None,
        "facts": entry.facts,
        "config": entry.config,
    }


def as_words(value: object) -> str:
    """A setting or fact as people are shown it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {as_words(each)}" for key, each in value.items())
    return "-" if value is None else str(value)


def picture_beside(path: Path) -> Image | None:
    """The picture beside a concept file, if there is one that can be read."""
    from PIL import Image

    try:
        with Image.open(preview_path(path)) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
