"""Values as text: as JSON can hold them, as aligned columns, as a list in a sentence."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import lru_cache


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A head, then one line per row; columns of numbers stand to the right.

    Floats get three decimals, None becomes a dash.
    """
    texts = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[k]) for row in texts) for k in range(len(head))]
    right = [all(isinstance(row[k], int | float | None) for row in rows) for k in range(len(head))]
    lines = [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in texts
    ]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def with_article(name: str) -> str:
    """A name behind "a" or, before a vowel, "an"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first of many names, for messages; "" if there are none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def minute(iso: str) -> str:
    """An ISO time to the minute, as people read it: "2026-11-30 12:10"."""
    return iso[:16].replace("T", " ")


@lru_cache(maxsize=10_000)
def warn_once(logger: logging.Logger, text: str) -> None:
    """Log a warning about something that is looked at again and again."""
    logger.warning("%s", text)


def jsonable(value: object) -> object:
    """A value as JSON can hold it: NaN and infinity become null, paths and the like text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(each) for key, each in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [jsonable(each) for each in value]
    if is_dataclass(value):
        return jsonable(vars(value))
    return str(value)
