"""Pickled weights, read so that nothing in the file can run."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import torch

from ..errors import CidmError

logger = logging.getLogger(__name__)

# What training leaves of the standard library; by the rest of it a pickle can run programs, and
# of such a file no copy is to be made.
_LEFT = {"_codecs", "argparse", "collections", "copyreg", "datetime", "enum", "pathlib", "random"}
_RUNNING = (sys.stdlib_module_names | {"__builtin__"}) - _LEFT
# Without the file's own name: whoever made the file chose that too.
_PLAIN_COPY = (
    " Or, if you trust who made it, copy its tensors where the program that wrote it is installed: "
    "python -c \"import torch; f = torch.load('FILE', map_location='cpu', weights_only=False); "
    "torch.save({'state_dict': f['state_dict']}, 'plain.ckpt')\""
)


def load_pickle(path: Path, error: type[CidmError], advice: str, *, mmap: bool = False) -> Any:
    """What a file of plain tensors holds.

    Args:
        path: The file.
        error: Class of the error to raise.
        advice: What to do about a file that is refused, as a sentence.
        mmap: Leave the tensors on the disk until they are used; their checksums are then not read.

    Raises:
        CidmError: (as `error`) If it cannot be read, is damaged or holds more than plain tensors,
            or PyTorch is older than 2.6, where `weights_only=True` can be got around
            (CVE-2025-32434).
    """
    version = torch.__version__.split("+")[0].split(".")
    if (int(version[0]), int(version[1])) < (2, 6):
        raise error(
            f"torch {torch.__version__} cannot read '{path.name}' safely. Update to torch 2.6."
        )
    try:
        # Textual inversion's first code, and what came of it, keeps vectors in one of these. To
        # fill it runs nothing of the file.
        with torch.serialization.safe_globals([torch.nn.ParameterDict]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as caught:
        reason = caught.strerror or caught
        raise error(f"{path.name}: cannot be read ({reason}). Check the path.") from caught
    except Exception as caught:  # whatever a crafted or cut file makes the unpickler raise
        logger.debug("weights-only reading of %s: %s", path, caught)
        # Training programs leave classes beside the tensors; the unpickler's refusal names one.
        found = re.search(r"GLOBAL ([\w.]+)", str(caught))
        if found is None:
            held, way = "is damaged, or holds more than plain tensors", ""
        else:
            held = f"holds more than plain tensors ({found[1]})"
            way = "" if found[1].partition(".")[0] in _RUNNING else _PLAIN_COPY
        raise error(
            f"{path.name} {held}. Such a file can run programs, so it was not opened. {advice}{way}"
        ) from caught
