"""The texts of a merge: what every concept has to keep, and what is held to the base model.

Custom Diffusion's two official code bases choose rows differently; docs/EQUATIONS.md#merging.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..concept import Subject
from ..errors import CidmError
from ..families import Family
from ..training.caption_files import clean, read_text

_FOLDER = Path(__file__).parent
_MAX_BYTES = 8_000_000
_OPENING = re.compile(r"(?:\w{1,4} )?photo of an? ", re.IGNORECASE)
_AFTER_OPENING = 4


def shipped_captions(family: Family) -> list[str]:
    """Our own ordinary captions, for models of a family."""
    return read_captions(_FOLDER / family.captions)


def read_captions(path: str | os.PathLike[str]) -> list[str]:
    """Ordinary captions, one a line; empty lines are passed over.

    Raises:
        CidmError: If the file cannot be read, or holds none.
    """
    return captions_of(read_text(path, _MAX_BYTES).splitlines(), f"'{path}'")


def captions_of(lines: Sequence[str], where: str) -> list[str]:
    """The captions in some lines.

    Raises:
        CidmError: If there is none.
    """
    found = [clean(line, f"Line {i} of {where}") for i, line in enumerate(lines, start=1)]
    if not any(found):
        raise CidmError(f"{where} holds no caption. Give ordinary captions, one a line.")
    return [line for line in found if line]


def target_texts(subject: Subject, rows: str) -> tuple[str, str]:
    """The two texts in which a subject has to stay as it was taught.

    Args:
        subject: What it is about.
        rows: One of `settings.ROWS`.
    """
    phrase = " ".join(subject.phrase.split())
    if subject.kind == "style":
        return phrase, f"painting in the style of {phrase}"
    return phrase, f"a photo of {phrase}" if rows == "compvis" else f"photo of a {phrase}"


def first_token(text: str) -> int:
    """The place of the first token that counts: 1, behind the start.

    Of a text that begins with "photo of a" or "a photo of a" three more are passed over.
    """
    return _AFTER_OPENING if _OPENING.match(text) else 1
