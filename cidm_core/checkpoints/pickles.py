"""What must hold before pickled weights are read."""

from __future__ import annotations

import torch

from ..errors import CidmError


def require_safe_torch(origin: str, error: type[CidmError]) -> None:
    """Refuse where `weights_only=True` does not keep a crafted file from running code.

    Args:
        origin: What is to be read, for the message.
        error: Raised if this PyTorch is older than 2.6 (CVE-2025-32434).
    """
    version = torch.__version__.split("+")[0].split(".")
    if (int(version[0]), int(version[1])) < (2, 6):
        raise error(
            f"torch {torch.__version__} cannot read '{origin}' safely. Update to torch 2.6."
        )
