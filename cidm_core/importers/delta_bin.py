"""Custom Diffusion of the repository's diffusers scripts: `delta.bin`, also of SDXL."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import BankError
from .custom_diffusion import Artifact, matrix, plain

UNET, WORDS = "unet", "modifier_token"


def matches(table: Mapping[str, object]) -> bool:
    """Whether a table is a `delta.bin`."""
    held = table.get(UNET)
    return isinstance(held, Mapping) and any(
        isinstance(key, str)
        and ".attn2." in key
        and key.endswith((".weight", ".bias"))
        and "lora" not in key
        for key in held
    )


def read(table: Mapping[str, object], origin: str) -> Artifact:
    """What a table holds.

    Raises:
        BankError: If it is malformed.
    """
    unet, words = table[UNET], table.get(WORDS, {})
    if not isinstance(unet, Mapping) or not isinstance(words, Mapping):
        raise BankError(f"{origin}: {WORDS} is no table of words. Get the file again.")
    weights = {
        str(key): matrix(value, str(key), origin)
        for key, value in unet.items()
        if ".attn2." in str(key)
    }
    rows = {str(word): _row(value, str(word), origin) for word, value in words.items()}
    others = {"unet other": len(unet) - len(weights)}
    for key, value in table.items():
        if key not in (UNET, WORDS):
            others[str(key)[:40]] = len(value) if isinstance(value, Mapping) else 0
    return Artifact(weights, rows, left_out={part: n for part, n in others.items() if n})


def _row(value: object, word: str, origin: str) -> tuple[Tensor, ...]:
    """The vector of a word; a list of two in SDXL, one for each text encoder."""
    each = value if isinstance(value, list | tuple) else [value]
    return tuple(plain(row, word, origin).flatten() for row in each)
