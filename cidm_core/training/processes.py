"""What the loop must know of the processes that learn together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Processes(Protocol):
    """What the loop must know of the processes that learn together."""

    @property
    def rank(self) -> int: ...

    @property
    def count(self) -> int: ...

    def mean_(self, tensor: Tensor) -> None:
        """Replace the tensor by its mean over all processes."""
        ...

    def wait(self) -> None:
        """Return when all processes have come here."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process."""

    rank: int = 0
    count: int = 1

    def mean_(self, tensor: Tensor) -> None: ...

    def wait(self) -> None: ...
