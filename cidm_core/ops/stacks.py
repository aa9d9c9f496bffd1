"""Layers of one shape side by side, so that one batched product serves them all."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import consolidation

Ups = Mapping[str, Tensor]  # key of a layer -> up (out, rank)
Device = torch.device | str | None


class Stack(NamedTuple):
    """Layers of one shape: their keys and what is known of the earlier concepts in each."""

    keys: tuple[str, ...]
    old: Tensor

    def of(self, tensors: Ups) -> Tensor:
        """The new concept's tensors of these layers, in the same order."""
        return torch.stack([tensors[key] for key in self.keys]).to(self.old.dtype)


class Span:
    """Columns that arrive in pieces; when they far outnumber the rows only `C C^T` is kept."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._parts: list[Tensor] = []
        self._gram: Tensor | None = None

    def add(self, columns: Tensor) -> None:
        self._parts.append(columns.detach().to(torch.promote_types(columns.dtype, torch.float32)))
        if sum(part.shape[1] for part in self._parts) >= 2 * self.rows:
            self._gram = self._folded()
            self._parts = []

    def _folded(self) -> Tensor:
        gram = torch.zeros(()) if self._gram is None else self._gram
        columns = torch.cat(self._parts, dim=1) if self._parts else None
        return gram if columns is None else gram.to(columns) + columns @ columns.mT

    def condensed(self) -> Tensor:
        """(1, rows, columns), or C C^T (rows, rows) if that is smaller."""
        if self._gram is None:
            return torch.cat(self._parts, dim=1)[None]
        return self._folded()

    def basis(self, keep: int) -> Tensor:
        """The leading orthonormal directions (rows, at most keep)."""
        if self._gram is None:
            return consolidation.orthonormal_basis(torch.cat(self._parts, dim=1)[None], keep)
        return consolidation.gram_basis(self._folded(), keep)


def gather_spans(pieces: Iterable[tuple[str, Tensor]]) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    for key, columns in pieces:
        spans.setdefault(key, Span(columns.shape[0])).add(columns)
    return spans


def stack_layers(
    tensors: Mapping[str, Tensor],
    device: Device,
    dtype: torch.dtype,
    classes: Mapping[str, Hashable] | None = None,
) -> tuple[Stack, ...]:
    """Stack tensors of one shape, and one class where classes are given."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for key, tensor in tensors.items():
        groups[tuple(tensor.shape), classes[key] if classes else None].append(key)
    return tuple(
        Stack(tuple(keys), torch.stack([tensors[key] for key in keys]).to(device, dtype))
        for keys in groups.values()
    )


def pad_columns(bases: Mapping[str, Tensor], classes: Mapping[str, Hashable]) -> dict[str, Tensor]:
    """Zero columns for layers with fewer directions than the widest of their class; no effect."""
    widest: dict[Hashable, int] = defaultdict(int)
    for key, basis in bases.items():
        widest[classes[key]] = max(widest[classes[key]], basis.shape[1])
    return {
        key: F.pad(basis, (0, widest[classes[key]] - basis.shape[1]))
        for key, basis in bases.items()
    }
