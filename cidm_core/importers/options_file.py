"""Options files of other projects: read as plain data, entry by entry, nothing passed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import CidmError

_MAX_BYTES = 256_000
_MAX_DEPTH = 20


class Options:
    """The file's entries by dotted name; what nobody took is reported at the end."""

    def __init__(self, tree: Mapping[str, Any], path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.left = dict(_leaves(tree, ""))

    def take(self, name: str, default: Any = None) -> Any:
        """The entry as it stands; the default if there is none or it is null."""
        value = self.left.pop(name, default)
        return default if value is None else value

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self.take(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, value, "a text")
        return value.strip()

    def number(self, name: str, default: float | None = None) -> float | None:
        """A number; YAML reads `1e-4` as text, so text that is one counts."""
        value = self.take(name, default)
        if value is None:
            return None
        try:
            if isinstance(value, bool):
                raise ValueError
            return float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise self.error(name, value, "a number") from error

    def whole(self, name: str, default: int | None = None) -> int | None:
        """A number without a fraction."""
        value = self.number(name, default)
        if value is not None and not value.is_integer():
            raise self.error(name, value, "a whole number")
        return None if value is None else int(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def error(self, name: str, found: object, expected: str) -> CidmError:
        """What to raise about an entry."""
        seen = "is missing" if found is None else f"is {found!r:.60}"
        return CidmError(f"Options '{self.path}': {name} {seen}; expected {expected}. Correct it.")

    def closing_notes(self, without_counterpart: tuple[str, ...]) -> tuple[str, ...]:
        """All notes, with the entries nobody took; some of them are known to mean nothing here."""
        without = [p for p in without_counterpart if any(_is_under(k, (p,)) for k in self.left)]
        unknown = [k for k in self.left if not _is_under(k, without_counterpart)]
        if without:
            self.notes.append(f"Without counterpart here, left out: {', '.join(without)}.")
        if unknown:
            self.notes.append(f"Unknown, left out: {', '.join(unknown)}.")
        return tuple(self.notes)


def _is_under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _leaves(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and key != "replace_mapping":
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def load(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        CidmError: If the file cannot be read, is no YAML mapping, or holds tags or aliases.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CidmError(f"Options '{path}' cannot be read ({error.strerror}).") from error
    if len(data) > _MAX_BYTES:
        raise CidmError(f"Options '{path}' have over {_MAX_BYTES // 1000} kB; such files have 2.")
    try:
        _refuse_tricks(data, path)
        tree = yaml.safe_load(data)
    except CidmError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CidmError(
            f"Options '{path}' are no plain YAML ({reason}). Correct it there."
        ) from error
    if not isinstance(tree, dict):
        raise CidmError(f"Options '{path}' hold no entries such as 'datasets:' and 'models:'.")
    return tree


def _refuse_tricks(data: bytes, path: Path) -> None:
    """Aliases can grow without bound (and merge keys do), deep nesting exhausts the stack."""
    depth = 0
    for event in yaml.parse(data, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _MAX_DEPTH:
            found = "an alias" if depth <= _MAX_DEPTH else f"over {_MAX_DEPTH} levels"
            raise CidmError(
                f"Options '{path}', line {event.start_mark.line + 1}: {found}; options files have "
                "neither. Write the values out."
            )
