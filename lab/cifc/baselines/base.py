"""What all baselines share: tokens, factors and denoising loss of CIDM, and a weighted idea."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.errors import TrainingError
from cidm_core.methods.base import Host, Task
from cidm_core.methods.cidm import Cidm, CidmConfig
from cidm_core.updates import LowRank

from .memory import BaselineMemory


class Baseline(Cidm):
    """CIDM without R1 and R2, whatever the settings say, plus a weighted idea.

    Args:
        task: What is learned.
        config: Settings.
        old: Earlier concepts.
        host: The model.
        weight: Of what the baseline adds.
        memory: What it keeps beside the bank.

    Raises:
        TrainingError: If activations are to be recomputed by one that asks the model more than
            once for each batch.
    """

    asks_again: ClassVar[bool] = False

    def __init__(
        self,
        task: Task,
        config: CidmConfig,
        old: Collection[Concept],
        host: Host,
        *,
        weight: float = 0.0,
        memory: BaselineMemory | None = None,
    ) -> None:
        if self.asks_again and config.gradient_checkpointing:
            # The contexts of a first pass are gone when the second one's backward wants them.
            raise TrainingError(
                f"{self.name} runs the model more than once for each batch and cannot recompute "
                "activations. Turn gradient_checkpointing off."
            )
        self._weight, self._memory = weight, memory
        super().__init__(task, config, old, host)

    def _consolidate(self) -> None:
        """Keep what is needed of the earlier concepts; called where there are any."""


@contextmanager
def swapped(updates: Mapping[str, LowRank], factors: Mapping[str, LowRank]) -> Generator[None]:
    """Other values in the live updates for a while. Leave before a graph is built on them."""
    held: Sequence[tuple[Tensor, Tensor]] = [
        (tensor.data, tensor.detach().clone())
        for update in updates.values()
        for tensor in (update.down, update.up)
    ]
    try:
        for path, update in updates.items():
            update.down.data.copy_(factors[path].down)
            update.up.data.copy_(factors[path].up)
        yield
    finally:
        for tensor, value in held:
            tensor.copy_(value)
