"""The plan's *attend* hook on a diffusers UNet: layer-wise context, weights, regions.

Keys and values see text only, so they are projected once per prompt (anchors: the released code
does it in every step). Queries and outputs get the aggregated deltas either folded into the
weights (*merged*) or as one concatenated low-rank branch whose columns are scaled per batch row
(*per_sample*). Both are proved equal; un-merging copies the saved weights back, bit for bit.
Residuals routed by box scale them per place instead, so that all regions share one pass.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.schedule import SCHEDULE
from ..errors import HostError
from ..ops import attention
from ..ops.rank_mask import active_ranks
from ..sampling.layer_updates import Branch, Insert, branches
from ..sampling.plan import Plan
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
        self._module, self._contexts = module, contexts
        self._all = {} if merged else branches
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._use(branches, merged)

    def at(self, timestep: float) -> None:
        """Go on with the ranks that act at a timestep; never merged."""
        self._use({name: branch.at(timestep) for name, branch in self._all.items()}, False)

    def _use(self, branches: dict[str, Branch], merged: bool) -> None:
        self.branches = {} if merged else branches
        module, contexts = self._module, self._contexts
        slots = torch.arange(len(contexts), device=contexts.device)
        self.key = _project(module.to_k, branches.get("to_k"), contexts, slots)
        self.value = _project(module.to_v, branches.get("to_v"), contexts, slots)
        self._in_boxes: dict[tuple[str, int, int, int], Tensor] = {}

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        rows = self.attached.rows
        if rows.inserts and self.attached.plan.residual_routing == "box":
            return self._attend_boxes(attn, hidden_states, rows)
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

    def _attend_boxes(self, attn: Any, hidden: Tensor, rows: Rows) -> Tensor:
        """One query and one output for all regions, with weights of every place's own."""
        query = self._project_boxes(attn.to_q, "to_q", hidden, rows)
        keys, values = self.key, self.value
        out = attention.scaled_dot_product(query, keys[rows.slots], values[rows.slots], attn.heads)
        parts = list(out)
        for insert in rows.inserts:
            shared = query[insert.row].expand(len(insert.slots), -1, -1)
            inside = attention.scaled_dot_product(
                shared, keys[insert.slots], values[insert.slots], attn.heads
            )
            masks = self._resized(insert.masks, hidden.shape[1], rows.latent_size)
            parts[insert.row] = attention.blend_regions(
                parts[insert.row], inside, masks.to(inside.dtype)
            )
        return self._project_boxes(attn.to_out[0], "to_out.0", torch.stack(parts), rows)

    def _project_boxes(self, linear: nn.Linear, name: str, x: Tensor, rows: Rows) -> Tensor:
        out, branch = linear(x), self.branches.get(name)
        if branch is None:
            return out
        cells = x.shape[1]
        weights = list(branch.weights[rows.slots][:, None].expand(-1, cells, -1))
        for insert in rows.inserts:
            key = (name, insert.masks.data_ptr(), insert.outside, cells)
            if key not in self._in_boxes:
                masks = self._resized(insert.masks, cells, rows.latent_size)
                self._in_boxes[key] = branch.in_boxes(insert, masks)
            weights[insert.row] = self._in_boxes[key]
        return out + branch.by_place(x, torch.stack(weights))

    def _resized(self, masks: Tensor, cells: int, latent_size: tuple[int, int]) -> Tensor:
        key = (masks.data_ptr(), cells)
        if key not in self._masks:
            size = layer_size(cells, latent_size)
            self._masks[key] = attention.resize_mask(masks, *size).flatten(1)
        return self._masks[key]


class Attached:
    """A plan on a UNet: set `rows` before each call, and go `at` its timestep. See `attach`."""

    def __init__(self, plan: Plan, merged: bool, levels: int) -> None:
        self.plan = plan
        self.merged = merged
        self.rows = Rows(torch.zeros(0, dtype=torch.long), (), (0, 0))
        self.processors: list[PlanAttention] = []
        masked = [concept for concept in plan.concepts if concept.has_rank_mask]
        ranks = {(c.fewest_ranks(f.rank), f.rank) for c in masked for f in c.factors.values()}
        self._ranks, self._levels = sorted(ranks), levels
        self._active: list[float] = []

    def at(self, timestep: Tensor) -> None:
        """Let the ranks act that a concept's rank mask allows at a timestep (T-LoRA).

        Few steps change anything: keys and values are projected anew in those alone.
        """
        if not self._ranks:
            return
        t = timestep.cpu().double()
        active = [active_ranks(t, r, fewest, self._levels).item() for fewest, r in self._ranks]
        if active != self._active:
            self._active = active
            for processor in self.processors:
                processor.at(t.item())


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
        HostError: If "merged" is asked for slots with different weights, or for a concept whose
            rank mask gives every timestep other weights.
    """
    masked = [concept.name for concept in plan.concepts if concept.has_rank_mask]
    if execution == "merged" and masked:
        raise HostError(
            f"{masked[0]!r} was learned with a rank mask: its weights differ from step to step and "
            "cannot be merged. Use execution 'auto' or 'per_sample'."
        )
    if execution == "merged" and not plan.shared_weights:
        raise HostError(
            "Merged execution needs the same concept weights in every row, but the regions or "
            "prompts weigh them differently. Use execution 'per_sample' or region weights 'global'."
        )
    merged = plan.shared_weights if execution == "auto" else execution == "merged"
    merged = merged and not masked
    modules = [base.unet.get_submodule(layer) for layer in plan.layers]
    processors = [module.processor for module in modules]
    saved: list[tuple[nn.Linear, Tensor]] = []
    levels = int(base.scheduler_config.get("num_train_timesteps", SCHEDULE["num_train_timesteps"]))
    attached = Attached(plan, merged, levels)
    contexts = torch.stack([slot.context for slot in plan.slots]).to(base.device, base.dtype)
    try:
        for index, (module, layer) in enumerate(zip(modules, plan.layers, strict=True)):
            held = _branches(base, plan, index, layer, levels)
            processor = PlanAttention(module, contexts[:, index], held, merged, attached)
            module.processor = processor
            attached.processors.append(processor)
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


def _branches(base: Base, plan: Plan, index: int, layer: str, levels: int) -> dict[str, Branch]:
    weights = torch.stack([slot.weights[index] for slot in plan.slots]) * plan.strength
    routed = [slot.token_weights for slot in plan.slots]
    tokens = [each[index] for each in routed if each is not None]
    key_values = torch.stack(tokens) * plan.strength if tokens else None
    return branches(plan.concepts, layer, weights, base.device, base.dtype, key_values, levels)


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
