"""Memory that a computation would take, counted without computing: tensors have shapes alone.

On torch's device "meta" the very code that learns runs in a second or two, and no number is made.
What torch does differently there is put right: attention is fused as on a GPU, `autocast` chooses
types as it does on the device meant, and what leaves the device is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

META = torch.device("meta")
_aten: Any = torch.ops.aten
_Shape = tuple[torch.Size, tuple[int, ...], torch.dtype]


class Ledger(TorchDispatchMode):
    """Bytes of the tensors on "meta" that are alive: now, and at most since `mark`.

    Args:
        counts_parked: What is moved to the CPU counts as well: the device meant is the CPU.
    """

    def __init__(self, *, counts_parked: bool = False) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._counts_parked = counts_parked
        self._alive: dict[int, int] = {}
        self._made: dict[Any, _Shape | list[_Shape | None]] = {}
        self._plain: dict[Any, bool] = {}

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            self._count(tensor)

    def mark(self) -> int:
        """Begin a phase: the peak is what is there now."""
        self.peak = self.now
        return self.now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, tensors = kwargs or {}, list(_tensors(args))
        on_meta = [each.is_meta for each in tensors]
        if func is _aten._local_scalar_dense.default and all(on_meta):
            return 1.0 if args[0].is_floating_point() else 1  # any number will do
        leaves = func is _aten._to_copy.default and any(on_meta) and _is_cpu(kwargs.get("device"))
        if leaves:
            kwargs = {**kwargs, "device": META}
        if any(on_meta) and not all(on_meta):
            args = tree_map_only(Tensor, _without_numbers, args)
        found = self._run(func, args, kwargs)
        if not leaves or self._counts_parked:
            self.hold(_tensors(found))
        return found

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result; of what was asked for before, with the same shapes, it is only made anew."""
        if not self._is_plain(func):
            return func(*args, **kwargs)
        key = (func, _described(args), _described(tuple(kwargs.items())))
        try:
            known = self._made.get(key)
        except TypeError:  # something has no hash
            return func(*args, **kwargs)
        if known is not None:
            return [_empty(each) for each in known] if isinstance(known, list) else _empty(known)
        found = func(*args, **kwargs)
        if all(each.is_meta for each in _tensors(found)):
            several = isinstance(found, tuple | list)
            self._made[key] = [_shape(each) for each in found] if several else _shape(found)  # type: ignore[assignment]
        return found

    def _is_plain(self, func: Any) -> bool:
        """Whether it makes new tensors, and neither views nor changes those it is given."""
        if func not in self._plain:
            schema = func._schema
            own = not any(each.alias_info for each in schema.arguments)
            kinds = {str(each.type) for each in schema.returns}
            self._plain[func] = own and kinds == {"Tensor"}
        return self._plain[func]

    def _count(self, tensor: Tensor) -> None:
        if not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata  # pyright: ignore[reportPrivateUsage] - what tells storages apart
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._alive.pop(key)


_LOWER: frozenset[Any] = frozenset({
    *(F.linear, F.conv2d, torch.conv2d, torch.bmm, torch.baddbmm, torch.matmul),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.bmm),
})  # fmt: skip
_FULL: frozenset[Any] = frozenset({
    *(F.layer_norm, F.group_norm, torch.layer_norm, torch.group_norm),
    *(F.softmax, torch.softmax, Tensor.softmax),
})  # fmt: skip


class AsOn(TorchFunctionMode):
    """Types and attention as `torch.autocast` and fused kernels have them on a kind of device.

    Args:
        device: The device meant.
        dtype: Of `autocast`; None: it is off.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self._dtype = dtype
        # The CPU normalises in the lower type; torch/csrc's lists of GPUs have float32.
        self._full = frozenset[Any]() if device.type == "cpu" else _FULL
        self._fused = device.type != "mps"

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs, dtype = kwargs or {}, self._dtype
        if func is F.scaled_dot_product_attention:
            args, kwargs = _cast(dtype, args, kwargs)
            return (_fused if self._fused else func)(*args, **kwargs)
        if dtype is not None and func in _LOWER:
            args, kwargs = _cast(dtype, args, kwargs)
        elif dtype is not None and func in self._full:
            args, kwargs = _cast(torch.float32, args, kwargs)
        return func(*args, **kwargs)


def backward(loss: Tensor) -> None:
    """`loss.backward()` that leaves a function mode at work, for activations computed again."""
    engine: Any = torch.autograd.Variable._execution_engine  # pyright: ignore[reportPrivateUsage]
    how = {"allow_unreachable": True, "accumulate_grad": True}
    engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), **how)


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """What every fused kernel keeps: its inputs, its output and one number for each row."""
    fused: Callable[..., Any] = _aten._scaled_dot_product_flash_attention_for_cpu
    return fused(q, k, v, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def _cast(dtype: torch.dtype | None, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if dtype is None:
        return args, kwargs

    def cast(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if floating else value

    return [cast(each) for each in args], {key: cast(each) for key, each in kwargs.items()}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _tensors(each)


def _without_numbers(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta or not tensor.dim() else torch.empty_like(tensor, device=META)


def _is_cpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def _described(value: Any) -> Any:
    """What decides the shapes of a result, as a key."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.is_meta
    if isinstance(value, tuple | list):
        return tuple(_described(each) for each in value)  # pyright: ignore[reportUnknownVariableType]
    return value


def _shape(tensor: Tensor | None) -> _Shape | None:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype)


def _empty(shape: _Shape | None) -> Tensor | None:
    return shape and torch.empty_strided(*shape[:2], dtype=shape[2], device=META)
