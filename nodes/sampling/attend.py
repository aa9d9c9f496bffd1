"""The plan's *attend* hook on ComfyUI's UNet: layer-wise context, concept weights, regions.

Two wrappers do it. At the start of sampling every conditioning gets the number of a row
specification; in every UNet call these numbers arrive with the batch, in whatever order and
grouping ComfyUI has chosen, and the cross-attention layers are given what their rows need. Only
for the length of that call do the projections have a `forward` of their own: LoRAs, offloading
and compiled models see the modules they know, and nothing is left behind.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...cidm_core.ops import attention
from ...cidm_core.regions import masks_at
from ...cidm_core.sampling.layer_updates import Branch, branches
from ..host.comfy import WrappersMP
from ..host.model import ModelFacts
from .conditions import Row, RowCond, Rows, rows_of

KEY = "cidm"
_PLACES = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}


def attach(model: Any, facts: ModelFacts, strength: float) -> Any:
    """A copy of a MODEL that reads what concept prompts carry. Again attached: replaced."""
    taught = model.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.DIFFUSION_MODEL):
        taught.remove_wrappers_with_key(kind, KEY)

    def outer(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        rows = rows_of(guider.conds, facts)
        cells = tuple(noise.shape[-2:])
        session = _Session(facts, rows, strength, cells, latent_px(guider.model_patcher))
        guider.model_options["transformer_options"][KEY] = session
        return executor(noise, *args, **kwargs)

    taught.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer)
    taught.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _unet_call)
    return taught


def is_attached(model: Any) -> bool:
    """Whether a concept bank has been applied to a MODEL."""
    return bool(model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY))


def latent_px(model: Any) -> int:
    """Pixels per latent cell of a MODEL."""
    return int(getattr(model.model.latent_format, "spacial_downscale_ratio", 8))


def _unet_call(
    executor: Any,
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    y: Any = None,
    control: Any = None,
    transformer_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    options = dict(transformer_options or {})
    ids = kwargs.pop(RowCond.KEY, None)
    session = options.get(KEY)
    if session is None or ids is None:
        return executor(x, timesteps, context, y, control, options, **kwargs)
    call = session.call(executor.class_obj, ids, x)
    with call.installed():
        patches = dict(options.get("patches", {}))
        # First in line, so that other packs' patches see the layer-wise context.
        patches["attn2_patch"] = [call.before, *patches.get("attn2_patch", [])]
        if call.inserts:
            patches["attn2_output_patch"] = [call.after, *patches.get("attn2_output_patch", [])]
        options["patches"] = patches
        return executor(x, timesteps, context, y, control, options, **kwargs)


@dataclass(eq=False)
class _Session:
    """One sampling run: what its rows need, put on the UNet's device once."""

    facts: ModelFacts
    rows: Rows
    strength: float
    cells: tuple[int, ...]
    cell_px: int
    _layers: dict[Any, list[_Layer]] = field(default_factory=dict[Any, Any])
    _calls: dict[Any, _Call] = field(default_factory=dict[Any, Any])

    def call(self, unet: Any, ids: tuple[tuple[int, Any], ...], x: Tensor) -> _Call:
        """What a UNet call with these rows needs; the same rows come back in every step."""
        place = (id(unet), x.device, x.dtype)
        if place not in self._layers:
            self._layers[place] = self._made(unet, x)
        if (ids, place) not in self._calls:
            self._calls[ids, place] = _Call(self, self._layers[place], ids, x)
        return self._calls[ids, place]

    def _made(self, unet: Any, x: Tensor) -> list[_Layer]:
        weights = self.rows.weights * self.strength  # (slots, layers, concepts)
        used = bool((weights != 0).any())
        return [
            _Layer(
                unet.get_submodule(path),
                _place(path),
                branches(self.rows.concepts, layer, weights[:, i], x.device, x.dtype)
                if used
                else {},
                {s: c[min(i, len(c) - 1)].to(x) for s, c in self.rows.contexts.items()},
            )
            for i, (layer, path) in enumerate(zip(self.facts.names, self.facts.paths, strict=True))
        ]


@dataclass(frozen=True, eq=False)
class _Layer:
    """One attn2 module, where ComfyUI says it is, its branches, and (tokens, dim) by slot."""

    module: Any
    place: tuple[Any, ...]
    branches: Mapping[str, Branch]
    contexts: Mapping[int, Tensor]


class _Call:
    """What one UNet call puts on the layers, for one sequence of rows."""

    def __init__(
        self, session: _Session, layers: Sequence[_Layer], ids: Sequence[tuple[int, Any]], x: Tensor
    ) -> None:
        self.layers = layers
        rows: list[Row] = [session.rows.rows[number] for number, _area in ids]
        self.slots = torch.tensor([row.slot for row in rows], device=x.device)
        self.context_slots = [row.context for row in rows]
        self._now = self.slots
        self._by_place = {layer.place: layer for layer in layers}
        self._query: Tensor | None = None
        self.inserts: list[tuple[int, list[int], Tensor]] = []
        for index, (row, (_, area)) in enumerate(zip(rows, ids, strict=True)):
            if row.inserts:
                masks = masks_at(
                    [region for _, region in row.inserts],
                    *session.cells,
                    row.feather,
                    session.cell_px,
                )
                masks = masks if area is None else _cut(masks, area)
                self.inserts.append((index, [s for s, _ in row.inserts], masks.to(x)))
        self._rows = [index for index, slots, _ in self.inserts for _ in slots]
        self._inside = torch.tensor(
            [s for _, slots, _ in self.inserts for s in slots], dtype=torch.long, device=x.device
        )
        self._masks: dict[tuple[int, int], list[Tensor]] = {}

    @contextmanager
    def installed(self) -> Generator[None]:
        """The branches on the projections' `forward`, for the length of one UNet call."""
        kept: list[tuple[Any, Any]] = []
        try:
            for layer in self.layers:
                for projection, branch in layer.branches.items():
                    module = layer.module.get_submodule(projection)
                    kept.append((module, module.__dict__.get("forward")))
                    module.forward = self._with_branch(module.forward, branch)
            yield
        finally:
            self._query = None
            for module, forward in reversed(kept):
                if forward is None:
                    del module.forward
                else:
                    module.forward = forward

    def _with_branch(self, forward: Any, branch: Branch) -> Any:
        def projected(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            out = forward(x, *args, **kwargs)
            # A foreign node may call the projection for a batch of its own.
            return out + branch(x, self._now) if len(x) == len(self._now) else out

        return projected

    def before(self, n: Tensor, context: Tensor, value: Tensor, extra: Mapping[str, Any]) -> Any:
        """`attn2_patch`: every row reads its own version of the prompt in this layer."""
        layer = self._layer(extra)
        if layer is None:
            return n, context, value
        if self.inserts:
            self._query = n
        if all(slot is None for slot in self.context_slots):
            return n, context, value
        rows = [
            row if slot is None else _repeated(layer.contexts[slot], row)
            for row, slot in zip(context, self.context_slots, strict=True)
        ]
        own = torch.stack(rows)
        return n, own, own

    def after(self, out: Tensor, extra: Mapping[str, Any]) -> Tensor:
        """`attn2_output_patch`: regional cross-attention (section 4.3)."""
        layer = self._layer(extra)
        if layer is None or self._query is None:
            return out
        query = self._query[self._rows]
        context = torch.stack(_of_one_length([layer.contexts[s] for s in self._inside.tolist()]))
        self._now = self._inside
        try:
            inside = layer.module(query, context=context)
        finally:
            self._now = self.slots
        height, width = extra["activations_shape"][-2:]
        parts, start = list(out), 0
        for (index, slots, _), masks in zip(
            self.inserts, self._resized(height, width), strict=True
        ):
            own = inside[start : start + len(slots)]
            parts[index] = attention.blend_regions(parts[index], own, masks)
            start += len(slots)
        return torch.stack(parts)

    def _layer(self, extra: Mapping[str, Any]) -> _Layer | None:
        block = extra.get("block")
        return self._by_place.get((*block, extra.get("block_index", 0))) if block else None

    def _resized(self, height: int, width: int) -> list[Tensor]:
        if (height, width) not in self._masks:
            self._masks[height, width] = [
                attention.resize_mask(masks, height, width).flatten(1)
                for _, _, masks in self.inserts
            ]
        return self._masks[height, width]


def _place(path: str) -> tuple[Any, ...]:
    """`input_blocks.4.1.transformer_blocks.0.attn2` as ComfyUI names it: ("input", 4, 0)."""
    parts = path.split(".")
    middle = parts[0] == "middle_block"
    # The middle block counts as number 0 whatever its place in the sequence.
    return (_PLACES[parts[0]], 0 if middle else int(parts[1]), int(parts[-2]))


def _cut(masks: Tensor, area: Sequence[int]) -> Tensor:
    height, width, y, x = area
    return masks[:, y : y + height, x : x + width]


def _repeated(context: Tensor, row: Tensor) -> Tensor:
    """A context as long as the batch's; ComfyUI evens out lengths by repeating too."""
    return context if len(context) == len(row) else context.repeat(len(row) // len(context), 1)


def _of_one_length(contexts: Sequence[Tensor]) -> list[Tensor]:
    """Repeat contexts to a common length; softmax does not mind evenly repeated tokens."""
    length = math.lcm(*(len(context) for context in contexts))
    return [context.repeat(length // len(context), 1) for context in contexts]
