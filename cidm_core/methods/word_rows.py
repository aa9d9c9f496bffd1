"""The embeddings of concept words that learn: for each text encoder rows, shared between layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..ops.seeds import generator
from ..sampling.versions import shared_versions
from .base import Host, Task
from .group import Group

Begin = Callable[[Tensor, int, float, torch.Generator], Tensor]
"""First rows (words, versions, dim) from class rows (tokens, dim), number of versions, spread."""


class WordRows:
    """Live rows (words, versions, dim) of each text encoder.

    They start at the class words and, for the identity, at random: `std` is in units of the first
    encoder. The others get what is as long beside their own class words as that is beside those.

    Args:
        task: Whose words; with `task.start`, its rows are where learning starts.
        host: Knows the frozen embeddings.
        sharing: Which layers share a version (`sampling.versions.shared_versions`).
        std: Spread of random words at the start.
        seed: Of the draws.
        begin: Makes the first rows.
    """

    def __init__(
        self,
        task: Task,
        host: Host,
        sharing: str,
        std: float,
        seed: int,
        begin: Begin,
    ) -> None:
        self._versions = shared_versions([layer.path for layer in task.layers], sharing)
        self._scales: dict[str, float] = {}
        self.groups: dict[str, Group] = {}
        first: Tensor | None = None
        for encoder, class_rows in host.embeddings(task.subjects[0].class_words).items():
            first = class_rows if first is None else first
            scale = _relative_length(class_rows, first)
            # Of a row of other width each number counts for less.
            spread = std * scale * math.sqrt(first.shape[1] / class_rows.shape[1])
            source = generator(seed, "tokens", encoder)
            rows = begin(class_rows, max(self._versions) + 1, spread, source)
            if task.start is not None:
                rows = self._started(task.start.rows[encoder])
            group = Group(f"tokens.{encoder}", {"rows": rows.to(host.device)})
            self.groups[encoder], self._scales[group.name] = group, scale

    @property
    def live(self) -> dict[str, Tensor]:
        """Encoder -> (words, versions, dim), as `Host.predict` takes them."""
        return {encoder: group.tensors["rows"] for encoder, group in self.groups.items()}

    def of_layers(self) -> dict[str, Tensor]:
        """As a concept has them, encoder -> (words, layers or 1, dim)."""
        versions = list(self._versions)
        return {
            k: rows if rows.shape[1] == 1 else rows[:, versions] for k, rows in self.live.items()
        }

    def norms(self) -> dict[str, Tensor]:
        """Mean norm of the rows of each encoder that still learns, by its group's name."""
        return {
            group.name: group.tensors["rows"].detach().norm(dim=-1).mean()
            for group in self.groups.values()
            if not group.frozen
        }

    def stop_long(self, norms: Mapping[str, float], limit: float) -> None:
        """The norm stop: rows that have grown as long as the limit never learn again.

        Args:
            norms: From `norms`.
            limit: In units of the first encoder.
        """
        for group in self.groups.values():
            if norms.get(group.name, 0.0) >= limit * self._scales[group.name]:
                group.freeze()

    def _started(self, rows: Tensor) -> Tensor:
        """Taught rows (words, layers or 1, dim), of which each version takes its first layer's."""
        first = [self._versions.index(version) for version in range(max(self._versions) + 1)]
        return rows.expand(-1, len(self._versions), -1)[:, first]


def can_share(rows: Tensor, layers: tuple[str, ...], sharing: str) -> bool:
    """Whether taught rows (words, layers or 1, dim) are alike in layers that would share them."""
    versions = shared_versions(layers, sharing)
    first = [versions.index(version) for version in versions]
    return rows.shape[1] == 1 or torch.equal(rows, rows[:, first])


def _relative_length(rows: Tensor, first: Tensor) -> float:
    """How long an encoder's embeddings are, compared with those of the first encoder."""
    lengths = [float(each.norm(dim=-1).mean()) for each in (rows, first)]
    return lengths[0] / lengths[1] if lengths[1] > 0 else 1.0
