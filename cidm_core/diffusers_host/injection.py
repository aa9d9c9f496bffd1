"""What learning puts into a diffusers model, and how all of it is taken out again.

Hooks on the linear layers that learn, each layer's own context for every attn2, gradients for the
method's parameters alone. Afterwards: the same modules, the same weights, the same flags.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from ..errors import HostError
from ..ops.preservation import without_start
from ..updates import TEXT_SIDE, FullRank, Update, ValueResidual
from .base import Base

Stream = Literal["single", "foundation", "customised"]
_SWITCHES = ("training", "gradient_checkpointing", "_gradient_checkpointing_func")


@contextmanager
def flags_kept(modules: Sequence[nn.Module]) -> Generator[None]:
    """Afterwards `requires_grad`, `training` and checkpointing are what they were."""
    parts = [part for module in modules for part in module.modules()]
    grads = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    switches = [{k: v for k, v in vars(part).items() if k in _SWITCHES} for part in parts]
    try:
        yield
    finally:
        for parameter, value in grads:
            parameter.requires_grad_(value)
        for part, held in zip(parts, switches, strict=True):
            for name in _SWITCHES:  # what only its class had goes from the module again
                vars(part).pop(name, None)
            vars(part).update(held)


def checkpoint_activations(modules: Sequence[nn.Module]) -> None:
    """Have activations recomputed in the backward pass; `flags_kept` ends it.

    The parts are told themselves: the models' own switches differ between versions, and that of
    transformers makes the embeddings require gradients besides.
    """
    recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    for module in modules:
        for part in module.modules():
            if hasattr(part, "gradient_checkpointing"):
                part.gradient_checkpointing = True  # type: ignore[assignment] - a plain attribute
                part._gradient_checkpointing_func = recompute  # type: ignore[assignment]
                # Some versions recompute in training mode only. The part alone: a dropout somewhere
                # below must not wake up.
                part.training = True


class Injection:
    """Live updates and contexts in a model, from `enter` to `leave`.

    Args:
        base: The model.
        updates: By path of a linear layer of the UNet or of a text encoder.
        context: Gives a layer's text context in the forward pass under way.
        at_triggers: Gives 1 at the tokens of the triggers, (batch, tokens, 1), 0 elsewhere.
        detach_start: Says whether the prompt's first token is to teach nothing.
        record: Takes a layer's attention probabilities, mean over heads (batch, cells, tokens).

    Raises:
        HostError: If the model carries another LoRA already, or a value residual is for a layer
            that does not see the prompt's tokens.
    """

    def __init__(
        self,
        base: Base,
        updates: Mapping[str, Update],
        context: Callable[[int], Tensor],
        at_triggers: Callable[[], Tensor],
        detach_start: Callable[[], bool],
        record: Callable[[int, Tensor], None],
    ) -> None:
        _check(base, updates)
        self._context, self._at_triggers, self._record = context, at_triggers, record
        self._detach_start = detach_start
        self._updated = [(base.module(path), path, update) for path, update in updates.items()]
        self._attentions = [base.unet.get_submodule(layer.path) for layer in base.layers]
        self._processors = [module.processor for module in self._attentions]
        self._watching = False
        self._stream: Stream = "single"
        self._queries: dict[int, Tensor] = {}
        self._hooks: list[Any] = []

    def enter(self) -> None:
        for module, path, update in self._updated:
            hook = partial(self._add, update, path.endswith(TEXT_SIDE))
            self._hooks.append(module.register_forward_hook(hook))
        for index, attention in enumerate(self._attentions):
            hook = partial(self._swap_context, index)
            self._hooks.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
            hook = partial(self._lend, index)
            self._hooks.append(attention.to_q.register_forward_hook(hook))
        if self._watching:
            self.watch()

    @contextmanager
    def foundation(self) -> Generator[None]:
        """For one forward pass: no value residual acts, and all queries are kept.

        In passes after it these are the queries, until `single`.
        """
        self._stream = "foundation"
        try:
            with torch.no_grad():
                yield
        finally:
            self._stream = "customised"

    def single(self) -> None:
        """From now on every pass has queries of its own."""
        self._stream = "single"
        self._queries.clear()

    def watch(self) -> None:
        """Have the attention probabilities recorded from now on."""
        self._watching = True
        for index, attention in enumerate(self._attentions):
            attention.processor = _Recorder(partial(self._record, index))

    def leave(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.single()
        for module, processor in zip(self._attentions, self._processors, strict=True):
            module.processor = processor

    def _add(
        self, update: Update, sees_text: bool, _module: nn.Module, args: Any, output: Tensor
    ) -> Tensor:
        """The layer's output with what an update adds."""
        if isinstance(update, ValueResidual):
            if self._stream == "foundation":
                return output
            added = self._at_triggers() * update.vector
        elif isinstance(update, FullRank):
            added = linear(args[0].to(update.delta.dtype), update.delta, update.bias)
        else:
            lower = linear(args[0].to(update.down.dtype), update.down)
            added = linear(lower, update.up) * update.scale
        found = (output + added).to(output.dtype)
        if sees_text and self._detach_start():
            return without_start(found)
        return found

    def _lend(self, index: int, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        """A layer's queries: kept in the foundation stream, lent to the customised one."""
        if self._stream == "foundation":
            self._queries[index] = output
        return self._queries.get(index, output)

    def _swap_context(
        self, index: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Also called when checkpointing runs a layer a second time, in the backward pass."""
        return args, {**kwargs, "encoder_hidden_states": self._context(index)}


class _Recorder:
    """Attention that keeps its probabilities; slower than the fused kind, same result."""

    def __init__(self, record: Callable[[Tensor], None]) -> None:
        self._record = record

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key)
        self._record(probabilities.unflatten(0, (-1, attn.heads)).mean(1))
        return attn.to_out[0](attn.batch_to_head_dim(probabilities @ value))


def _check(base: Base, updates: Mapping[str, Update]) -> None:
    names = ["UNet", *(row.name for row in base.family.encoders)]
    for name, root in zip(names, (base.unet, *base.text_encoders), strict=True):
        if hasattr(root, "peft_config"):
            raise HostError(
                f"The {name} already carries a LoRA put in by peft. Take it out (unload_lora)."
            )
    for path, update in updates.items():
        if isinstance(update, ValueResidual) and not path.endswith(TEXT_SIDE):
            raise HostError(
                f"A value residual cannot act on {path}: that layer does not see the tokens of "
                "the prompt. Use attn2.to_v or attn2.to_k."
            )
