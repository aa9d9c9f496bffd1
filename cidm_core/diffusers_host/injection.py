"""What learning puts into a diffusers model, and how all of it is taken out again.

peft LoRA on the layers a method named, each layer's own context for every attn2, gradients for the
method's parameters alone. Afterwards: the same modules, the same weights, the same flags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import HostError
from ..methods.base import Adapter
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


class Injection:
    """Adapters and contexts in a UNet.

    Args:
        base: The model.
        context: Gives a layer's text context in the forward pass under way.
        record: Takes a layer's attention probabilities, mean over heads (batch, cells, tokens).
    """

    def __init__(
        self,
        base: Base,
        context: Callable[[int], Tensor],
        record: Callable[[int, Tensor], None],
    ) -> None:
        self._unet, self._context, self._record = base.unet, context, record
        self._attentions = [base.unet.get_submodule(layer.path) for layer in base.layers]
        self._watching = False
        self._processors = [module.processor for module in self._attentions]
        self._hooks: list[Any] = []
        self._swaps: list[tuple[nn.Module, str, nn.Module]] = []
        self._injected: list[nn.Module] = []

    def build(self, adapters: Mapping[str, Adapter]) -> None:
        """Let peft wrap the layers, and give it our parameters instead of its own.

        Raises:
            HostError: If the UNet carries another LoRA already.
        """
        if hasattr(self._unet, "peft_config"):
            raise HostError(
                "The UNet already carries a LoRA put in by peft. Take it out (unload_lora) first."
            )
        self._swaps = [
            (*_parent(self._unet, key), self._unet.get_submodule(key)) for key in adapters
        ]
        first = next(iter(adapters.values()))
        config = LoraConfig(
            r=first.down.shape[0],
            lora_alpha=first.alpha,  # type: ignore[arg-type] - a float divides as well
            target_modules="|".join(re.escape(key) for key in adapters),
            init_lora_weights=False,
        )
        # Making its own weights, peft would draw from the global generator.
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, self._unet, ADAPTER)
        for key, adapter in adapters.items():
            layer: Any = self._unet.get_submodule(key)
            layer.lora_A[ADAPTER].weight = adapter.down
            layer.lora_B[ADAPTER].weight = adapter.up
        self._injected = [getattr(parent, name) for parent, name, _ in self._swaps]
        self.enter()

    def enter(self) -> None:
        for (parent, name, _), module in zip(self._swaps, self._injected, strict=True):
            setattr(parent, name, module)
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
        if self._swaps and hasattr(self._unet, "peft_config"):
            del self._unet.peft_config
        for module, processor in zip(self._attentions, self._processors, strict=True):
            module.processor = processor

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
