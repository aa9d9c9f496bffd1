"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import CidmError


def user_path(given: str | os.PathLike[str]) -> Path:
    """The path, with `~` as the home folder: a shell leaves it to us in `--bank=~/mine`.

    Raises:
        CidmError: If `~name` is nobody's home.
    """
    found = os.path.expanduser(given)
    if found.startswith("~"):
        raise CidmError(
            f"{Path(found).parts[0]!r} is nobody's home folder. Give the whole path; a folder of "
            f"that very name is {os.path.join('.', found)!r}."
        )
    return Path(found)
