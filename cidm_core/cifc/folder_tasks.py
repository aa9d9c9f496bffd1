"""A user's folder of photos, captions and prompts as a suite (under construction)."""

from __future__ import annotations

from pathlib import Path

from ..errors import CidmError
from .suite import Suite


def folder_suite(path: Path) -> Suite:
    """Read a folder."""
    raise CidmError(f"'{path}' cannot be read yet.")
