"""Processes that learn together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..errors import TrainingError


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


def share_of(size: int, processes: Processes) -> slice:
    """This process's rows of a batch of this size.

    Raises:
        TrainingError: If it cannot be shared evenly.
    """
    if size % processes.count:
        raise TrainingError(
            f"batch_size {size} cannot be shared by {processes.count} processes. Use a multiple of "
            f"{processes.count}."
        )
    share = size // processes.count
    return slice(processes.rank * share, (processes.rank + 1) * share)


@dataclass(frozen=True)
class Alone:
    """One process."""

    rank: int = 0
    count: int = 1

    def mean_(self, tensor: Tensor) -> None: ...

    def wait(self) -> None: ...
