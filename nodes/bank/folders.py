"""Bank folders by name: which there are, where a new one goes, when one has changed."""

from __future__ import annotations

from pathlib import Path

from ...cidm_core.bank import Bank
from ...cidm_core.catalogue import listing, nearest
from ...cidm_core.errors import BankError
from ...cidm_core.merging.banks import beside
from ...cidm_core.storage.names import file_stem
from ..host import comfy as host

NEW = "(new bank)"


def bank_names() -> list[str]:
    """Names of all bank folders, sorted."""
    return sorted(bank_folders())


def bank_folder(chosen: str, new_name: str = "") -> Path:
    """The folder of a bank; a new one need not exist yet.

    Raises:
        BankError: If no bank of that name is there, two are named, or the name cannot be a
            folder's.
    """
    known = bank_folders()
    name = new_name.strip()
    if chosen == NEW:
        if not name:
            raise BankError(
                "The new bank has no name. Write one into new_name, such as 'my-concepts'."
            )
        return known.get(name) or host.bank_roots()[0] / _safe(name)
    if name not in ("", chosen):
        raise BankError(
            f"Two banks are named: {chosen!r} in bank and {name!r} in new_name. Empty new_name, or "
            f"choose {NEW} in bank to use {name!r}."
        )
    if chosen in known:
        return known[chosen]
    there = f"There are {', '.join(known)}." if known else "There is none yet."
    hint = nearest(chosen, known)
    raise BankError(
        f"There is no bank {chosen!r}{f'; do you mean {hint!r}?' if hint else '.'} {there} "
        f"Choose one, or {NEW} and a name in new_name."
    )


def other_bank(bank: Bank, name: str, what: str) -> Bank:
    """The bank of that name, which need not exist yet; without a name `<bank>-<what>` beside it."""
    return Bank(bank_folder(NEW, name)) if name.strip() else beside(bank, what)


def contents(bank: Bank) -> str:
    """What a bank holds; of one without a folder also what name is like it."""
    if bank.path.is_dir():
        return listing(bank)
    near = nearest(bank.name, bank_folders())
    hint = f" Or do you mean {near!r}?" if near else ""
    return f"There is no bank {bank.name!r} yet; learning or importing a concept makes it.{hint}"


def _safe(name: str) -> str:
    """The name, if it can be a folder's on every system."""
    if file_stem(name) != name or name == NEW:
        raise BankError(
            f"A bank cannot be called {name!r}. Use letters, digits, spaces, - and _, "
            f"for example {file_stem(name.replace('..', '').strip('./ ') or 'my-concepts')!r}."
        )
    return name


def bank_folders() -> dict[str, Path]:
    """Sub-folders of the bank roots; of two with one name the first root's counts."""
    found: dict[str, Path] = {}
    # One of extra_model_paths.yaml may not be there.
    for root in filter(Path.is_dir, host.bank_roots()):
        for path in sorted(root.glob("[!.]*")):
            if path.is_dir():
                found.setdefault(path.name, path)
    return found
