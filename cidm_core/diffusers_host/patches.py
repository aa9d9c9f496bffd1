"""The plan's *attend* hook on a diffusers UNet: layer-wise context, weights, regions.

Keys and values see text only, so they are projected once per prompt (anchors: the released code
does it in every step). Queries and outputs get the aggregated deltas either folded into the
weights (*merged*) or as one concatenated low-rank branch whose columns are scaled per batch row
(*per_sample*). Both are proved equal; un-merging copies the saved weights back, bit for bit.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attend import Branch, Insert, branches
from ..errors import HostError
from ..ops import attention
from ..plan import Plan
from .load import Base


@dataclass
class Rows:
    """Which slot every row of the next UNet call uses; set by the sampler before each call."""

    slots: Tensor
    inserts: Sequence[Insert]
    latent_size: tuple[int, int]


class PlanAttention:
    """Attention processor of one attn2 layer while a plan is attached."""

    def __init__(
        self,
        module: Any,
        contexts: Tensor,
        branches: dict[str, Branch],
        merged: bool,
        attached: Attached,
    ) -> None:
        self.attached = attached
        self.branches = {} if merged else branches
        slots = torch.arange(len(contexts), device=contexts.device)
        self.key = _project(module.to_k, branches.get("to_k"), contexts, slots)
        self.value = _project(module.to_v, branches.get("to_v"), contexts, slots)
        self._masks: dict[tuple[int, int], Tensor] = {}

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        rows = self.attached.rows
        out = self._attend(attn, hidden_states, rows.slots)
        if not rows.inserts:
            return out
        parts = list(out)
        for insert in rows.inserts:
            inside = self._attend(
                attn, hidden_states[insert.row].expand(len(insert.slots), -1, -1), insert.slots
            )
            masks = self._resized(insert.masks, hidden_states.shape[1], rows.latent_size)
            parts[insert.row] = attention.blend_regions(
                parts[insert.row], inside, masks.to(inside.dtype)
            )
        return torch.stack(parts)

    def _attend(self, attn: Any, hidden: Tensor, slots: Tensor) -> Tensor:
        query = _project(attn.to_q, self.branches.get("to_q"), hidden, slots)
        out = attention.scaled_dot_product(query, self.key[slots], self.value[slots], attn.heads)
        return _project(attn.to_out[0], self.branches.get("to_out.0"), out, slots)

    def _resized(self, masks: Tensor, cells: int, latent_size: tuple[int, int]) -> Tensor:
        key = (masks.data_ptr(), cells)
        if key not in self._masks:
            size = layer_size(cells, latent_size)
            self._masks[key] = attention.resize_mask(masks, *size).flatten(1)
        return self._masks[key]


class Attached:
    """A plan on a UNet: set `rows` before each call. Made by `attach`."""

    def __init__(self, plan: Plan, merged: bool) -> None:
        self.plan = plan
        self.merged = merged
        self.rows = Rows(torch.zeros(0, dtype=torch.long), (), (0, 0))


def layer_size(cells: int, latent_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a layer with this many cells; each level halves, rounding up.

    Raises:
        HostError: If no number of halvings gives that many cells.
    """
    height, width = latent_size
    while height * width > cells and (height > 1 or width > 1):
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != cells:
        raise HostError(
            f"A cross-attention layer has {cells} cells, which no halving of {latent_size} gives. "
            "Use a width and height that are multiples of 64 pixels."
        )
    return height, width


@contextmanager
def attach(base: Base, plan: Plan, execution: str = "auto") -> Generator[Attached]:
    """Install a plan on the UNet; on leaving, all modules and weights are what they were.

    Args:
        base: The model; its attn2 processors and, when merged, its weights are replaced.
        plan: What to attend to, and with which weights.
        execution: "merged" (all slots must share their weights), "per_sample", or "auto".

    Raises:
        HostError: If "merged" is asked for slots with different weights.
    """
    if execution == "merged" and not plan.shared_weights:
        raise HostError(
            "Merged execution needs the same concept weights in every row, but the regions or "
            "prompts weigh them differently. Use execution 'per_sample' or region weights 'global'."
        )
    merged = plan.shared_weights if execution == "auto" else execution == "merged"
    modules = [base.unet.get_submodule(layer) for layer in plan.layers]
    processors = [module.processor for module in modules]
    saved: list[tuple[nn.Linear, Tensor]] = []
    attached = Attached(plan, merged)
    contexts = torch.stack([slot.context for slot in plan.slots]).to(base.device, base.dtype)
    try:
        for index, (module, layer) in enumerate(zip(modules, plan.layers, strict=True)):
            held = _branches(base, plan, index, layer)
            module.processor = PlanAttention(module, contexts[:, index], held, merged, attached)
            if merged:
                saved += _merge(module, held)
        yield attached
    finally:
        for module, processor in zip(modules, processors, strict=True):
            module.processor = processor
        for linear, weight in saved:
            linear.weight.data.copy_(weight)


def _project(linear: nn.Linear, branch: Branch | None, x: Tensor, slots: Tensor) -> Tensor:
    out = linear(x)
    return out if branch is None else out + branch(x, slots)


def _branches(base: Base, plan: Plan, index: int, layer: str) -> dict[str, Branch]:
    weights = torch.stack([slot.weights[index] for slot in plan.slots]) * plan.strength
    return branches(plan.concepts, layer, weights, base.device, base.dtype)


def _merge(module: Any, branches: dict[str, Branch]) -> list[tuple[nn.Linear, Tensor]]:
    """Fold slot 0's weights (all slots agree) into the query and output weights."""
    saved: list[tuple[nn.Linear, Tensor]] = []
    for projection in ("to_q", "to_out.0"):
        if projection in branches:
            linear = module.get_submodule(projection)
            saved.append((linear, linear.weight.detach().clone()))
            delta = branches[projection].delta(0)
            linear.weight.data.add_(delta.to(linear.weight.dtype))
    return saved
