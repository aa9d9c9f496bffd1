"""Muon: momentum whose matrix is made orthogonal, so that every direction learns equally fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonal(g: Tensor) -> Tensor:
    """Bring a matrix's singular values near 1 by five Newton-Schulz steps.

    References:
        Keller Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """
    x = (g / (g.norm() + 1e-7)).bfloat16()
    x = x.T if g.shape[0] > g.shape[1] else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if g.shape[0] > g.shape[1] else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for groups with `matrix=True`, Adam with decoupled decay for the others."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "matrix": False, "decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; a closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            update = self._muon if group["matrix"] else self._adam
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["decay"])
                    update(p, p.grad, group["lr"])

    def _muon(self, p: Tensor, g: Tensor, rate: float) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].mul_(0.95).add_(g)
        matrix = g.add(state["momentum"], alpha=0.95).flatten(1)
        shape = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        p.add_(orthogonal(matrix).view_as(p), alpha=-rate * shape)

    def _adam(self, p: Tensor, g: Tensor, rate: float) -> None:
        state = self.state[p]
        if not state:
            state |= {"step": torch.tensor(0.0), "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        state["step"] += 1
        count = float(state["step"])
        state["m"].lerp_(g, 0.1)
        state["v"].lerp_(g * g, 0.01)
        size = (state["v"] / (1 - 0.99**count)).sqrt_().add_(1e-8)
        p.addcdiv_(state["m"], size, value=-rate / (1 - 0.9**count))


def muon(module: nn.Module, adam: tuple[str, ...], matrix_rate: float, adam_rate: float) -> Muon:
    """Return Muon for a module's weights; vectors and names with a part of `adam` use Adam."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, p in module.named_parameters():
        plain = p.ndim < 2 or any(part in name for part in adam)
        (others if plain else matrices).append(p)
    return Muon(
        [
            {"params": matrices, "base_lr": matrix_rate, "matrix": True, "decay": 0.1},
            {"params": others, "base_lr": adam_rate, "matrix": False, "decay": 0.0},
        ]
    )
