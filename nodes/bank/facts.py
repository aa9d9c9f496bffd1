"""What a bank and its concepts say of themselves, and finding a concept by what was typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...cidm_core.as_text import table
from ...cidm_core.errors import BankError
from ...cidm_core.storage.names import same_key
from .folders import nearest

if TYPE_CHECKING:
    from ...cidm_core.bank import Bank
    from ...cidm_core.storage.concept_file import Entry

_SHOWN_SETTINGS = ("steps", "rank", "lr_tokens", "lr_lora", "seed", "resolution_px", "precision")


def listing(bank: Bank) -> str:
    """The bank's concepts as a table, and its broken files with the reason."""
    entries, broken = bank.entries(), bank.broken()
    rows = [(e.name, e.trigger, e.class_words, e.kind) for e in entries]
    lines = [table(("name", "words", "class", "kind"), rows)] if rows else []
    if not rows:
        lines = [f"Bank '{bank.name}' holds no concept yet. Train or import one."]
    for path, error in broken:
        lines.append(f"Not usable: {path.name}: {error}")
    return "\n".join(lines)


def find_entry(bank: Bank, name: str) -> Entry:
    """A concept by its name, in any case, or by its words.

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


def _others(entries: tuple[Entry, ...]) -> str:
    known = ", ".join(entry.name for entry in entries[:20]) or "nothing else"
    return f"It holds {known}{' and more' if len(entries) > 20 else ''}."


def facts_of(entry: Entry) -> dict[str, str]:
    """What is shown of a concept, in order: label and value."""
    facts: dict[str, Any] = {
        "name": entry.name,
        "words": entry.trigger,
        "class": entry.class_words,
        "kind": entry.kind,
        "learned": f"{entry.created[:16].replace('T', ' ')} as number {entry.index + 1}",
        "model": f"{entry.facts.get('base_name') or entry.base[:24]} ({entry.family})",
        "method": f"{entry.method}, {len(entry.layers)} layers, rank {entry.rank}",
    }
    facts |= {key: value for key, value in entry.facts.items() if key != "base_name"}
    chosen = {key: entry.config[key] for key in _SHOWN_SETTINGS if entry.config.get(key)}
    if chosen:
        facts["settings"] = ", ".join(f"{key} {value}" for key, value in chosen.items())
    facts["file"] = entry.path.name
    return {key.replace("_", " "): _plain(value) for key, value in facts.items()}


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return "-" if value is None else str(value)


def preview_of(entry: Entry) -> Any:
    """The concept's picture, if it has one that can be read."""
    from PIL import Image

    try:
        with Image.open(entry.preview) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
