"""C-LoRA: a LoRA per task on top of all earlier ones, kept off the entries they changed.

Smith et al. 2023, "Continual Diffusion", https://arxiv.org/abs/2304.06027. The model a task is
learned on, with the earlier deltas in its weights, is made by `merge.folded`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from cidm_core.concept import Concept

from .base import Baseline


class CLora(Baseline):
    """Adds `weight * sum_layers || |sum_{i<g} delta_i| * delta_g ||_F^2`, elementwise product.

    Tokens start at random: the class word is not read, as the paper has it.
    """

    name = "c_lora"
    _taken: Mapping[str, Tensor] = MappingProxyType({})

    def _consolidate(self) -> None:
        self._taken = squared_sums(self._old, self._host.device)

    def _first_tokens(
        self, class_rows: Tensor, versions: int, std: float, source: torch.Generator
    ) -> Tensor:
        drawn = torch.randn(len(self._task.words), 1, class_rows.shape[1], generator=source)
        return std * drawn.repeat(1, versions, 1)

    def penalties(self) -> dict[str, Tensor]:
        if not self._taken:
            return {}
        pairs = self._pairs()
        sums = [
            (taken * (pairs[path][0] @ pairs[path][1]).square()).sum()
            for path, taken in self._taken.items()
        ]
        return {"overlap": self._weight * torch.stack(sums).sum()}


def squared_sums(old: Collection[Concept], device: torch.device) -> Mapping[str, Tensor]:
    """`(sum_i delta_i)^2` by path, (out, in); the concepts are read one at a time."""
    sums: dict[str, Tensor] = {}
    for concept in old:
        for path, pair in concept.low_rank.items():
            delta = pair.delta.to(device)
            sums[path] = sums[path] + delta if path in sums else delta
    return {path: total.square() for path, total in sums.items()}
