"""AdamW on flat groups, clipping, and the loss scale that fp16 needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods.group import Group

BETAS = (0.9, 0.999)
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Optimiser:
    """AdamW (betas 0.9, 0.999) on the groups that learn, each at a rate of its own."""

    def __init__(self, rates: Mapping[Group, float], weight_decay: float) -> None:
        self.rates = rates
        self._adamw = torch.optim.AdamW(
            [{"params": [group.flat], "lr": lr} for group, lr in rates.items()],
            betas=BETAS,
            weight_decay=weight_decay,
        )

    def zero(self) -> None:
        for group in self.rates:
            group.grad.zero_()

    def update(self, factor: float, coefficient: float) -> None:
        """One step at `factor` times the learning rates and `coefficient` times the gradients."""
        for (group, lr), row in zip(self.rates.items(), self._adamw.param_groups, strict=True):
            row["lr"] = lr * factor
            # Without a gradient AdamW leaves a frozen group alone, weight decay included.
            group.flat.grad = None if group.frozen else group.grad
            if coefficient != 1.0 and not group.frozen:
                group.grad.mul_(coefficient)
        self._adamw.step()

    def state(self) -> dict[str, Tensor]:
        """AdamW's moments by `"{group}.{what}"`; the tensors are those in use."""
        states = {group.name: self._adamw.state[group.flat] for group in self.rates}
        return {
            f"{name}.{what}": state[what]
            for name, state in states.items()
            for what in _MOMENTS
            if what in state
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        for group in self.rates:
            for what in _MOMENTS:
                found = tensors.get(f"{group.name}.{what}")
                if found is not None:
                    # The step counter lives on the CPU, as AdamW makes it.
                    device = torch.device("cpu") if what == "step" else group.flat.device
                    self._adamw.state[group.flat][what] = found.to(device, copy=True)


@dataclass(frozen=True)
class Reading:
    """The numbers of a step, read from the device at once."""

    terms: dict[str, float]
    norm: float

    @property
    def loss(self) -> float:
        return sum(self.terms.values())

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def clip_factor(norm: float, limit: float) -> float:
    """What to multiply gradients of this norm by; limit 0 means no clipping."""
    return min(1.0, limit / (norm + 1e-6)) if limit > 0 else 1.0


@dataclass
class LossScale:
    """Keeps fp16 gradients from underflowing: halve on overflow, double after `PATIENCE` steps.

    Like torch's GradScaler, but its whole state is two numbers that a run state can hold.
    """

    value: float = 1.0
    good: int = 0
    active: bool = False
    PATIENCE = 2000

    @classmethod
    def for_precision(cls, precision: str) -> LossScale:
        return cls(2.0**16, 0, True) if precision == "fp16" else cls()

    def overflow(self) -> bool:
        """Take note of gradients that were not finite; False when scaling cannot be the cause."""
        if not self.active or self.value <= 1.0:
            return False
        self.value, self.good = max(1.0, self.value / 2), 0
        return True

    def success(self) -> None:
        self.good += 1
        if self.active and self.good >= self.PATIENCE:
            self.value, self.good = self.value * 2, 0


def total_norm(norms: Sequence[float]) -> float:
    """Norm of all groups together; not finite as soon as one is not."""
    return math.sqrt(sum(norm * norm for norm in norms))
