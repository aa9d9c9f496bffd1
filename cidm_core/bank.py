"""The bank: a folder of concepts in learning order, one self-describing file each.

Listing reads headers only. Writers take a lock and put whole files in place, so that two of them,
a crash or a full disk lose nothing; a bank is copied with `cp` and a concept removed with `rm`.
One broken file never hides the others. What is replaced stays as a version (`storage.kept`), what
is removed goes to the trash (`storage.trash`); `upkeep` brings both back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from .as_text import listed
from .calls import Name
from .concept import Concept
from .errors import BankError
from .paths import user_path
from .storage.atomic import make_folder, sweep
from .storage.compatibility import BaseModel, check_fit, check_new
from .storage.concept_file import read_concept
from .storage.listing import Listing
from .storage.locks import locked
from .storage.moves import finish_moves
from .storage.names import clean_name, file_stem, same_key
from .storage.placing import place_concept
from .storage.previews import as_preview
from .storage.record import Entry, concept_in
from .storage.stock_lora import write_lora
from .storage.tensor_file import SUFFIX
from .storage.trash import Removed, discard

if TYPE_CHECKING:
    from PIL.Image import Image

LOCK_NAME = ".bank.lock"
LOCK_SECONDS = 60.0


class MissingConceptError(BankError, KeyError):
    """The bank has no concept of that name."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show its repr


class Bank(Mapping[str, Concept]):
    """A folder of concepts: a mapping from name to `Concept`, in learning order.

    Looking up a name reads and verifies the whole file. The folder may not exist yet; the first
    `add` makes it. Changes made by others are seen at the next look.

    Args:
        folder: The bank's folder.

    Raises:
        BankError: If the path is a file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = user_path(folder)
        self._listing = Listing(self.path)
        if self.path.exists() and not self.path.is_dir():
            raise BankError(f"'{self.path}' is a file; a bank is a folder. Give a folder's path.")

    def __repr__(self) -> str:
        return f"Bank({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The folder's own name."""
        return Path(os.path.abspath(self.path)).name

    @property
    def stored(self) -> Bank:
        """The bank as it is in its folder; of a view (`upkeep.views`) another object."""
        return self

    def entries(self) -> tuple[Entry, ...]:
        """What the headers of all sound files tell, in learning order; no tensor is read."""
        return self._listing.read().entries

    def broken(self) -> tuple[tuple[Path, BankError], ...]:
        """Files that cannot be listed, each with the reason."""
        return self._listing.read().broken

    def callers(self) -> dict[Name, str]:
        """Whatever calls a concept in a prompt, and the name of that concept."""
        return {name: entry.name for entry in self.entries() for name in entry.names}

    def __len__(self) -> int:
        return len(self.entries())

    def __iter__(self) -> Iterator[str]:
        return iter([entry.name for entry in self.entries()])

    def __contains__(self, name: object) -> bool:
        return any(entry.name == name for entry in self.entries())

    def __getitem__(self, name: str) -> Concept:
        """Read and verify one concept.

        Raises:
            BankError: If its file is damaged; a `MissingConceptError` if there is none.
        """
        path, error = self.find(name)
        try:
            if error is not None:
                raise error
            return read_concept(path)
        except BankError as caught:
            others = len(self.entries()) - (error is None)
            note = f" The other {others} concepts can still be used." if others else ""
            raise BankError(f"{caught}{note}") from caught

    def add(
        self,
        concept: Concept,
        preview: Image | None = None,
        *,
        allow_other_base: bool = False,
        replaces: Entry | None = None,
    ) -> Concept:
        """Store a concept as the last one learned: completely, or not at all.

        Args:
            concept: What to store; `index` and `created` are set here.
            preview: A picture to put beside it.
            allow_other_base: Accept a concept of another model of the same family.
            replaces: The concept whose place in the order and whose file it takes, in one step;
                that one is kept as a version. If it was removed meanwhile, there is no loss.

        Returns:
            The concept as a later look-up gives it.

        Raises:
            BankError: If its name or a word is taken, the one it replaces was changed meanwhile,
                the values cannot be stored, or the system refuses to write.
            FamilyError: If it does not fit the bank's other concepts.
        """
        picture = None if preview is None else as_preview(preview)
        concept = replace(concept, name=clean_name(concept.name))
        with self.writing():
            entries = self.entries()
            old = _still(replaces, entries) if replaces else None
            entries = [entry for entry in entries if entry is not old]
            check_new(concept, entries)
            check_fit(entries, concept, allow_other_base=allow_other_base)
            target = old.path if old else self.file_for(concept.name)
            last = max((entry.index for entry in entries), default=-1)
            index = old.index if old else last + 1
            created = datetime.now(timezone.utc).isoformat(timespec="seconds")
            return place_concept(replace(concept, index=index, created=created), target, picture)

    def remove(self, name: str) -> Removed:
        """Put a concept's file, picture and versions into the bank's trash.

        Args:
            name: The concept's; of a file too damaged to be listed its own, without the ending.

        Returns:
            What went there, for `upkeep.trash.restore`.

        Raises:
            BankError: If there is none of that name, or the system refuses.
        """
        with self.writing():
            path, _ = self.find(name)
            return discard(self.path, path)

    def export(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write a concept's weights as a plain LoRA, without tokens, outside the bank.

        Raises:
            BankError: As `check_outside`, or if the system refuses.
        """
        target = user_path(path)
        self.check_outside(target)
        write_lora(self[name], target)

    def check_outside(self, target: Path) -> None:
        """Raise a `BankError` if a file for other programs lies in the bank or is a concept."""
        if os.path.realpath(target.parent) == os.path.realpath(self.path):
            raise BankError(
                f"'{target}' lies in the bank itself and would be taken for a concept. "
                "Export to another folder."
            )
        if there := concept_in(target):
            raise BankError(f"'{target}' is the concept {there!r}. Export to another file.")

    def check(self, model: BaseModel, *, allow_other_base: bool = False) -> None:
        """Make sure that every concept fits a model, as far as the headers tell (`check_fit`).

        Raises:
            FamilyError: If one does not, naming both sides.
        """
        check_fit(self.entries(), model, allow_other_base=allow_other_base)

    def file_for(self, name: str) -> Path:
        """The file that a new concept of this name will have.

        Raises:
            BankError: If another file has that place: a plain LoRA, or a concept whose name differs
                in characters that file names cannot have.
        """
        target = self.path / f"{file_stem(name)}{SUFFIX}"
        if taken := self._taken().get(same_key(target.name)):
            raise BankError(
                f"The name {name!r} needs the file '{taken}', which is there already. "
                "Choose another name, or remove that file first."
            )
        return target

    def free_name(self, wanted: str) -> str:
        """`wanted`, or `wanted-2`, `wanted-3` ...: the first that `add` would accept.

        Raises:
            BankError: If `wanted` is no possible name.
        """
        names, files = {same_key(name) for name in self}, self._taken()
        name, count = clean_name(wanted), 1
        while same_key(name) in names or same_key(f"{file_stem(name)}{SUFFIX}") in files:
            count += 1
            name = f"{clean_name(wanted)}-{count}"
        return name

    def find(self, name: str) -> tuple[Path, BankError | None]:
        """The file of a concept, and why it cannot be used, if so.

        Raises:
            BankError: A `MissingConceptError` if there is none.
        """
        entries, broken = self._listing.read()
        for entry in entries:
            if entry.name == name:
                return entry.path, None
        with contextlib.suppress(BankError):  # a name that no file can have
            stem = same_key(file_stem(name))
            for path, error in broken:
                if same_key(path.stem) == stem:
                    return path, error
        known = listed([entry.name for entry in entries], most=20) or "nothing yet"
        raise MissingConceptError(
            f"Bank '{self.name}' has no concept {name!r}; it holds {known}. Train it, or correct "
            "the name."
        )

    def _taken(self) -> dict[str, str]:
        """Whatever lies in the folder, by the key that tells file names apart."""
        with contextlib.suppress(FileNotFoundError):  # the first `add` makes it
            return {same_key(name): name for name in os.listdir(self.path)}
        return {}

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """Be the only writer; make the folder, and finish or clear what dead writers left.

        Raises:
            BankError: If another writes for too long, or the system refuses.
        """
        make_folder(self.path, error=BankError)
        busy = BankError(
            f"Another program has been writing to bank '{self.name}' for {LOCK_SECONDS:.0f} "
            "seconds. Wait for it or end it, then try again."
        )
        with locked(self.path / LOCK_NAME, busy, seconds=LOCK_SECONDS):
            with contextlib.suppress(OSError):
                sweep(self.path)
            finish_moves(self.path)
            yield


def _still(wanted: Entry, entries: Sequence[Entry]) -> Entry | None:
    """A concept that is to be replaced; None if it was removed meanwhile."""
    found = next((entry for entry in entries if entry.name == wanted.name), None)
    if found and found != wanted:
        raise BankError(
            f"Concept {wanted.name!r} was changed by another program meanwhile, and stays as "
            "it is now. Look at it; to replace that one, do the same again."
        )
    return found
