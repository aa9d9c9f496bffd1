"""The plan's *attend* hook on ComfyUI's UNet: layer-wise context, concept weights, regions.

Only for the length of a UNet call do linear layers have a `forward` of their own: LoRAs, offloading
and compiled models see the modules they know, and nothing is left behind.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...cidm_core.config import SampleConfig
from ...cidm_core.ops.infusion import lent
from ...cidm_core.sampling.layer_updates import LayerUpdate, layer_updates
from ...cidm_core.sampling.regional import Insert, Inserts
from ...cidm_core.sampling.streams import Phase, phase_at
from ...cidm_core.text import TextContext
from ..host.model import ModelFacts
from .conditions import CondRows

Timestep = Callable[[], float]
_PLACES = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
# One for each layer and for ever, so that a compiled UNet meets the functions it knows.
_forwards: WeakKeyDictionary[Any, _Forward] = WeakKeyDictionary()


class _Forward:
    """What stands for a linear layer's `forward` while a plan acts on it."""

    plain: Any = None
    added: Any = None
    _apart: Any = None

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.added(x, self.plain(x, *args, **kwargs))

    def untraced(self) -> Any:
        """The same function each time, from the moment on that something is compiled."""
        if self._apart is None and (found := _untraced(self)) is not self:
            self._apart = found
        return self._apart or self


@dataclass(eq=False)
class Session:
    """One sampling run: what its rows need, put on the UNet's device once."""

    facts: ModelFacts
    rows: CondRows
    config: SampleConfig
    masks: Tensor
    _models: dict[Any, _Model] = field(default_factory=dict[Any, Any])
    _calls: dict[Any, _Call] = field(default_factory=dict[Any, Any])

    def call(
        self, unet: Any, ids: tuple[tuple[int, Any], ...], x: Tensor, timestep: Timestep
    ) -> _Call:
        """What a UNet call with these rows needs; the same rows come back in every step.

        Args:
            unet: The module.
            ids: Numbers and areas of the rows.
            x: A tensor of the device and type it computes in.
            timestep: Gives the timestep, from 0 to below 1, of all rows.
        """
        place = (id(unet), x.device, x.dtype)
        if place not in self._models:
            self._models[place] = self._made(unet, x)
        phase = self._phase(timestep)
        if (ids, phase, place) not in self._calls:
            self._calls[ids, phase, place] = _Call(self, self._models[place], ids, phase, x)
        return self._calls[ids, phase, place]

    def _phase(self, timestep: Timestep) -> Phase:
        """What runs now; to read it off the GPU costs a wait, so only where it may change."""
        config = self.config
        always = config.residual_share == 1 and config.second_stream in (0, 1)
        if not self.rows.streams.plain:
            return "both"
        return phase_at(1.0 if always else timestep(), config)

    def _made(self, unet: Any, x: Tensor) -> _Model:
        facts, slots = self.facts, self.rows.slots
        updates = layer_updates(
            self.rows.concepts, slots, facts.names, x.device, x.dtype, self.config
        )
        layers = {
            _place(path): _Layer(
                unet.get_submodule(path),
                [None if slot.text is None else slot.text.at(i).to(x) for slot in slots],
            )
            for i, path in enumerate(facts.host_path(name) for name in facts.names)
        }
        linears = [(unet.get_submodule(facts.host_path(p)), u) for p, u in updates.items()]
        return _Model(layers, linears)


@dataclass(frozen=True, eq=False)
class _Layer:
    """One attn2 module, and what each slot reads in it, (tokens, dim)."""

    module: Any
    contexts: Sequence[Tensor | None]


@dataclass(frozen=True, eq=False)
class _Model:
    """The attn2 layers by the place ComfyUI names, and the linear layers that change."""

    layers: Mapping[tuple[Any, ...], _Layer]
    linears: Sequence[tuple[Any, LayerUpdate]]


class _Call:
    """What one UNet call puts on the layers, for one sequence of rows.

    Attributes:
        sources: Rows that are there for others to attend with their queries come after those that
            ComfyUI asks for: of each, the one that is asked for.
    """

    def __init__(
        self,
        session: Session,
        model: _Model,
        ids: Sequence[tuple[int, Any]],
        phase: Phase,
        x: Tensor,
    ) -> None:
        self._model = model
        asked = [session.rows.rows[number] for number, _area in ids]
        streams, slots = session.rows.streams, session.rows.slots
        pairs = streams.beside([(row.slot, row.inserts) for row in asked], phase)
        self.sources = pairs.sources
        self._lenders = torch.tensor(pairs.lenders, device=x.device) if pairs.sources else None
        areas = [area for _, area in ids] + [ids[source][1] for source in pairs.sources]
        self.slots = torch.tensor([slot for slot, _ in pairs.rows], device=x.device)
        # A text that is the same in all layers is left to ComfyUI.
        self._own = [slot if _layered(slots[slot].text) else None for slot, _ in pairs.rows]
        self._now = self.slots
        self._query: Tensor | None = None
        inserts: list[Insert] = []
        for index, ((_, put), area) in enumerate(zip(pairs.rows, areas, strict=True)):
            if put:
                inside, regions = zip(*put, strict=True)
                masks = session.masks[list(regions)]
                masks = masks if area is None else _cut(masks, area)
                inserts.append(Insert(index, torch.tensor(inside, device=x.device), masks.to(x)))
        self.inserts = Inserts(inserts)
        self._rows = [insert.row for insert in inserts for _ in insert.slots]
        self._inside = torch.cat([i.slots for i in inserts]) if inserts else self.slots[:0]

    @contextmanager
    def installed(self) -> Generator[None]:
        """The updates on the linear layers' `forward`, for the length of one UNet call."""
        kept: list[tuple[Any, Any]] = []
        try:
            for module, update in self._model.linears:
                own = _forwards.setdefault(module, _Forward())
                kept.append((module, module.__dict__.get("forward")))
                own.plain, own.added = module.forward, partial(self._added, update)
                module.forward = own.untraced()
            yield
        finally:
            self._query = None
            for module, forward in reversed(kept):
                _forwards[module].plain = _forwards[module].added = None
                if forward is None:
                    del module.forward
                else:
                    module.forward = forward

    def patches(self, others: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        """Attention patches with ours first, so that other packs see the layer-wise context."""
        own = {"attn2_patch": self.before, "attn2_output_patch": self.after}
        firsts = {name: [_untraced(each), *others.get(name, [])] for name, each in own.items()}
        return {**others, **firsts}

    def _added(self, update: LayerUpdate, x: Tensor, out: Tensor) -> Tensor:
        # A foreign node may call the projection for a batch of its own.
        return out + update(x, self._now) if len(x) == len(self._now) else out

    def before(self, n: Tensor, context: Tensor, value: Tensor, extra: Mapping[str, Any]) -> Any:
        """`attn2_patch`: every row reads its own version of the prompt in this layer."""
        layer = self._layer(extra)
        if layer is None:
            return n, context, value
        if self._lenders is not None:
            n = lent(n, self._lenders)
        if self.inserts:
            self._query = n
        if all(slot is None for slot in self._own):
            return n, context, value
        rows = [
            row if slot is None else _repeated(layer.contexts[slot], row)
            for row, slot in zip(context, self._own, strict=True)
        ]
        own = torch.stack(rows)
        return n, own, own

    def after(self, out: Tensor, extra: Mapping[str, Any]) -> Tensor:
        """`attn2_output_patch`: regional cross-attention (section 4.3)."""
        layer = self._layer(extra)
        if layer is None or self._query is None:
            return out
        held = [layer.contexts[slot] for slot in self._inside.tolist()]
        context = torch.stack(_of_one_length([each for each in held if each is not None]))
        self._now = self._inside
        try:
            inside = layer.module(self._query[self._rows], context=context)
        finally:
            self._now = self.slots
        parts = inside.split([len(insert.slots) for insert in self.inserts.inserts])
        height, width = extra["activations_shape"][-2:]
        return self.inserts.blend(out, parts, (height, width))

    def _layer(self, extra: Mapping[str, Any]) -> _Layer | None:
        block = extra.get("block")
        place = (*block, extra.get("block_index", 0)) if block else ()
        return self._model.layers.get(place)


def _layered(text: TextContext | None) -> bool:
    return text is not None and len(text.states) > 1


def _place(path: str) -> tuple[Any, ...]:
    """`input_blocks.4.1.transformer_blocks.0.attn2` as ComfyUI names it: ("input", 4, 0)."""
    parts = path.split(".")
    middle = parts[0] == "middle_block"
    # The middle block counts as number 0 whatever its place in the sequence.
    return (_PLACES[parts[0]], 0 if middle else int(parts[1]), int(parts[-2]))


def _untraced(function: Any) -> Any:
    """A function that a compiled UNet calls as it is: what it does differs from call to call."""
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function


def _cut(masks: Tensor, area: Sequence[int]) -> Tensor:
    height, width, y, x = area
    return masks[:, y : y + height, x : x + width]


def _repeated(context: Tensor | None, row: Tensor) -> Tensor:
    """A context as long as the batch's; ComfyUI evens out lengths by repeating too."""
    if context is None or len(context) == len(row):
        return row if context is None else context
    return context.repeat(len(row) // len(context), 1)


def _of_one_length(contexts: Sequence[Tensor]) -> list[Tensor]:
    """Repeat contexts to a common length; softmax does not mind evenly repeated tokens."""
    length = math.lcm(*(len(context) for context in contexts))
    return [context.repeat(length // len(context), 1) for context in contexts]
