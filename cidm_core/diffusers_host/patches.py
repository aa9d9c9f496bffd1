"""The plan's *attend* hook on a diffusers UNet: layer-wise context, weights, regions.

Keys and values see text only, so they are projected once per prompt (the released code does it in
every step). All other layers get the concepts' updates either folded into their weights (*merged*)
or added for each batch row with its own weights (*per_sample*). Both are proved equal; un-merging
copies the saved weights back, bit for bit.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import HostError
from ..ops import attention
from ..sampling.layer_updates import LayerUpdate, layer_updates
from ..sampling.plan import Plan
from ..sampling.regional import Inserts
from .base import Base

_TEXT_SIDE = ("to_k", "to_v")
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, eq=False)
class Rows:
    """Which slot every row of the next UNet call uses; set by the sampler before each call."""

    slots: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    inserts: Inserts = field(default_factory=lambda: Inserts(()))
    latent_size: tuple[int, int] = (0, 0)


class PlanAttention:
    """Attention processor of one attn2 layer while a plan is attached.

    Args:
        module: The layer.
        contexts: What it reads, (slots, tokens, dim).
        updates: What the concepts add, by projection.
        attached: Knows the rows.
    """

    def __init__(
        self,
        module: Any,
        contexts: Tensor,
        updates: Mapping[str, LayerUpdate],
        attached: Attached,
    ) -> None:
        self.attached, self.updates = attached, updates
        slots = torch.arange(len(contexts), device=contexts.device)
        self.key = _project(module.to_k, updates.get("to_k"), contexts, slots)
        self.value = _project(module.to_v, updates.get("to_v"), contexts, slots)

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        rows = self.attached.rows
        out = self._attend(attn, hidden_states, rows.slots)
        if not rows.inserts:
            return out
        inside = [
            self._attend(
                attn, hidden_states[insert.row].expand(len(insert.slots), -1, -1), insert.slots
            )
            for insert in rows.inserts.inserts
        ]
        return rows.inserts.blend(out, inside, layer_size(out.shape[1], rows.latent_size))

    def _attend(self, attn: Any, hidden: Tensor, slots: Tensor) -> Tensor:
        query = _project(attn.to_q, self.updates.get("to_q"), hidden, slots)
        out = attention.scaled_dot_product(query, self.key[slots], self.value[slots], attn.heads)
        return _project(attn.to_out[0], self.updates.get("to_out.0"), out, slots)


class Attached:
    """A plan on a UNet: set `rows` before each call. See `attach`."""

    def __init__(self, plan: Plan, merged: bool) -> None:
        self.plan, self.merged = plan, merged
        self.rows = Rows()
        self.processors: list[PlanAttention] = []


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
    attached = Attached(plan, plan.shared_weights if execution == "auto" else execution == "merged")
    updates = layer_updates(
        plan.concepts,
        plan.slots,
        plan.layers,
        base.device,
        base.dtype,
        strength=plan.config.strength,
        routed=plan.config.key_value_routing == "token",
    )
    modules = [base.unet.get_submodule(layer) for layer in plan.layers]
    processors = [module.processor for module in modules]
    installed = _Installed(attached)
    try:
        for index, (module, layer) in enumerate(zip(modules, plan.layers, strict=True)):
            own = {p: u for p in _PROJECTIONS if (u := updates.pop(f"{layer}.{p}", None))}
            contexts = torch.stack([slot.text.at(index) for slot in plan.slots if slot.text])
            if attached.merged:
                for projection in own.keys() - set(_TEXT_SIDE):
                    installed.merge(module.get_submodule(projection), own.pop(projection))
            contexts = contexts.to(base.device, base.dtype)
            module.processor = PlanAttention(module, contexts, own, attached)
            attached.processors.append(module.processor)
        for path, update in updates.items():  # linear layers outside cross-attention
            installed.add(base.unet.get_submodule(path), update)
        yield attached
    finally:
        for module, processor in zip(modules, processors, strict=True):
            module.processor = processor
        installed.remove()


class _Installed:
    """Updates folded into weights or added to outputs, until all is undone."""

    def __init__(self, attached: Attached) -> None:
        self._attached = attached
        self._saved: list[tuple[nn.Linear, Tensor]] = []
        self._hooks: list[Any] = []

    def add(self, linear: nn.Linear, update: LayerUpdate) -> None:
        """Fold the update in if the plan is merged, else add it row by row."""
        if self._attached.merged:
            self.merge(linear, update)
        else:

            def added(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
                return output + update(inputs[0], self._attached.rows.slots)

            self._hooks.append(linear.register_forward_hook(added))

    def merge(self, linear: nn.Linear, update: LayerUpdate) -> None:
        """Fold in the weights of slot 0; all slots agree."""
        self._saved.append((linear, linear.weight.detach().clone()))
        linear.weight.data.add_(update.delta(0).to(linear.weight.dtype))

    def remove(self) -> None:
        """Leave every layer as it was found."""
        for linear, weight in self._saved:
            linear.weight.data.copy_(weight)
        for hook in self._hooks:
            hook.remove()


def _project(linear: nn.Linear, update: LayerUpdate | None, x: Tensor, slots: Tensor) -> Tensor:
    out = linear(x)
    return out if update is None else out + update(x, slots)
