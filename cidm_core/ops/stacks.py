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
    """Columns C that arrive in pieces; when they far outnumber the rows only `C C^T` is kept."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._parts: list[Tensor] = []
        self._gram: Tensor | None = None

    def add(self, columns: Tensor) -> None:
        self._parts.append(columns.detach().to(torch.promote_types(columns.dtype, torch.float32)))
        if sum(part.shape[1] for part in self._parts) >= 2 * self.rows:
            self._fold()

    def _fold(self) -> None:
        columns = torch.cat(self._parts, dim=1)
        gram = columns @ columns.mT
        self._gram = gram if self._gram is None else self._gram + gram
        self._parts = []

    def directions(self, keep: int | None = None) -> tuple[Tensor, Tensor]:
        """Leading orthonormal directions (rows, found) and their strengths (found)."""
        if self._gram is None:
            return consolidation.leading_directions(torch.cat(self._parts, dim=1), keep)
        if self._parts:
            self._fold()
        return consolidation.gram_directions(self._gram, keep)

    def root(self, keep: int | None = None) -> Tensor:
        """Few columns R with `R R^T = C C^T`, never more than rows; the best `keep` if given."""
        if self._gram is None:
            columns = torch.cat(self._parts, dim=1)
            if columns.shape[1] <= (self.rows if keep is None else keep):
                return columns
        basis, strength = self.directions(keep)
        return basis * strength


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
