"""The only training loop: any method, any host, one process or several.

It runs the stages of a method one after another. Every step draws from generators seeded by (seed,
step), so resuming needs no generator state and the number of processes changes nothing but
rounding. A step whose numbers are not finite changes nothing and is counted; three in a row end the
run.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..config import TrainConfig
from ..devices import DTYPES
from ..errors import TrainingError
from ..methods.base import Method, Stage
from ..methods.batches import CompositeBatches, PhotoBatches, Source
from .doubt import OTHER_PREDICTION, doubt
from .interrupts import uninterrupted
from .optimiser import LossScale, Optimiser, Reading, clip_factor, total_norm
from .outlook import Outlook
from .processes import Alone, Processes
from .progress import Hooks
from .state import LogRow, RunFolder, State

logger = logging.getLogger(__name__)

MAX_BAD_STEPS = 3

OpenSource = Callable[[PhotoBatches | CompositeBatches | Source], Source]


class Stopped(TrainingError):
    """The caller asked the run to stop; its state is kept."""


class Loop:
    """One run of a method; `run` returns when all steps of all stages are done.

    `open_source` makes the source of what a stage asks for; state and log go into `folder`.
    """

    def __init__(
        self,
        method: Method,
        open_source: OpenSource,
        config: TrainConfig,
        folder: RunFolder,
        device: torch.device,
        hooks: Hooks | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.method, self.config, self.folder, self.device = method, config, folder, device
        self.hooks, self.processes = hooks or Hooks(), processes or Alone()
        self.stages = [stage for stage in method.stages() if stage.steps > 0]
        self.steps = sum(stage.steps for stage in self.stages)
        self._sources = [open_source(stage.source) for stage in self.stages]
        self._groups = list(dict.fromkeys(g for stage in self.stages for g in stage.groups))
        self.scale = LossScale.for_precision(config.precision)
        self.step = 0
        self.skipped = 0
        self._bad_in_a_row = 0
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._is_torn = False
        self._enter(0)

    def _enter(self, number: int) -> None:
        """Begin a stage: its groups learn, the others rest."""
        self._number = number
        self._first_step = sum(stage.steps for stage in self.stages[:number])
        for group in self._groups:
            group.learn(group in self.stage.groups)
        self.optimiser = Optimiser(self.stage.groups, self.config.weight_decay)

    @property
    def stage(self) -> Stage:
        """The stage under way; the last one after the end."""
        return self.stages[self._number]

    @property
    def seconds(self) -> float:
        """Time spent learning, earlier parts of a resumed run included."""
        return self._seconds_before + time.monotonic() - self._started

    def resume(self, state: State) -> None:
        """Continue where a state was taken."""
        facts = state.facts
        self.step, self.skipped = int(facts["step"]), int(facts["skipped"])
        self._bad_in_a_row, self._seconds_before = int(facts["bad"]), float(facts["seconds"])
        self.scale.value, self.scale.good = float(facts["scale"]), int(facts["good"])
        for group in self._groups:
            group.flat.data.copy_(state.tensors[f"values.{group.name}"])
            if group.name in facts["frozen"]:
                group.freeze()
        self._enter([stage.name for stage in self.stages].index(facts["stage"]))
        self.optimiser.load_state(_part(state.tensors, "optimiser."))
        self.method.load_state(_part(state.tensors, "method."))

    def run(self) -> None:
        """Learn until all steps are done; whatever ends it earlier leaves a state to resume from.

        Raises:
            Stopped: If `should_stop` said so.
            TrainingError: If three steps in a row were not finite.
        """
        self.folder.open_log()
        outlook = Outlook(self.stages, self.config.preview_every, self.device)
        try:
            while self.step < self.steps:
                self._ask_to_stop()
                self._tell(self._one_step(), outlook)
                self._save_and_preview(outlook)
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
                f"Stopped at step {self.step} of {self.steps}. The state is kept; run the same "
                "command again to go on."
            )

    def _one_step(self) -> LogRow:
        stage = self.stage
        factor = stage.schedule(self.step - self._first_step, stage.steps)
        self.optimiser.zero()
        reading = self._read(self._gradients())
        # Ctrl-C waits, and whatever else breaks off here has torn the weights: until the step is
        # whole there is no state to save. A copy of it before every step would be too dear.
        with uninterrupted():
            self._is_torn = True
            if reading.is_finite:
                self._update(factor, reading.norm)
            else:
                self._skip()
            row = self._row(reading, factor)
            self.step += 1
            if self.step == self._first_step + stage.steps:
                stage.finished()
                if self.step < self.steps:
                    self._enter(self._number + 1)
            self.folder.log(row)
            self._is_torn = False
        if self._bad_in_a_row >= MAX_BAD_STEPS:
            raise TrainingError(
                f"Loss or gradient was not finite in {MAX_BAD_STEPS} steps in a row, up to step "
                f"{self.step} of {self.steps}. The last good weights are kept. Lower the "
                "learning rates, or use precision fp32 or bf16. If it was so from the beginning, "
                f"{OTHER_PREDICTION}."
            )
        return row

    def _row(self, reading: Reading, factor: float) -> LogRow:
        stage, step = self.stage, self.step + 1
        rates = {
            f"lr_{group.name}": 0.0 if group.frozen else lr * factor
            for group, lr in stage.groups.items()
        }
        row: LogRow = {"step": step, "stage": stage.name, "stage_step": step - self._first_step}
        row |= {"loss": reading.loss, **reading.terms, **rates}
        row |= {"grad_norm": reading.norm, "seconds": round(self.seconds, 3)}
        return row | {"skipped": not reading.is_finite}

    def _gradients(self) -> dict[str, Tensor]:
        """Backward through all micro-steps; returns the terms, averaged over them."""
        stage, source = self.stage, self._sources[self._number]
        share = 1.0 / self.config.accumulation
        totals: dict[str, Tensor] = {}
        for micro in range(self.config.accumulation):
            with self._autocast():
                batch = source.batch(self.step * self.config.accumulation + micro)
                terms = stage.losses(batch)
            # Each batch goes backward before the next goes forward: recomputed activations read
            # the contexts that the host holds for the batch under way.
            self._backward(terms, share)
            for name, term in terms.items():
                part = term.detach().float() * share
                totals[name] = totals[name] + part if name in totals else part
        penalties = stage.penalties()
        self._backward(penalties, 1.0)
        return totals | {name: term.detach().float() for name, term in penalties.items()}

    def _backward(self, terms: Mapping[str, Tensor], share: float) -> None:
        if not terms:
            return
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        if loss.requires_grad:
            (loss * (share * self.scale.value)).backward()

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        lower = self.config.precision != "fp32"
        dtype = DTYPES[self.config.precision] if lower else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=lower)

    def _read(self, terms: dict[str, Tensor]) -> Reading:
        """Average over processes, read all numbers in one go, let the method see its own."""
        groups = [group for group in self.stage.groups if not group.frozen]
        for group in groups:
            self.processes.mean_(group.grad)
        values = torch.stack(list(terms.values()))
        self.processes.mean_(values)
        measured = self.stage.measure()
        norms = [group.grad.norm() for group in groups]
        others = [t.detach().float().to(values.device) for t in (*measured.values(), *norms)]
        numbers: list[float] = torch.cat([values, *(t[None] for t in others)]).tolist()
        losses = dict(zip(terms, numbers, strict=False))
        self.stage.before_update(dict(zip(measured, numbers[len(terms) :], strict=False)))
        # A group that has just been frozen takes no part in the update any more.
        kept = [
            norm / self.scale.value
            for norm, group in zip(numbers[len(terms) + len(measured) :], groups, strict=True)
            if not group.frozen
        ]
        return Reading(losses, total_norm(kept))

    def _update(self, factor: float, norm: float) -> None:
        clip = clip_factor(norm, self.config.max_grad_norm)
        self.optimiser.update(factor, clip / self.scale.value)
        self.stage.after_update(factor)
        self.scale.success()
        self._bad_in_a_row = 0

    def _skip(self) -> None:
        self.skipped += 1
        if not self.scale.overflow():
            self._bad_in_a_row += 1
        logger.warning("Step %d was not finite and is left out.", self.step + 1)

    def _tell(self, row: LogRow, outlook: Outlook) -> None:
        if self.processes.rank == 0 and (said := doubt(self.folder.rows, self.config)):
            logger.warning(said)
        event = outlook.event(row, self.skipped)
        if self.processes.rank == 0 and self.hooks.on_progress is not None:
            self.hooks.on_progress(event)

    def _save_and_preview(self, outlook: Outlook) -> None:
        every, shown = self.config.save_every, self.config.preview_every
        if every and self.step % every == 0 and self.step < self.steps:
            try:
                self.folder.save(self.state())
            except TrainingError as error:
                logger.warning("Going on without a saved state: %s", error)
        wanted = shown and self.step % shown == 0 and self.processes.rank == 0
        if wanted and self.hooks.preview is not None:
            try:
                with outlook.drawing():
                    self.hooks.preview(self.step)
            except Exception:
                # A picture is not worth an hour of learning.
                logger.warning("The preview at step %d was not made.", self.step, exc_info=True)

    def _flush(self, error: BaseException) -> None:
        """Save what is there before an error goes on; never replace the error by another."""
        if self._is_torn:
            logger.warning("Step %d broke off; the state saved before it stays.", self.step + 1)
            return
        try:
            self.folder.save(self.state())
            logger.info("%s: state kept at step %d.", type(error).__name__, self.step)
        except (TrainingError, OSError, RuntimeError) as second:
            logger.warning("The state of this run could not be kept: %s", second)

    def state(self) -> State:
        """The run between two steps; the tensors are those in use, not copies."""
        tensors = {f"values.{group.name}": group.flat.data for group in self._groups}
        tensors |= {f"optimiser.{key}": t for key, t in self.optimiser.state().items()}
        tensors |= {f"method.{key}": t for key, t in self.method.state().items()}
        frozen = [group.name for group in self._groups if group.frozen]
        facts = {"step": self.step, "stage": self.stage.name, "skipped": self.skipped}
        facts |= {"bad": self._bad_in_a_row % MAX_BAD_STEPS, "frozen": frozen}
        facts |= {"seconds": self.seconds, "scale": self.scale.value, "good": self.scale.good}
        return State(tensors, facts)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}
