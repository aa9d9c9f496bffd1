"""Text settings in several parts, with commas, semicolons or line ends between them.

What holds one of these signs or an equals sign itself stands in double quotes, doubled inside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..catalogue import nearest
from ..concept import Concept
from .concept_weights import unreadable

QUOTED = r'"(?:[^"]|"")*"'
_PART = re.compile(rf"(?:{QUOTED}|[^,;\n])+")
_SIGNS = re.compile(r'[,;="]')


def parts_of(text: str) -> list[str]:
    """The parts of a text that are not empty."""
    return [part for found in _PART.findall(text) if (part := found.strip())]


def quoted(name: str) -> str:
    """A concept's name as such a text has it: in quotes where it holds its signs."""
    return '"' + name.replace('"', '""') + '"' if _SIGNS.search(name) else name


def bare(side: str) -> str:
    """One side of a part, without its quotes."""
    side = side.strip()
    return side[1:-1].replace('""', '"') if re.fullmatch(QUOTED, side) else side


def unknown(setting: str, name: str, bank: Mapping[str, Concept]) -> str:
    """What to tell of a concept that a setting names and the bank does not have."""
    names = list(bank)
    near = nearest(name, names)
    if meant := [each for each in names if each != quoted(each) and name in each]:
        hint = f"Do you mean {meant[0]!r}? Write {quoted(meant[0])}, in its quotes."
    elif near:
        hint = f"Do you mean {near!r}?"
    else:
        hint = f"It has {', '.join(names) or 'none yet'}."
    told = f"{setting} asks for the concept {name!r}, which the bank does not have. {hint}"
    return f"{told} {unreadable(bank)}".strip()
