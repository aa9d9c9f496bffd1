"""What the concepts add to the UNet's linear layers, slot by slot (CIDM Eq. 3).

Host-neutral half of the plan's *attend* hook: a host calls each layer's update with the layer's
input and the slot of every row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..concept import Concept
from ..config import SampleConfig
from ..errors import ConceptError
from ..ops import aggregation, routing
from ..updates import TEXT_ENCODERS, TEXT_SIDE, FullRank, LowRank, ValueResidual
from .residuals import act_in, acting, owners_of
from .slots import Slot
from .strengths import acting_weights

_Moved = TypeVar("_Moved", bound="Part | Biases")


@dataclass(frozen=True, eq=False)
class LowRankPart:
    """The factors of several concepts side by side."""

    down: Tensor  # (columns, in)
    up: Tensor  # (out, columns)
    weights: Tensor  # (slots, columns), or (slots, tokens, columns) where tokens are routed

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        weights = _of_length(self.weights, x)[slots]
        return aggregation.low_rank_branch(x, self.down, self.up, weights)

    def delta(self, slot: int) -> Tensor:
        return (self.up * self.weights[slot]) @ self.down


@dataclass(frozen=True, eq=False)
class FullRankPart:
    """Whole matrices."""

    deltas: Tensor  # (concepts, out, in)
    weights: Tensor  # (slots, concepts), or (slots, tokens, concepts) where tokens are routed

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        weights = _of_length(self.weights, x)[slots]
        weights = weights[:, None] if weights.ndim == 2 else weights
        parts = [(x @ d.mT) * weights[..., i, None] for i, d in enumerate(self.deltas)]
        return torch.stack(parts).sum(0)

    def delta(self, slot: int) -> Tensor:
        return torch.einsum("c,coi->oi", self.weights[slot], self.deltas)


@dataclass(frozen=True, eq=False)
class ValuePart:
    """Vectors added at the tokens of the concepts' triggers."""

    vectors: Tensor  # (concepts, out)
    weights: Tensor  # (slots, tokens, concepts), 0 at all other tokens

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        return _of_length(self.weights, x)[slots] @ self.vectors

    def delta(self, slot: int) -> Tensor:
        raise NotImplementedError("A value residual depends on the token; it is never merged.")


Part = LowRankPart | FullRankPart | ValuePart


@dataclass(frozen=True, eq=False)
class Biases:
    """Changes of the layer's bias, for all tokens alike."""

    vectors: Tensor  # (concepts, out)
    weights: Tensor  # (slots, concepts)

    def __call__(self, slots: Tensor) -> Tensor:
        return (self.weights[slots] @ self.vectors)[:, None]

    def delta(self, slot: int) -> Tensor:
        return self.weights[slot] @ self.vectors


@dataclass(frozen=True, eq=False)
class LayerUpdate:
    """All that the concepts add to one linear layer, by kind of update."""

    parts: tuple[Part, ...]
    biases: Biases | None = None

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        """What they add for features x (rows, tokens, in) or (rows, in), one slot per row."""
        if x.ndim == 2:
            return self(x[:, None], slots)[:, 0]
        total = self.parts[0](x, slots)
        for part in self.parts[1:]:
            total = total + part(x, slots)
        return total if self.biases is None else total + self.biases(slots)

    def delta(self, slot: int) -> Tensor:
        """The change of the weight for one slot (Eq. 3), (out, in)."""
        return torch.stack([part.delta(slot) for part in self.parts]).sum(0)

    def deltas(self, slot: int) -> dict[str, Tensor]:
        """`delta` as that of "weight", and the change of "bias" if there is one."""
        weight = {"weight": self.delta(slot)}
        return weight if self.biases is None else weight | {"bias": self.biases.delta(slot)}


def layer_updates(
    concepts: Sequence[Concept],
    slots: Sequence[Slot],
    layers: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    config: SampleConfig,
) -> dict[str, LayerUpdate]:
    """The updates of all linear layers of the UNet that some concept changes, by path.

    A linear layer outside cross-attention takes the weights of the cross-attention layer in its own
    transformer block; outside any, the mean over all layers.

    Args:
        concepts: Concepts taking part.
        slots: Encoded prompts with their weights.
        layers: diffusers paths of the attn2 modules in execution order.
        device: Where the updates will run.
        dtype: In which type.
        config: `strength` scales everything, beside the strengths that concepts have; with
            `key_value_routing` by token, keys and values of a concept's own tokens take its update
            alone (`ops.routing`).
    """
    # (slots, layers, concepts)
    weights = acting_weights(concepts, torch.stack([slot.weights for slot in slots]))
    weights = weights * config.strength
    tokens = _Tokens(concepts, slots, config.strength)
    if not bool((weights != 0).any()) and not bool(tokens.residuals.any()):
        return {}
    routed = config.key_value_routing == "token"
    found: dict[str, LayerUpdate] = {}
    for path in dict.fromkeys(path for concept in concepts for path in concept.updates):
        if path.startswith(TEXT_ENCODERS):
            continue
        layer = _weighing_layer(path, layers)
        at = weights.mean(1) if layer is None else weights[:, layer]
        by_token = tokens.routed(layer) if routed and path.endswith(TEXT_SIDE) else None
        parts = _parts(concepts, path, at, by_token, tokens, config)
        biases = _biases(concepts, path, at)
        if not parts:
            continue
        found[path] = LayerUpdate(
            tuple(_moved(part, device, dtype) for part in parts),
            biases and _moved(biases, device, dtype),
        )
    return found


def baked(
    concepts: Sequence[Concept], slot: Slot, layers: Sequence[str], config: SampleConfig
) -> dict[str, Tensor]:
    """The changes of the UNet's weights and biases under one prompt (Eq. 3), by their names.

    Raises:
        ConceptError: If some of it acts at single tokens of the prompt, which weights cannot.
    """
    kinds = [u for concept in concepts for u in concept.updates.values()]
    if config.key_value_routing == "token" or any(isinstance(u, ValueResidual) for u in kinds):
        raise ConceptError(
            "These concepts act at single words of the prompt (key_value_routing 'token', or a "
            "value residual), which a checkpoint's weights cannot. Draw with the bank instead, or "
            "set key_value_routing to 'prompt'."
        )
    where = torch.device("cpu"), torch.float32
    updates = layer_updates(concepts, [slot], layers, *where, config)
    changes = {path: update.deltas(0) for path, update in updates.items()}
    return {f"{path}.{name}": delta for path, own in changes.items() for name, delta in own.items()}


def _parts(
    concepts: Sequence[Concept],
    path: str,
    weights: Tensor,
    by_token: Tensor | None,
    tokens: _Tokens,
    config: SampleConfig,
) -> list[Part]:
    held = [(i, u) for i, c in enumerate(concepts) if (u := c.updates.get(path)) is not None]
    chosen = weights if by_token is None else by_token
    parts: list[Part] = []
    if pairs := [(i, u) for i, u in held if isinstance(u, LowRank)]:
        down, up, columns = aggregation.concatenate([pair for _, pair in pairs])
        owners = torch.tensor([i for i, _ in pairs])[columns]
        parts.append(LowRankPart(down, up, chosen[..., owners.to(chosen.device)]))
    if whole := [(i, u) for i, u in held if isinstance(u, FullRank)]:
        deltas = torch.stack([u.delta for _, u in whole])
        parts.append(FullRankPart(deltas, chosen[..., [i for i, _ in whole]]))
    vectors = [(i, u.vector) for i, u in held if isinstance(u, ValueResidual)]
    if vectors and act_in(path, config):
        at = tokens.residuals[..., [i for i, _ in vectors]]
        parts.append(ValuePart(torch.stack([vector.float() for _, vector in vectors]), at))
    return parts


def _biases(concepts: Sequence[Concept], path: str, weights: Tensor) -> Biases | None:
    updates = [(i, concept.updates.get(path)) for i, concept in enumerate(concepts)]
    held = [(i, u.bias) for i, u in updates if isinstance(u, FullRank) and u.bias is not None]
    if not held:
        return None
    return Biases(torch.stack([bias for _, bias in held]), weights[:, [i for i, _ in held]])


def _moved(part: _Moved, device: torch.device, dtype: torch.dtype) -> _Moved:
    return type(part)(*(tensor.to(device, dtype) for tensor in vars(part).values()))


def _weighing_layer(path: str, layers: Sequence[str]) -> int | None:
    """Number of the cross-attention layer in the same transformer block."""
    head, sign, rest = path.partition(".transformer_blocks.")
    block = f"{head}{sign}{rest.partition('.')[0]}.attn2"
    return layers.index(block) if sign and block in layers else None


class _Tokens:
    """Whose tokens the slots' prompts hold; prompts are repeated to one common length."""

    def __init__(self, concepts: Sequence[Concept], slots: Sequence[Slot], strength: float) -> None:
        self._concepts, self._slots, self._strength = concepts, slots, strength
        lengths = [slot.text.states.shape[1] for slot in slots if slot.text is not None]
        self._length = math.lcm(*lengths) if lengths else 1
        self._owners = [_owners(concepts, slot) for slot in slots]
        # How strongly value residuals act, (slots, tokens, concepts)
        at = torch.stack([self._repeated(acting(concepts, slot)) for slot in slots])
        self.residuals = strength * acting_weights(concepts, at)

    def routed(self, layer: int | None) -> Tensor:
        """Weights of keys and values of every token, (slots, tokens, concepts)."""
        at = 0 if layer is None else layer
        pairs = zip(self._slots, self._owners, strict=True)
        each = [routing.token_weights(slot.weights[at], owners) for slot, owners in pairs]
        whole = torch.stack([self._repeated(weights) for weights in each])
        return acting_weights(self._concepts, whole) * self._strength

    def _repeated(self, weights: Tensor) -> Tensor:
        return weights.repeat(self._length // len(weights), 1)


def _owners(concepts: Sequence[Concept], slot: Slot) -> Tensor:
    """Whose token each one is, (tokens,), as `routing.token_weights` takes it.

    Plain words keep the base weights. The start, the end and the padding belong to no word: they
    sum the prompt up, and keep its weights.
    """
    if slot.text is None:
        return torch.full((1,), routing.PROMPT)
    table = torch.full((slot.text.states.shape[1],), routing.PROMPT)
    spans = slot.text.spans
    table[list(spans.plain)] = routing.BARE
    index = owners_of(concepts, slot)
    for trigger, positions in spans.triggers.items():
        table[list(positions)] = index.get(trigger, routing.BARE)
    return table


def _of_length(weights: Tensor, x: Tensor) -> Tensor:
    """Weights of single tokens, for a context that may be repeated fewer times."""
    return weights if weights.ndim == 2 else weights[:, : x.shape[1]]
