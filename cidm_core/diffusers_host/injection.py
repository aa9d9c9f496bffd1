"""What learning puts into a diffusers model, and how all of it is taken out again.

peft LoRA on the layers that learn at low rank, hooks on those that learn whole matrices or value
residuals, each layer's own context for every attn2, gradients for the method's parameters alone.
Afterwards: the same modules, the same weights, the same flags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..errors import HostError
from ..updates import FullRank, LowRank, Update, ValueResidual
from .base import Base

ADAPTER = "cidm"
_CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")
_MISSING = object()


class Flags:
    """What `requires_grad`, `training` and checkpointing were, module by module."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        parts = [part for module in modules for part in module.modules()]
        self._grads = [(p, p.requires_grad) for m in modules for p in m.parameters()]
        self._modes = [(part, part.training) for part in parts]
        self._checkpointing = [
            (part, name, part.__dict__.get(name, _MISSING))
            for part in parts
            if hasattr(part, "gradient_checkpointing")
            for name in _CHECKPOINTING
        ]

    def restore(self) -> None:
        for parameter, value in self._grads:
            parameter.requires_grad_(value)
        for module, value in self._modes:
            module.training = value
        for module, name, value in self._checkpointing:
            if value is not _MISSING:
                setattr(module, name, value)
            elif name in module.__dict__:  # only its class had it
                delattr(module, name)


def checkpoint_activations(modules: Sequence[nn.Module]) -> None:
    """Have activations recomputed in the backward pass; `Flags.restore` ends it.

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


_TEXT_SIDE = ("attn2.to_k", "attn2.to_v")  # these layers see the tokens of the prompt


class Injection:
    """Live updates and contexts in a model.

    Args:
        base: The model.
        context: Gives a layer's text context in the forward pass under way.
        at_triggers: Gives 1 at the tokens of the triggers, (batch, tokens, 1), 0 elsewhere.
        record: Takes a layer's attention probabilities, mean over heads (batch, cells, tokens).
    """

    def __init__(
        self,
        base: Base,
        context: Callable[[int], Tensor],
        at_triggers: Callable[[], Tensor],
        record: Callable[[int, Tensor], None],
    ) -> None:
        self._base, self._context, self._record = base, context, record
        self._at_triggers = at_triggers
        self._attentions = [base.unet.get_submodule(layer.path) for layer in base.layers]
        self._watching = False
        self._processors = [module.processor for module in self._attentions]
        self._hooks: list[Any] = []
        self._adding: list[tuple[nn.Module, FullRank | ValueResidual]] = []
        self._swaps: list[tuple[nn.Module, str, nn.Module]] = []
        self._injected: list[nn.Module] = []
        self._wrapped: list[Any] = []

    def build(self, updates: Mapping[str, Update]) -> None:
        """Put live updates on their layers.

        Args:
            updates: By path of a linear layer of the UNet or of a text encoder.

        Raises:
            HostError: If the model carries another LoRA already, or a value residual is for a layer
                that does not see the prompt's tokens.
        """
        for name, root in (("UNet", self._base.unet), *self._encoders()):
            if hasattr(root, "peft_config"):
                raise HostError(
                    f"The {name} already carries a LoRA put in by peft. Take it out (unload_lora) "
                    "first."
                )
        low: dict[int, tuple[Any, dict[str, LowRank]]] = {}
        for path, update in updates.items():
            root, inner = self._base.located(path)
            if isinstance(update, LowRank):
                low.setdefault(id(root), (root, {}))[1][inner] = update
            elif isinstance(update, FullRank) or path.endswith(_TEXT_SIDE):
                self._adding.append((root.get_submodule(inner), update))
            else:
                raise HostError(
                    f"A value residual cannot act on {path}: that layer does not see the tokens of "
                    "the prompt. Use attn2.to_v or attn2.to_k."
                )
        for root, held in low.values():
            self._wrap(root, held)
        self._injected = [getattr(parent, name) for parent, name, _ in self._swaps]
        self.enter()

    def _encoders(self) -> list[tuple[str, Any]]:
        rows = self._base.family.encoders
        return [(r.name, e) for r, e in zip(rows, self._base.text_encoders, strict=True)]

    def _wrap(self, root: Any, updates: Mapping[str, LowRank]) -> None:
        """Let peft wrap the layers, and give it our parameters and scales instead of its own."""
        self._swaps += [(*_parent(root, path), root.get_submodule(path)) for path in updates]
        self._wrapped.append(root)
        config = LoraConfig(
            r=1,
            target_modules="|".join(re.escape(path) for path in updates),
            init_lora_weights=False,
        )
        # Making its own weights, peft would draw from the global generator.
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, root, ADAPTER)
        for path, update in updates.items():
            layer: Any = root.get_submodule(path)
            layer.lora_A[ADAPTER].weight = update.down
            layer.lora_B[ADAPTER].weight = update.up
            layer.scaling[ADAPTER] = update.scale

    def enter(self) -> None:
        for (parent, name, _), module in zip(self._swaps, self._injected, strict=True):
            setattr(parent, name, module)
        for module, update in self._adding:
            self._hooks.append(module.register_forward_hook(partial(self._add, update)))
        for index, attention in enumerate(self._attentions):
            hook = partial(self._swap_context, index)
            self._hooks.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
        if self._watching:
            self.watch()

    def watch(self) -> None:
        """Have the attention probabilities recorded from now on."""
        self._watching = True
        for index, attention in enumerate(self._attentions):
            attention.processor = _Recorder(partial(self._record, index))

    def leave(self) -> None:
        """Undo everything, also what a failed `build` left half done."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for parent, name, original in self._swaps:
            setattr(parent, name, original)
        for root in self._wrapped:
            if hasattr(root, "peft_config"):
                del root.peft_config
        for module, processor in zip(self._attentions, self._processors, strict=True):
            module.processor = processor

    def _add(
        self, update: FullRank | ValueResidual, module: nn.Module, args: Any, output: Tensor
    ) -> Tensor:
        del module
        if isinstance(update, FullRank):
            added = functional.linear(args[0].to(update.delta.dtype), update.delta)
        else:
            added = self._at_triggers() * update.vector
        return output + added.to(output.dtype)

    def _swap_context(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Also called when checkpointing runs a layer a second time, in the backward pass."""
        del module
        return args, {**kwargs, "encoder_hidden_states": self._context(index)}


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    above, _, name = path.rpartition(".")
    return root.get_submodule(above), name


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
