"""Custom Diffusion of diffusers: `pytorch_custom_diffusion_weights`, and a file for each word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import BankError, CidmError
from .custom_diffusion import Artifact, plain
from .tables import load_table
from .textual_inversion import vectors_of

STEM = "pytorch_custom_diffusion_weights"
CLIPS = ("clip_l", "clip_g")  # what a word's file calls the two text encoders of SDXL
_ENDINGS = (".safetensors", ".bin", ".pt")
_MOST_BYTES = 2**20  # of a word's file
_KEY = re.compile(
    r"(?:unet\.)?(.+\.attn2)\.processor\.(to_[qkv]|to_out)_custom_diffusion\.((?:0\.)?(?:weight|bias))"
)
_PLACEHOLDER = re.compile(r".+\.processor")


def matches(table: Mapping[str, object]) -> bool:
    """Whether a table is of diffusers' own Custom Diffusion."""
    return any("_custom_diffusion." in str(key) for key in table)


def weights_file(folder: Path) -> Path:
    """The weights in a folder that diffusers' training script wrote.

    Raises:
        BankError: If there are none.
    """
    for ending in _ENDINGS:
        if (path := folder / f"{STEM}{ending}").is_file():
            return path
    raise BankError(
        f"The folder '{folder}' has no {STEM}.safetensors or .bin. Give the folder that diffusers' "
        "Custom Diffusion script wrote, or a file."
    )


def read(table: Mapping[str, object], path: Path) -> Artifact:
    """What a table holds, and the words beside its file.

    Raises:
        CidmError: If it is malformed, or a word's file is.
    """
    weights: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    others = 0
    for key in table:
        if (match := _KEY.fullmatch(str(key))) is not None:
            value = plain(table[key], str(key), path.name)
            weights[f"{match[1]}.{match[2]}.{match[3]}"] = value
        elif not _PLACEHOLDER.fullmatch(str(key)):  # of a layer that did not learn
            others += 1
    return Artifact(weights, _words_beside(path), left_out={"other": others} if others else {})


def _words_beside(path: Path) -> dict[str, tuple[Tensor, ...]]:
    """The words in files like `<new1>.bin` beside the weights.

    Under their usual name the weights have a folder of their own, where `new1.safetensors` is a
    word as well.
    """
    found: dict[str, tuple[Tensor, ...]] = {}
    for each in sorted(path.parent.iterdir(), key=lambda file: file.name):
        named = each.name.startswith("<")
        if each == path or each.suffix not in _ENDINGS or not (named or path.stem == STEM):
            continue
        if not each.is_file() or each.stat().st_size > _MOST_BYTES:
            continue
        try:
            rows = _vectors(each)
        except CidmError:
            if named:
                raise
            continue  # not all that lies there needs to be a word
        if named and not rows:
            raise BankError(f"{each.name} holds no vector of a word. Get it again.")
        found |= rows
    return found


def _vectors(path: Path) -> dict[str, tuple[Tensor, ...]]:
    """Vectors by word, as diffusers and ComfyUI read them; none of what has no word's form."""
    vectors = vectors_of(load_table(path)) or {}
    if any(len(rows) != 1 for rows in vectors.values()):
        return {}
    if set(vectors) == set(CLIPS):
        return {f"<{path.stem.strip('<>')}>": tuple(vectors[clip][0] for clip in CLIPS)}
    named = {word: rows for word, rows in vectors.items() if word.startswith("<")}
    return {word: (rows[0],) for word, rows in named.items()}
