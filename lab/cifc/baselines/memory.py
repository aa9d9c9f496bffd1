"""What a baseline keeps beside the bank: tensors in one file, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from cidm_core.errors import BankError
from cidm_core.storage.atomic import make_folder, write_atomic
from cidm_core.storage.tensor_file import pack, read, unpack

_FOLDER = ".memory"


@dataclass(frozen=True)
class Remembered:
    """Tensors by name, and the tasks they are of, in learning order."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class BaselineMemory:
    """A safetensors file in a hidden folder of the bank, where no program takes it for a concept.

    Args:
        bank: The bank's folder. Not shown by repr, so that runs do not depend on it.
        name: Whose memory it is.
    """

    bank: Path = field(repr=False)
    name: str

    @property
    def path(self) -> Path:
        return self.bank / _FOLDER / f"{self.name}.safetensors"

    def read(self) -> Remembered:
        """What was written last; nothing if there is no file.

        Raises:
            BankError: If the file is damaged.
        """
        if not self.path.exists():
            return Remembered()
        tensors, metadata = unpack(read(self.path), self.path.name)
        return Remembered(tensors, tuple(json.loads(metadata["tasks"])))

    def write(self, tensors: Mapping[str, Tensor], tasks: Sequence[str]) -> None:
        """Replace what was there, in one step.

        Raises:
            BankError: If the system refuses; the old content is then still there.
        """
        make_folder(self.path.parent, error=BankError)
        data = pack(tensors, {"tasks": json.dumps(list(tasks))})
        write_atomic(self.path, data, error=BankError)
