"""Concept consolidation over a whole model: layers of one shape share one batched product.

The equations are in `consolidation`; here 64 layers (SD 1.5) or 280 (SDXL) are put in stacks, once
per training, so that a step costs a few kernels whatever the number of layers. Keys name
layers; what is handed to `loss`, `apply` and `step` must hold every key of the earlier concepts.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CidmError
from . import consolidation
from .aggregation import LowRank
from .stacks import Device, Stack, Ups, gather_spans, pad_columns, stack_layers

Old = Iterable[Mapping[str, LowRank]]  # earlier concepts, factors by layer; read once, in turn
Pairs = Mapping[str, tuple[Tensor, Tensor]]  # key -> (scale * up, down)


@dataclass(frozen=True)
class Orthogonality:
    """R1 of all layers.

    "subspace": sum over layers, exact, with a cost linear in the number of earlier concepts.
    "energy": sum over layers of squares; the cost stops growing once a layer is full.
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
    ) -> "Orthogonality":
        """Arrange the earlier concepts' `up` factors.

        Raises:
            CidmError: If the mode is unknown, or is "released" and earlier ranks differ.
        """
        if mode == "released":
            held = _tasks(old)
        elif mode == "subspace":
            held = {key: torch.cat(ups, dim=1)[None] for key, ups in _collect(old).items()}
        elif mode == "energy":
            spans = gather_spans((key, pair.up) for concept in old for key, pair in concept.items())
            held = {key: span.condensed() for key, span in spans.items()}
        else:
            raise CidmError(
                f"Orthogonality {mode!r} is unknown; choose 'subspace', 'energy' or 'released'."
            )
        return cls(mode, stack_layers(held, device, dtype))

    def loss(self, ups: Ups) -> Tensor:
        """R1 of the new concept's `up` factors, a scalar; 0 without earlier concepts."""
        if not self.stacks:
            return torch.zeros(())
        total = torch.stack([self._value(stack.of(ups), stack.old) for stack in self.stacks]).sum()
        layers = sum(len(stack.keys) for stack in self.stacks)
        return total / layers if self.mode == "released" else total

    def _value(self, up: Tensor, old: Tensor) -> Tensor:
        if old.ndim == 3:  # (layers, out, out): a full layer's Gram matrix
            return consolidation.gram_energy(up, old).sum()
        return consolidation.orthogonality(up, old, self.mode).sum()


@dataclass(frozen=True)
class Projection:
    """R1 = 0 without a loss: the earlier column spaces are cut out of `up` itself."""

    stacks: tuple[Stack, ...]

    @classmethod
    def prepare(
        cls, old: Old, rank: int, device: Device = None, dtype: torch.dtype = torch.float32
    ) -> "Projection":
        """A basis per layer, of at most `out - rank` directions so that a new concept fits in."""
        spans = gather_spans((key, pair.up) for concept in old for key, pair in concept.items())
        bases = {key: span.basis(span.rows - rank) for key, span in spans.items()}
        return cls(
            stack_layers(
                pad_columns(bases, {key: b.shape[0] for key, b in bases.items()}), device, dtype
            )
        )

    @torch.no_grad()
    def apply(self, ups: Ups) -> None:
        """Project in place: on the starting values and after every optimiser step."""
        for stack in self.stacks:
            projected = consolidation.project_out(stack.of(ups), stack.old)
            for key, up in zip(stack.keys, projected, strict=True):
                ups[key].copy_(up)


@dataclass(frozen=True)
class Memory:
    """Earlier deltas of the layers of a stack and the H_i of all concepts (gradient mode)."""

    up: Tensor  # (layers, tasks, out, rank), zero-padded to the largest rank
    down: Tensor  # (layers, tasks, rank, in)
    h: Tensor  # (layers, tasks, out, k)
    h_new: Tensor  # (layers, 1, out, k)


@dataclass(frozen=True)
class CommonSubspace:
    """R2 of all layers.

    "closed_form": W_* is the best rank-k subspace of the earlier deltas and stays; H_g is the best
    one. Cost and memory of a step do not depend on the number of earlier concepts.
    "gradient": the paper's two steps. `loss` takes H and W_* as constants, `step` moves them.
    Both start at the closed form, H_g at 0 like the new delta. Linear in earlier concepts.
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
                f"Common subspace {mode!r} is unknown; choose 'closed_form', 'gradient'."
            )
        concepts = list(old) if mode == "gradient" else old
        shapes: dict[str, Hashable] = {}

        def rows() -> Iterable[tuple[str, Tensor]]:
            for concept in concepts:
                for key, pair in concept.items():
                    shapes[key] = (pair.up.shape[0], pair.down.shape[1])
                    yield key, consolidation.compact(pair.scale * pair.up, pair.down).mT

        bases = {key: span.basis(k) for key, span in gather_spans(rows()).items()}
        padded = {key: basis.mT for key, basis in pad_columns(bases, shapes).items()}
        stacks = stack_layers(padded, device, dtype, shapes)
        if mode == "closed_form":
            return cls(mode, stacks, ())
        return cls(mode, stacks, tuple(_memory(stack, list(concepts)) for stack in stacks))

    def loss(self, pairs: Pairs) -> Tensor:
        """R2's term of the new concept, a scalar; those of earlier ones do not depend on it."""
        if not self.stacks:
            return torch.zeros(())
        return torch.stack([self._value(i, pairs).sum() for i in range(len(self.stacks))]).sum()

    def _value(self, index: int, pairs: Pairs) -> Tensor:
        stack = self.stacks[index]
        up, down = _split(stack, pairs)
        if self.mode == "closed_form":
            return consolidation.shared_loss(up, down, stack.old)
        return consolidation.shared_residual(up, down, self.memories[index].h_new[:, 0], stack.old)

    @torch.no_grad()
    def step(self, lr: float, pairs: Pairs) -> None:
        """One descent on R2 by all H_i and W_*, the deltas fixed (Eq. 6 and 7, sign mended).

        Does nothing in "closed_form".
        """
        for stack, memory in zip(self.stacks, self.memories, strict=False):
            up, down = (x[:, None] for x in _split(stack, pairs))
            grad_h, grad_w = consolidation.shared_gradients(
                memory.up, memory.down, memory.h, stack.old
            )
            grad_new, grad_w_new = consolidation.shared_gradients(up, down, memory.h_new, stack.old)
            memory.h.sub_(lr * grad_h)
            memory.h_new.sub_(lr * grad_new)
            stack.old.sub_(lr * (grad_w + grad_w_new))

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


def _split(stack: Stack, pairs: Pairs) -> tuple[Tensor, Tensor]:
    up = stack.of({key: pairs[key][0] for key in stack.keys})
    return up, stack.of({key: pairs[key][1] for key in stack.keys})


def _memory(stack: Stack, concepts: list[Mapping[str, LowRank]]) -> Memory:
    """The earlier deltas of a stack's layers; H_i = delta_i W_*^T, the best for W_* as it is."""
    w = stack.old
    rank = max(pair.down.shape[0] for c in concepts for k, pair in c.items() if k in stack.keys)
    example = next(c[stack.keys[0]] for c in concepts if stack.keys[0] in c)
    up = w.new_zeros(len(stack.keys), len(concepts), example.up.shape[0], rank)
    down = w.new_zeros(len(stack.keys), len(concepts), rank, example.down.shape[1])
    for task, concept in enumerate(concepts):
        for layer, key in enumerate(stack.keys):
            if pair := concept.get(key):
                up[layer, task, :, : pair.up.shape[1]] = pair.scale * pair.up
                down[layer, task, : pair.down.shape[0]] = pair.down
    h = up @ (down @ w[:, None].mT)
    return Memory(up, down, h, torch.zeros_like(h[:, :1]))
