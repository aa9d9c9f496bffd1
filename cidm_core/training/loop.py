"""The only training loop: any method, any host, one process or several.

Every step draws from generators seeded by (seed, step), so resuming needs no generator state and
the number of processes changes nothing but rounding. A step whose numbers are not finite changes
nothing and is counted; three in a row end the run.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..config import TrainConfig
from ..errors import TrainingError
from ..methods.base import Batch, Method
from .optimiser import LossScale, Optimiser, clip_factor, linear_decay, total_norm
from .processes import Alone, Processes
from .progress import Hooks, Pace, event
from .state import Row, RunFolder, State

logger = logging.getLogger(__name__)

MAX_UNLUCKY = 3
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Stopped(TrainingError):
    """The caller asked the run to stop; its state is kept."""


class Source(Protocol):
    """Where batches come from; the same index always gives the same batch."""

    def batch(self, index: int) -> Batch:
        """The micro-batch with this number, counted over the whole run."""
        ...


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


class Loop:
    """One run of a method; `run` returns when all steps are done.

    Args:
        method: What is trained.
        source: Batches of the concept.
        config: Settings.
        folder: Where state and log go.
        device: Of the model.
        hooks: Callbacks.
        processes: Who else learns along.
        prior: Batches of prior pictures, for methods with `prior_weight` above 0.
    """

    def __init__(
        self,
        method: Method,
        source: Source,
        config: TrainConfig,
        folder: RunFolder,
        device: torch.device,
        hooks: Hooks | None = None,
        processes: Processes | None = None,
        prior: Source | None = None,
    ) -> None:
        if method.prior_weight > 0 and prior is None:
            raise TrainingError("This method preserves the prior, but no prior photos were given.")
        self.method, self.source, self.prior = method, source, prior
        self.config, self.folder, self.device = config, folder, device
        self.hooks, self.processes = hooks or Hooks(), processes or Alone()
        self.optimiser = Optimiser(method.groups, config.weight_decay)
        self.scale = LossScale.for_precision(config.precision)
        self.step = 0
        self.skipped = 0
        self._unlucky = 0
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._safe: State | None = None

    @property
    def seconds(self) -> float:
        """Time spent learning, earlier parts of a resumed run included."""
        return self._seconds_before + time.monotonic() - self._started

    def resume(self, state: State) -> None:
        """Continue where a state was taken."""
        facts = state.facts
        self.step, self.skipped = int(facts["step"]), int(facts["skipped"])
        self._unlucky, self._seconds_before = int(facts["unlucky"]), float(facts["seconds"])
        self.scale.value, self.scale.good = float(facts["scale"]), int(facts["good"])
        self.optimiser.load_state(_part(state.tensors, "optimiser."))
        self.method.load_state(_part(state.tensors, "method."))
        for group in self.method.groups:
            if group.name in facts["frozen"]:
                group.freeze()

    def run(self) -> None:
        """Learn until all steps are done; whatever ends it earlier leaves a state to resume from.

        Raises:
            Stopped: If `should_stop` said so.
            TrainingError: If three steps in a row were not finite.
        """
        self.folder.open_log()
        pace = Pace()
        try:
            while self.step < self.config.steps:
                self._ask_to_stop()
                row = self._one_step()
                self._tell(row, pace.tick())
                self._save_and_preview()
        except BaseException as error:
            self._flush(error)
            raise

    def _ask_to_stop(self) -> None:
        main = self.processes.rank == 0
        wanted = bool(main and self.hooks.should_stop is not None and self.hooks.should_stop())
        if self.processes.count > 1:
            # All must agree, or the others would wait for gradients that never come.
            flag = torch.tensor([float(wanted)], device=self.device)
            self.processes.mean_(flag)
            wanted = bool(flag.item() > 0)
        if wanted:
            raise Stopped(
                f"Stopped at step {self.step} of {self.config.steps}. The state is kept; run the "
                "same command again to go on."
            )

    def _one_step(self) -> Row:
        factor = linear_decay(self.step, self.config.steps)
        self.optimiser.zero()
        reading = self._read(self._gradients())
        # Ctrl-C may strike between two tensors: until the step is whole, this copy counts.
        self._safe = self.state().copy() if self.folder.writes else None
        if reading.is_finite:
            self._update(factor, reading.norm)
        else:
            self._skip()
        row = self._row(reading, factor)
        self.folder.log(row)
        self.step += 1
        self._safe = None
        if self._unlucky >= MAX_UNLUCKY:
            raise TrainingError(
                f"Loss or gradient was not finite in {MAX_UNLUCKY} steps in a row, up to step "
                f"{self.step} of {self.config.steps}. The last good weights are kept. Lower the "
                "learning rates, or use precision fp32 or bf16."
            )
        return row

    def _row(self, reading: Reading, factor: float) -> Row:
        rates = {f"lr_{g.name}": 0.0 if g.frozen else g.lr * factor for g in self.method.groups}
        row: Row = {"step": self.step + 1, "loss": reading.loss, **reading.terms, **rates}
        row |= {"grad_norm": reading.norm, "seconds": round(self.seconds, 3)}
        return row | {"skipped": not reading.is_finite}

    def _gradients(self) -> dict[str, Tensor]:
        """Backward through all micro-steps; returns the terms, averaged over them."""
        share = 1.0 / self.config.accumulation
        totals: dict[str, Tensor] = {}
        for micro in range(self.config.accumulation):
            # Each batch goes backward before the next goes forward: recomputed activations read
            # the contexts that the host holds for the batch under way.
            for terms in self._losses(self.step * self.config.accumulation + micro):
                self._backward(terms, share)
                for name, term in terms.items():
                    part = term.detach().float() * share
                    totals[name] = totals[name] + part if name in totals else part
        penalties = self.method.penalties()
        self._backward(penalties, 1.0)
        return totals | {name: term.detach().float() for name, term in penalties.items()}

    def _losses(self, index: int) -> Iterator[dict[str, Tensor]]:
        """Terms of a micro-step's batch and, for methods that want it, of a prior batch."""
        with self._autocast():
            terms = self.method.losses(self.source.batch(index))
        yield terms
        if self.prior is not None and self.method.prior_weight > 0:
            with self._autocast():
                prior = self.method.losses(self.prior.batch(index))
            yield {"prior": self.method.prior_weight * _total(prior)}

    def _backward(self, terms: Mapping[str, Tensor], share: float) -> None:
        if terms and (loss := _total(terms)).requires_grad:
            (loss * (share * self.scale.value)).backward()

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        dtype = _AUTOCAST.get(self.config.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _read(self, terms: dict[str, Tensor]) -> Reading:
        """Average over processes, read all numbers in one go, let the method see its gauges."""
        groups = [group for group in self.method.groups if not group.frozen]
        for group in groups:
            self.processes.mean_(group.grad)
        values = torch.stack(list(terms.values()))
        self.processes.mean_(values)
        gauges = self.method.gauges()
        norms = [group.grad.norm() for group in groups]
        others = [t.detach().float().to(values.device) for t in (*gauges.values(), *norms)]
        numbers: list[float] = torch.cat([values, torch.stack(others)]).tolist()
        losses = dict(zip(terms, numbers, strict=False))
        watched = dict(zip(gauges, numbers[len(terms) :], strict=False))
        self.method.before_update(watched)
        # A group that has just been frozen takes no part in the update any more.
        kept = [
            norm / self.scale.value
            for norm, group in zip(numbers[len(terms) + len(gauges) :], groups, strict=True)
            if not group.frozen
        ]
        return Reading(losses, total_norm(kept))

    def _update(self, factor: float, norm: float) -> None:
        clip = clip_factor(norm, self.config.max_grad_norm)
        self.optimiser.update(factor, clip / self.scale.value)
        self.method.after_update(factor)
        self.scale.success()
        self._unlucky = 0

    def _skip(self) -> None:
        self.skipped += 1
        if not self.scale.overflow():
            self._unlucky += 1
        logger.warning("Step %d was not finite and is left out.", self.step + 1)

    def _tell(self, row: Row, speed: float) -> None:
        if self.processes.rank == 0 and self.hooks.on_progress is not None:
            self.hooks.on_progress(event(row, self.config.steps, speed, self.skipped))

    def _save_and_preview(self) -> None:
        every, shown = self.config.save_every, self.config.preview_every
        if every and self.step % every == 0 and self.step < self.config.steps:
            try:
                self.folder.save(self.state())
            except TrainingError as error:
                logger.warning("Going on without a saved state: %s", error)
        wanted = shown and self.step % shown == 0 and self.processes.rank == 0
        if wanted and self.hooks.preview is not None:
            try:
                self.hooks.preview(self.step)
            except Exception:
                # A picture is not worth an hour of learning.
                logger.warning("The preview at step %d was not made.", self.step, exc_info=True)

    def _flush(self, error: BaseException) -> None:
        """Save what is there before an error goes on; never replace the error by another."""
        try:
            self.folder.save(self._safe or self.state())
            logger.info("%s: state kept at step %d.", type(error).__name__, self.step)
        except (TrainingError, OSError, RuntimeError) as second:
            logger.warning("The state of this run could not be kept: %s", second)

    def state(self) -> State:
        """The run between two steps; the tensors are those in use, not copies."""
        tensors = {f"optimiser.{key}": t for key, t in self.optimiser.state().items()}
        tensors |= {f"method.{key}": t for key, t in self.method.state().items()}
        frozen = [group.name for group in self.method.groups if group.frozen]
        facts = {"step": self.step, "skipped": self.skipped, "unlucky": self._unlucky % MAX_UNLUCKY}
        facts |= {"frozen": frozen, "seconds": self.seconds}
        return State(tensors, facts | {"scale": self.scale.value, "good": self.scale.good})


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([term.float() for term in terms.values()]).sum()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}
