"""What the training stages share: a budget with its schedule, averaged weights, resumable state."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass
class Budget:
    """Ends a stage after `steps` if given, else after `minutes`; drives the learning rate.

    Attributes:
        done: steps taken so far, also in earlier, interrupted runs.
        spent: seconds taken so far, likewise.
    """

    minutes: float
    steps: int = 0
    warmup: int = 100
    done: int = 0
    spent: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds spent in all runs."""
        return self.spent + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """The share of the budget that is used up, in [0, 1]."""
        used = self.done / self.steps if self.steps else self.seconds / (60 * self.minutes)
        return min(1.0, used)

    def rate(self) -> float:
        """Return the learning rate's factor: linear warm-up, then a cosine down to 2 %."""
        rise = min(1.0, (self.done + 1) / self.warmup)
        return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))


class Average:
    """Exponential moving average of a module's parameters, with a decay that grows from 0."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the module's present weights."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.module.named_parameters():
            self.shadow[name].lerp_(parameter, 1 - keep)

    @torch.no_grad()
    def exchange(self) -> None:
        """Swap the averaged and the present weights; a second call undoes the first."""
        for name, parameter in self.module.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.shadow[name])
            self.shadow[name].copy_(kept)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's learning rate from its base rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def save_state(
    path: Path,
    module: nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    budget: Budget,
) -> None:
    """Write everything a stage needs to go on after an interruption."""
    tensors: dict[str, Tensor] = {
        f"now.{k}": v.detach().clone() for k, v in module.named_parameters()
    }
    tensors |= {f"average.{k}": v.clone() for k, v in average.shadow.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v).clone() for k, v in state.items()}
    notes = json.dumps({"done": budget.done, "spent": budget.seconds})
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata={"budget": notes})
    partial.replace(path)


def load_state(
    path: Path,
    module: nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    budget: Budget,
) -> None:
    """Take up a stage where `save_state` left it; does nothing without a file."""
    if not path.exists():
        return
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[f"now.{name}"])
            average.shadow[name].copy_(tensors[f"average.{name}"])
    slots: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        notes = json.loads(file.metadata()["budget"])
    budget.done, budget.spent = int(notes["done"]), float(notes["spent"])
    logger.info("going on at step %d", budget.done)
