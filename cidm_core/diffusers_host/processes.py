"""Processes started by `accelerate launch`, as the training loop wants to see them."""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from ..errors import HostError


class LaunchedProcesses:
    """This process and those it was launched with; alone without `accelerate launch`.

    Args:
        device: Where the model is. Every process needs one of its own, unless it is the CPU.

    Raises:
        HostError: If several processes share one GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._state = PartialState(cpu=device.type == "cpu")
        mine = self._state.device or device
        if self.count > 1 and device.type == "cuda" and device.index not in (None, mine.index):
            raise HostError(
                f"Process {self.rank} of {self.count} has its model on {device}, but {mine} is its "
                f"own. Load the model with device='{mine}'."
            )

    @property
    def rank(self) -> int:
        return self._state.process_index

    @property
    def count(self) -> int:
        return self._state.num_processes

    def mean_(self, tensor: Tensor) -> None:
        if self.count > 1:
            tensor.copy_(reduce(tensor, "mean"))  # type: ignore[arg-type] - a tensor gives a tensor

    def wait(self) -> None:
        if self.count > 1:
            self._state.wait_for_everyone()
