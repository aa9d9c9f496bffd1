"""The plan's *attend* hook on a diffusers UNet: layer-wise context, weights, regions.

Keys and values see text only, so they are projected once per prompt (the released code does it in
every step). All other layers get the concepts' updates either folded into their weights (*merged*)
or added for each batch row with its own weights (*per_sample*). Both are proved equal; un-merging
copies the saved weights back, bit for bit.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import HostError
from ..families import PROJECTIONS
from ..ops import attention, infusion
from ..sampling.layer_updates import LayerUpdate, layer_updates
from ..sampling.plan import Plan
from ..sampling.regional import Inserts
from ..updates import TEXT_SIDE
from .base import Base, changed_weights


@dataclass(frozen=True, eq=False)
class CallRows:
    """What the rows of a UNet call need: the slot of each, and what regions put into them.

    With `lenders`, each row attends with the queries of the row that it names.
    """

    slots: Tensor
    inserts: Inserts
    latent_size: tuple[int, int]
    lenders: Tensor | None = None


@dataclass(eq=False)
class Attached:
    """A plan on a UNet; `rows` are set before each call. See `attach`."""

    plan: Plan
    rows: CallRows = field(init=False)


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
        if rows.lenders is not None:
            hidden_states = infusion.lent(hidden_states, rows.lenders)
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
    slots = plan.all_slots
    updates = layer_updates(plan.concepts, slots, plan.layers, base.device, base.dtype, plan.config)
    attached, unet = Attached(plan), base.unet
    with ExitStack() as undo:
        # All slots agree on the weights of slot 0. Keys and values are projected once anyway.
        folded = [path for path in updates if merged and not path.endswith(TEXT_SIDE)]
        deltas = (
            (getattr(unet.get_submodule(path), name), delta)
            for path in folded
            for name, delta in updates.pop(path).deltas(0).items()
        )
        undo.enter_context(changed_weights(deltas))
        for index, layer in enumerate(plan.layers):
            module = unet.get_submodule(layer)
            own = {p: u for p in PROJECTIONS if (u := updates.pop(f"{layer}.{p}", None))}
            contexts = torch.stack([slot.text.at(index) for slot in slots if slot.text])
            contexts = contexts.to(base.device, base.dtype)
            undo.callback(setattr, module, "processor", module.processor)
            module.processor = PlanAttention(module, contexts, own, attached)
        for path, update in updates.items():  # linear layers outside cross-attention
            hook = partial(_add, attached, update)
            undo.callback(unet.get_submodule(path).register_forward_hook(hook).remove)
        yield attached


def _add(
    attached: Attached, update: LayerUpdate, _linear: nn.Module, inputs: Any, output: Tensor
) -> Tensor:
    return output + update(inputs[0], attached.rows.slots)


def _project(linear: nn.Linear, update: LayerUpdate | None, x: Tensor, slots: Tensor) -> Tensor:
    out = linear(x)
    return out if update is None else out + update(x, slots)
