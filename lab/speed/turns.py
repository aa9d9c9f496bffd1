"""A run of `train_concept` and other training steps taking turns; what a step does, counted."""

import time
from collections.abc import Callable, Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from cidm_core.training.progress import Progress

OURS = "ours"
WARM_UP = 2
IDLE = ("empty", "detach", "_local_scalar", "lift", "_unsafe_view")


def _attention(query, key, value, *_, out_shape=None, **__) -> int:
    del out_shape
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *_, out_shape=None, **__) -> int:
    del out_shape
    return sdpa_backward_flop_count(grad, query, key, value)


def count_flops() -> FlopCounterMode:
    """Torch's own counter, which does not know the CPU's fused attention."""
    aten = torch.ops.aten
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


class CountKernels(TorchDispatchMode):
    """Counts tensor operations that compute something; views and bare allocations do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        returned = [r.alias_info for r in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in returned)
        self.count += not (is_view or func.__name__.startswith(IDLE))
        return func(*args, **(kwargs or {}))


class Turns:
    """Progress callback of our run: clocks our steps and lets the others have their turns.

    After the timed rounds two more steps are counted: floating-point operations, then kernels.
    """

    def __init__(self, others: Mapping[str, Callable[[], object]], rounds: int) -> None:
        self.others, self.rounds = dict(others), rounds
        self.seconds: dict[str, list[float]] = {name: [] for name in (OURS, *others)}
        self.tflop: dict[str, float] = {}
        self.kernels: dict[str, int] = {}
        self.last_losses: dict[str, float] = {}
        self._gauge: FlopCounterMode | CountKernels | None = None
        self._resumed = 0.0

    @property
    def steps(self) -> int:
        """How many steps our run needs."""
        return WARM_UP + self.rounds + 2

    def __call__(self, event: Progress) -> None:
        now = time.process_time()
        if event.phase != "learning":
            return
        self.last_losses = dict(event.terms)
        turn = event.step - WARM_UP  # 0 after the warm-up
        if 0 < turn <= self.rounds:
            self.seconds[OURS].append(now - self._resumed)
        self._close_gauge(OURS)
        if turn < self.rounds:
            self._others_turn(turn)
        elif turn == self.rounds:
            self._count(count_flops)
        elif turn == self.rounds + 1:
            self._count(CountKernels)
        self._resumed = time.process_time()

    def _others_turn(self, turn: int) -> None:
        names = list(self.others)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.process_time()
            self.others[name]()
            if turn >= 0:
                self.seconds[name].append(time.process_time() - started)

    def _count(self, make: Callable[[], FlopCounterMode | CountKernels]) -> None:
        """Count a step of each of the others, and go on counting until our next one is done."""
        for name, step in self.others.items():
            self._open_gauge(make())
            step()
            self._close_gauge(name)
        self._open_gauge(make())

    def _open_gauge(self, gauge: FlopCounterMode | CountKernels) -> None:
        self._gauge = gauge
        gauge.__enter__()

    def _close_gauge(self, name: str) -> None:
        gauge, self._gauge = self._gauge, None
        if gauge is None:
            return
        gauge.__exit__(None, None, None)
        if isinstance(gauge, FlopCounterMode):
            self.tflop[name] = gauge.get_total_flops() / 1e12
        else:
            self.kernels[name] = gauge.count
