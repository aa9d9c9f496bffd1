"""AdamW on flat groups, linear decay, clipping, and the loss scale that fp16 needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods.base import Group

BETAS = (0.9, 0.999)
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Optimiser:
    """AdamW (betas 0.9, 0.999) with one learning rate per group (CIDM hyper-parameters)."""

    def __init__(self, groups: Sequence[Group], weight_decay: float) -> None:
        self.groups = groups
        self._adamw = torch.optim.AdamW(
            [{"params": [group.flat], "lr": group.lr} for group in groups],
            betas=BETAS,
            weight_decay=weight_decay,
        )

    def zero(self) -> None:
        for group in self.groups:
            group.grad.zero_()

    def update(self, factor: float, coefficient: float) -> None:
        """One step.

        Args:
            factor: Multiplies every group's learning rate.
            coefficient: Multiplies every gradient (clipping and loss scale in one).
        """
        for group, row in zip(self.groups, self._adamw.param_groups, strict=True):
            row["lr"] = group.lr * factor
            # Without a gradient AdamW leaves a frozen group alone, weight decay included.
            group.flat.grad = None if group.frozen else group.grad
            if coefficient != 1.0 and not group.frozen:
                group.grad.mul_(coefficient)
        self._adamw.step()

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments by `"{group}.{what}"`."""
        tensors: dict[str, Tensor] = {}
        for group in self.groups:
            tensors[f"{group.name}.value"] = group.flat.data
            for what in _MOMENTS:
                if what in self._adamw.state[group.flat]:
                    tensors[f"{group.name}.{what}"] = self._adamw.state[group.flat][what]
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        for group in self.groups:
            group.flat.data.copy_(tensors[f"{group.name}.value"])
            for what in _MOMENTS:
                found = tensors.get(f"{group.name}.{what}")
                if found is not None:
                    # The step counter lives on the CPU, as AdamW makes it.
                    device = torch.device("cpu") if what == "step" else group.flat.device
                    self._adamw.state[group.flat][what] = found.to(device, copy=True)


def linear_decay(step: int, steps: int) -> float:
    """Factor of the learning rate at a step (counted from 0): 1 falling to 0."""
    return 1.0 - step / steps


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
