"""The loop that trains all embedded models: a budget with its schedule, averaged weights, state."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
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


class TrainingRun:
    """A stage of training: module, optimiser, budget, averaged weights, and a file to go on from.

    Args:
        module: Trained in place.
        optimizer: Its groups have a `base_lr`.
        budget: How long; takes over what an interrupted run has spent.
        decay: Of the average.
        state: File of an interrupted run, taken up if it is there; None: nothing is kept.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        budget: Budget,
        decay: float,
        state: Path | None = None,
    ) -> None:
        self.module, self.optimizer, self.budget = module, optimizer, budget
        self.average, self.state = Average(module, decay), state
        if state is not None and state.exists():
            self._load(state)

    def learn(
        self,
        losses: Callable[[], Mapping[str, Tensor]],
        save_every: int = 500,
        on_save: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """Train until the budget is spent, and leave the averaged weights in the module.

        Args:
            losses: The terms of the next batch; their sum is what is minimised.
            save_every: Steps between saved states.
            on_save: Called after each, while the module holds the averaged weights.

        Returns:
            Running mean of each term.
        """
        means: dict[str, float] = {}
        budget = self.budget
        while budget.progress < 1:
            terms = losses()
            self._step(torch.stack(list(terms.values())).sum())
            for name, term in terms.items():
                value = term.item()
                means[name] = 0.99 * means[name] + 0.01 * value if name in means else value
            if budget.done % 50 == 0:
                told = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
                logger.info("step %d: %s, %.0f s", budget.done, told, budget.seconds)
            if budget.done % save_every == 0:
                self._save()
                if on_save is not None:
                    self.average.exchange()
                    on_save()
                    self.average.exchange()
        self._save()
        self.average.exchange()
        return means

    def _step(self, loss: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.budget.rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.budget.done += 1
        self.average.update(self.budget.done)

    def _save(self) -> None:
        """Write everything that going on after an interruption needs."""
        if self.state is None:
            return
        tensors: dict[str, Tensor] = {
            f"now.{name}": p.detach() for name, p in self.module.named_parameters()
        }
        tensors |= {f"average.{name}": shadow for name, shadow in self.average.shadow.items()}
        for index, held in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in held.items()}
        spent = json.dumps({"done": self.budget.done, "spent": self.budget.seconds})
        partial = self.state.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"budget": spent})
        partial.replace(self.state)

    def _load(self, state: Path) -> None:
        slots: dict[int, dict[str, Any]] = {}
        with torch.no_grad(), safe_open(state, framework="pt") as file:
            for name, parameter in self.module.named_parameters():
                parameter.copy_(file.get_tensor(f"now.{name}"))
                self.average.shadow[name].copy_(file.get_tensor(f"average.{name}"))
            for key in file.keys():  # noqa: SIM118 - not a mapping
                if key.startswith("optimizer."):
                    _, index, name = key.split(".")
                    slots.setdefault(int(index), {})[name] = file.get_tensor(key)
            spent = json.loads(file.metadata()["budget"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.budget.done, self.budget.spent = int(spent["done"]), float(spent["spent"])
        logger.info("going on at step %d", self.budget.done)
