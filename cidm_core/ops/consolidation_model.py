"""Concept consolidation over a whole model: layers of one shape share one batched product.

The equations are in `consolidation`; here 64 layers (SD 1.5) or 280 (SDXL) are put in stacks, once
per training, so that a step costs a few kernels whatever the number of layers. Keys name
layers; what is handed to `loss`, `apply` and `step` must hold every key of the earlier concepts.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CidmError
from . import consolidation
from .aggregation import Factors
from .stacks import Device, Span, Stack, Ups, gather_spans, pad_columns, stack_layers

Old = Iterable[Mapping[str, Factors]]  # earlier concepts, factors by layer; read once, in turn
Pairs = Mapping[str, tuple[Tensor, Tensor]]  # key -> (scale * up, down)


@dataclass(frozen=True)
class Orthogonality:
    """R1 of all layers.

    "subspace": sum over layers, exact, with a cost linear in the number of earlier concepts.
    "energy": sum over layers of squares; the cost stops growing once a layer is full, or at a
    given number of directions.
    "released": mean over layers as in the public code, exact and slow.
    """

    mode: str
    stacks: tuple[Stack, ...]

    @classmethod
    def prepare(
        cls,
        old: Old,
        mode: str = "subspace",
        device: Device = None,
        dtype: torch.dtype = torch.float32,
        directions: int | None = None,
    ) -> "Orthogonality":
        """Arrange the earlier concepts' `up` factors.

        Args:
            old: Earlier concepts.
            mode: "subspace", "energy" or "released".
            device: Where the training runs.
            dtype: Of the arithmetic.
            directions: "energy" only: the strongest directions of each layer that count; None
                is exact.

        Raises:
            CidmError: If the mode is unknown, or is "released" and earlier ranks differ.
        """
        if mode == "released":
            held = _tasks(old)
        elif mode == "subspace":
            held = {key: torch.cat(ups, dim=1)[None] for key, ups in _collect(old).items()}
        elif mode == "energy":
            held = {key: span.root(directions)[None] for key, span in _up_spans(old).items()}
        else:
            raise CidmError(
                f"Orthogonality {mode!r} is unknown; choose 'subspace', 'energy' or 'released'."
            )
        return cls(mode, stack_layers(held, device, dtype))

    def loss(self, ups: Ups) -> Tensor:
        """R1 of the new concept's `up` factors, a scalar; 0 without earlier concepts."""
        if not self.stacks:
            return torch.zeros(())
        values = [consolidation.orthogonality(s.of(ups), s.old, self.mode) for s in self.stacks]
        total = torch.cat(values).sum()
        layers = sum(len(stack.keys) for stack in self.stacks)
        return total / layers if self.mode == "released" else total


@dataclass(frozen=True)
class Projection:
    """R1 = 0 without a loss: the earlier column spaces are cut out of `up` itself."""

    stacks: tuple[Stack, ...]

    @classmethod
    def prepare(
        cls,
        old: Old,
        rank: int,
        device: Device = None,
        dtype: torch.dtype = torch.float32,
        directions: int | None = None,
    ) -> "Projection":
        """A basis per layer, of at most `out - rank` directions so that a new concept fits in.

        Args:
            old: Earlier concepts.
            rank: Of the new concept.
            device: Where the training runs.
            dtype: Of the arithmetic.
            directions: Cut out only so many, the strongest; None cuts out all that it can.
        """
        bases: dict[str, Tensor] = {}
        for key, span in _up_spans(old).items():
            room = max(span.rows - rank, 0)
            bases[key] = span.directions(room if directions is None else min(room, directions))[0]
        padded = pad_columns(bases, {key: basis.shape[0] for key, basis in bases.items()})
        return cls(stack_layers(padded, device, dtype))

    @torch.no_grad()
    def apply(self, ups: Ups) -> None:
        """Project in place: on the starting values and after every optimiser step."""
        for stack in self.stacks:
            projected = consolidation.project_out(stack.of(ups), stack.old)
            for key, up in zip(stack.keys, projected, strict=True):
                ups[key].copy_(up)


class Memory(NamedTuple):
    """What gradient mode knows of a stack's layers beside W_*."""

    rows: Tensor  # (layers, rows, in): the earlier deltas, compacted
    h: Tensor  # (layers, rows, k): the H_i of earlier concepts, in the same coordinates
    h_new: Tensor  # (layers, out, k): H_g


@dataclass(frozen=True)
class CommonSubspace:
    """R2 of all layers.

    "closed_form": W_* is the best rank-k subspace of the earlier deltas and stays; H_g is the best
    one for the new delta. The cost does not depend on the number of earlier concepts.
    "gradient": the paper's two steps. `loss` takes H and W_* as constants, `step` moves them.
    They start at the closed form, W_* filled up to k rows, H_g at 0 like the new delta.
    """

    mode: str
    stacks: tuple[Stack, ...]  # old: W_* (layers, k, in)
    memories: tuple[Memory, ...]  # beside the stacks; none in "closed_form"

    @classmethod
    def prepare(
        cls,
        old: Old,
        k: int,
        mode: str = "closed_form",
        device: Device = None,
        dtype: torch.dtype = torch.float32,
    ) -> "CommonSubspace":
        """Find W_* of every layer from the earlier concepts.

        Raises:
            CidmError: If the mode is unknown.
        """
        if mode not in ("closed_form", "gradient"):
            raise CidmError(
                f"Common subspace {mode!r} is unknown; choose 'closed_form' or 'gradient'."
            )
        shapes: dict[str, tuple[int, int]] = {}

        def rows() -> Iterator[tuple[str, Tensor]]:
            for concept in old:
                for key, pair in concept.items():
                    shapes[key] = (pair.up.shape[0], pair.down.shape[1])
                    yield key, consolidation.compact(pair.scale * pair.up, pair.down).mT

        spans = gather_spans(rows())
        bases = {key: span.directions(k)[0] for key, span in spans.items()}
        if mode == "gradient":  # a zero row would never learn
            bases = {key: consolidation.complete(basis, k) for key, basis in bases.items()}
        w = {key: basis.mT for key, basis in pad_columns(bases, shapes).items()}
        stacks = stack_layers(w, device, dtype, shapes)
        if mode == "closed_form":
            return cls(mode, stacks, ())
        roots = pad_columns({key: span.root() for key, span in spans.items()}, shapes)
        return cls(mode, stacks, tuple(_memory(s, roots, shapes[s.keys[0]][0]) for s in stacks))

    def loss(self, pairs: Pairs) -> Tensor:
        """R2's term of the new concept, a scalar; those of earlier ones do not depend on it."""
        if not self.stacks:
            return torch.zeros(())
        if self.mode == "closed_form":
            values = [consolidation.shared_loss(*_of(s, pairs), s.old) for s in self.stacks]
        else:
            values = [
                consolidation.shared_residual(*_of(s, pairs), m.h_new, s.old)
                for s, m in zip(self.stacks, self.memories, strict=True)
            ]
        return torch.cat(values).sum()

    @torch.no_grad()
    def step(self, lr: float, pairs: Pairs) -> None:
        """One descent on R2 by all H_i and W_*, the deltas fixed (Eq. 6 and 7, sign mended).

        Does nothing in "closed_form".
        """
        for (keys, w), memory in zip(self.stacks, self.memories, strict=False):
            pair = _of(Stack(keys, w), pairs)
            grad_h, grad_w = consolidation.stacked_gradients(memory.rows, memory.h, w)
            grad_new, grad_w_new = consolidation.shared_gradients(*pair, memory.h_new, w)
            memory.h.sub_(lr * grad_h)
            memory.h_new.sub_(lr * grad_new)
            w.sub_(lr * (grad_w + grad_w_new))

    def state_dict(self) -> dict[str, Tensor]:
        """What `step` changes, for a resumable training; empty in "closed_form"."""
        state: dict[str, Tensor] = {}
        for i, (stack, memory) in enumerate(zip(self.stacks, self.memories, strict=False)):
            state |= {f"{i}.w": stack.old, f"{i}.h": memory.h, f"{i}.h_new": memory.h_new}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave, after the same `prepare`."""
        for name, held in self.state_dict().items():
            held.copy_(state[name])


def _collect(old: Old) -> dict[str, list[Tensor]]:
    """The earlier `up` factors of each layer."""
    ups: dict[str, list[Tensor]] = defaultdict(list)
    for concept in old:
        for key, pair in concept.items():
            ups[key].append(pair.up.detach())
    return ups


def _tasks(old: Old) -> dict[str, Tensor]:
    """(tasks, out, rank) of each layer."""
    collected = _collect(old)
    for key, ups in collected.items():
        if len(ranks := sorted({up.shape[1] for up in ups})) > 1:
            raise CidmError(
                f"R1 as released needs one rank, but earlier concepts have {ranks} in {key}. "
                "Choose orthogonality 'subspace'."
            )
    return {key: torch.stack(ups) for key, ups in collected.items()}


def _up_spans(old: Old) -> dict[str, Span]:
    return gather_spans((key, pair.up) for concept in old for key, pair in concept.items())


def _of(stack: Stack, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The new concept's factors of a stack's layers."""
    up = stack.of({key: pairs[key][0] for key in stack.keys})
    return up, stack.of({key: pairs[key][1] for key in stack.keys})


def _memory(stack: Stack, roots: Ups, out: int) -> Memory:
    """H_i = delta_i W_*^T for the earlier concepts: the best for W_* as it is."""
    w = stack.old
    rows = stack.of(roots).mT.to(w.device).contiguous()
    return Memory(rows, rows @ w.mT, w.new_zeros(len(w), out, w.shape[1]))
