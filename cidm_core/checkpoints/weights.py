"""Reading weight files one tensor at a time, without running anything that is in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import HostError
from .pickles import load_pickle

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
GET_AGAIN = "Get the file again and compare its size with the source."
_SCALES = (".scale_weight", ".weight_scale")  # ComfyUI's names, the older one first
_SCALE_TYPES = (torch.float32, torch.float16, torch.bfloat16)
_HEADS = {  # first bytes of what is often found under a checkpoint's name
    b"version https://git-lfs": "It is a Git LFS pointer; run `git lfs pull` in its folder.",
    b"<!": "It is a web page; download the file itself, not the page about it.",
    b"<html": "It is a web page; download the file itself, not the page about it.",
    b"PK": "It is a PyTorch pickle; give it the ending .ckpt.",
    b"\x80": "It is a PyTorch pickle; give it the ending .ckpt.",
    b"GGUF": "It is a GGUF file; get the .safetensors edition of the model.",
}


@dataclass(frozen=True)
class Weights:
    """Named tensors of one or more files: shapes known at once, values read on demand.

    `notes` are the texts in a file's header.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    notes: Mapping[str, str] = field(default_factory=dict[str, str])


def open_weights(path: Path) -> Weights:
    """Open a `.safetensors` file, or a pickle of plain tensors.

    Raises:
        HostError: If the file is missing, empty, cut off, of another kind, or a pickle that
            holds more than tensors.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    if size == 0:
        raise HostError(f"{path} is empty (0 bytes). {GET_AGAIN}")
    if path.suffix in PICKLES and not is_safetensors(path):
        return _scaled(_open_pickle(path))
    if path.suffix in (".safetensors", *PICKLES):
        return _scaled(_open_safetensors(path.name, {path}))
    raise HostError(
        f"{path.name} ends in {path.suffix or 'nothing'}; a model file ends in .safetensors "
        "(or .ckpt). Get the .safetensors edition of the model."
    )


def is_safetensors(path: Path) -> bool:
    """Whether a file is one of safetensors by its first bytes, whatever it is called."""
    start = _head(path)[:9]
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and 8 + length <= path.stat().st_size


def open_sharded(index: Path) -> Weights:
    """Open the files named by a `*.safetensors.index.json`."""
    try:
        names: Iterable[str] = json.loads(index.read_text("utf-8"))["weight_map"].values()
        # Only names: an index must not lead out of its folder.
        files = {index.parent / Path(name).name for name in names}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise HostError(f"{index} is no list of weight files ({error}). {GET_AGAIN}") from error
    return _scaled(_open_safetensors(index.name, files))


def _open_safetensors(name: str, files: set[Path]) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {}
    homes: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for path in sorted(files):
        try:
            handle: Any = safe_open(path, framework="pt")  # pyright: ignore[reportUnknownVariableType]
            notes |= handle.metadata() or {}
            for key in handle.keys():  # noqa: SIM118 - a handle is no mapping
                shapes[key] = tuple(handle.get_slice(key).get_shape())
                homes[key] = handle
        except (SafetensorError, OSError) as error:
            raise HostError(
                f"{path} is no whole safetensors file ({error}). {_hint(path)}"
            ) from error

    def read(key: str) -> Tensor:
        return homes[key].get_tensor(key)

    return Weights(name, shapes, read, notes)


def _scaled(weights: Weights) -> Weights:
    """Values as they are meant, where each weight of 8 bits has a scale beside it."""
    scales = {
        f"{key.removesuffix(ending)}.weight": key
        for ending in _SCALES
        for key in weights.shapes
        if key.endswith(ending)
    }

    def read(key: str) -> Tensor:
        tensor = weights.read(key)
        if key not in scales:
            return tensor
        scale = weights.read(scales[key])
        one = scale.numel() in (1, len(tensor)) and scale.dtype in _SCALE_TYPES
        if not one or not tensor.is_floating_point():
            raise HostError(quantised(weights.name, key, tensor))
        return tensor.float() * scale.float().reshape(-1, *[1] * (tensor.ndim - 1))

    return replace(weights, read=read) if scales else weights


def quantised(name: str, key: str, tensor: Tensor) -> str:
    """What to say of a tensor whose numbers are packed in a way that is not read here."""
    kind = str(tensor.dtype).removeprefix("torch.")
    return (
        f"{name} is quantised ({key!r} holds {kind}). Get its edition in fp16 or bf16, or one in "
        "fp8 with a scale for each weight."
    )


def _hint(path: Path) -> str:
    head = _head(path).lstrip()
    return next((hint for start, hint in _HEADS.items() if head.startswith(start)), GET_AGAIN)


def _head(path: Path) -> bytes:
    """The first bytes of a file, none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(32)
    except OSError:
        return b""


def _open_pickle(path: Path) -> Weights:
    advice = "Get the .safetensors edition of the model."
    # The older format of torch.save cannot be mapped.
    found = load_pickle(path, HostError, advice, mmap=_head(path).startswith(b"PK"))
    if isinstance(found, dict):
        found = found.get("state_dict", found)
    entries = found.items() if isinstance(found, dict) else ()
    tensors = {str(key): value for key, value in entries if isinstance(value, Tensor)}
    return Weights(path.name, {k: tuple(v.shape) for k, v in tensors.items()}, tensors.__getitem__)
