"""Less memory for weights that do not learn: kept in 8 bits, or off the device for a while."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import conv2d, linear
from torch.nn.grad import conv2d_input

from ..errors import HostError

EIGHT_BITS = torch.float8_e4m3fn
_LARGEST = torch.finfo(EIGHT_BITS).max
_KEPT = ("conv_in", "conv_out", "time_embedding", "add_embedding")  # small, and all depends on them


class Parking:
    """Weights in main memory, and on a device only while they are needed.

    Args:
        modules: Frozen modules; their weights may not change meanwhile.
        device: Where they compute.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self._device = device
        self._homes = [(p, p.data.cpu()) for module in modules for p in module.parameters()]

    def fetch(self) -> None:
        for parameter, home in self._homes:
            parameter.data = home.to(self._device)

    def park(self) -> None:
        for parameter, home in self._homes:
            parameter.data = home


@contextmanager
def in_eight_bits(module: nn.Module) -> Generator[None]:
    """Linear layers and convolutions with 8-bit weights for a while; afterwards as before.

    The weights proper wait in main memory. Products compute in the type of what comes in; scaled to
    the whole range of float8_e4m3fn, a weight is 2 to 3 % away from itself.

    Raises:
        HostError: If the device cannot do it.
    """
    held: list[tuple[Any, Tensor, torch.device]] = []
    try:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and not name.startswith(_KEPT):
                device = layer.weight.device
                small, scale = _rounded(layer.weight.data)
                held.append((layer, layer.weight.data.cpu(), device))
                layer.weight.data = small
                product = _linear if isinstance(layer, nn.Linear) else _conv
                layer.forward = partial(product, layer, scale)
        yield
    finally:
        for layer, weight, device in held:
            vars(layer).pop("forward", None)
            layer.weight.data = weight.to(device)


def _rounded(weight: Tensor) -> tuple[Tensor, float]:
    scale = float(weight.abs().max()) / _LARGEST or 1.0
    try:
        return (weight / scale).to(EIGHT_BITS), scale
    except (RuntimeError, TypeError) as error:
        raise HostError(
            f"{weight.device} cannot keep weights in 8 bits ({error}). Leave `frozen_fp8` off."
        ) from error


def _linear(layer: nn.Linear, scale: float, x: Tensor) -> Tensor:
    return _Product.apply(x, layer.weight, layer.bias, scale, None)


def _conv(layer: nn.Conv2d, scale: float, x: Tensor) -> Tensor:
    how = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
    return _Product.apply(x, layer.weight, layer.bias, scale, how)


class _Product(Function):
    """A product with an 8-bit weight, of which the backward pass keeps nothing but that."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float, how: Any
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.scale, ctx.how, ctx.size = scale, how, x.shape
        whole = weight.to(x.dtype) * scale
        return linear(x, whole, bias) if how is None else conv2d(x, whole, bias, **how)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (weight,), (grad,) = ctx.saved_tensors, grads
        whole = weight.to(grad.dtype) * ctx.scale
        if ctx.how is None:
            return grad @ whole, None, None, None, None
        return conv2d_input(ctx.size, whole, grad, **ctx.how), None, None, None, None
