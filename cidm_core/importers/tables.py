"""What a foreign file holds: named tensors, of safetensors or of a pickle of plain ones.

Which of the two it is is told by its first bytes: programs write safetensors under `.bin` as well.
What is called `.safetensors` is never read as a pickle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ..checkpoints.pickles import load_pickle
from ..checkpoints.weights import Weights, is_safetensors, open_weights
from ..errors import BankError
from ..storage.tensor_file import SUFFIX

MAX_BYTES = 16 * 2**30  # a whole model in float32 with its averaged copy
_AT_ONCE = 2**30  # larger pickles stay on the disk until their tensors are used


def load_table(path: Path) -> object:
    """What a file of plain tensors holds, none of it run.

    Raises:
        BankError: If it is missing, too large, damaged or holds more.
        HostError: If it is safetensors, and damaged, or only called so.
    """
    if not path.is_file():
        raise BankError(f"{path.name}: cannot be read (no such file). Check the path.")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise BankError(
            f"{path.name} is larger than {MAX_BYTES} bytes; concepts are not. Check it."
        )
    if path.suffix.lower() == SUFFIX or is_safetensors(path):
        return _Tensors(open_weights(path))
    with path.open("rb") as file:
        in_zip = file.read(2) == b"PK"  # only that can be mapped
    mmap = in_zip and size > _AT_ONCE
    return load_pickle(path, BankError, "Get its .safetensors edition.", mmap=mmap)


class _Tensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._weights.shapes:
            raise KeyError(key)
        return self._weights.read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights.shapes)

    def __len__(self) -> int:
        return len(self._weights.shapes)
