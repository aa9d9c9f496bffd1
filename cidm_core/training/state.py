"""Files of a run, `<bank>/.runs/<name>/`: its state to resume from, its log, its loss picture."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..as_text import jsonable
from ..errors import BankError, TrainingError
from ..storage.atomic import explain, make_folder, write_atomic
from ..storage.locks import locked
from ..storage.tensor_file import pack, read, unpack

logger = logging.getLogger(__name__)

FORMAT = "2"
LOG_NAME = "log.jsonl"
# No ending of model files: programs that search the folder must not list it as a LoRA.
_SUFFIX = ".cidm"
_CURVE_POINTS = 64
COSMETIC = ("save_every", "preview_every", "preview_prompt")
LogRow = dict[str, Any]


def run_id(config: Mapping[str, object], **inputs: object) -> str:
    """A name for everything that decides the result; equal runs may resume each other.

    Settings that only decide what is shown or saved do not count.
    """
    settings = {key: value for key, value in config.items() if key not in COSMETIC}
    text = json.dumps([FORMAT, settings, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class State:
    """A run between two steps: tensors by name, and plain facts such as stage and step."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class RunFolder:
    """Where a run keeps its files. Only the main process writes.

    Args:
        folder: `<bank>/.runs/<name>`; made when first written to.
        run: From `run_id`.
        writes: False in processes other than the main one.
    """

    def __init__(self, folder: Path, run: str, *, writes: bool = True) -> None:
        self.folder, self.run, self.writes = folder, run, writes
        self.rows: list[LogRow] = []
        self._logs = True

    @property
    def state_path(self) -> Path:
        return self.folder / f"state{_SUFFIX}"

    @property
    def log_path(self) -> Path:
        return self.folder / LOG_NAME

    @contextmanager
    def held(self) -> Generator[None]:
        """Make the folder, and be its only run for a while; ends by itself when the process dies.

        Raises:
            BankError: If another run of the same concept is going on, or the system refuses.
        """
        if not self.writes:
            yield
            return
        make_folder(self.folder, error=BankError)
        busy = BankError(
            f"Another program is learning '{self.folder.name}' in this bank just now. Wait for it "
            "or end it, then start again; or use another name and other words."
        )
        with locked(self.folder / ".lock", busy):
            yield

    def load(self, *, resume: bool = True) -> State | None:
        """The state of this very run, or None; any other, or an unwanted one, is moved aside.

        So each run that was left has its own, which waits until it comes back. The main process
        comes first, then the others.
        """
        state = self._load(resume)
        if state is None and resume and self._files(self.run[:8])[0].exists():
            self._move(self.run[:8], "")
            state = self._load(resume)
        return state

    def _load(self, resume: bool) -> State | None:
        if not self.state_path.exists():
            return None
        if not resume:
            return self._move_aside("earlier", "was not asked for")
        try:
            tensors, metadata = unpack(read(self.state_path), self.state_path.name)
            facts = json.loads(metadata["state"])
            if facts.pop("format") != FORMAT:
                raise ValueError("it was written by another version")
            run = str(facts.pop("run"))
        except (ValueError, KeyError, TypeError) as error:
            return self._move_aside("damaged", f"cannot be read ({error})")
        if run != self.run:
            why = "is of a run with other photos, words, settings or concepts, and kept for it"
            return self._move_aside(run[:8], why)
        self.rows = read_log(self.folder, int(facts["step"]))
        return State(tensors, facts)

    def _move_aside(self, label: str, why: str) -> None:
        if self.writes:
            logger.warning("The saved state '%s' %s; starting over.", self.state_path, why)
            self._move("", label)

    def _move(self, label: str, to: str) -> None:
        """Rename a run's log and state; "" are the names of the run that goes on."""
        pairs = zip(self._files(label), self._files(to), strict=True)
        for path, target in reversed(list(pairs)):
            if self.writes and path.exists():
                path.replace(target)

    def _files(self, label: str) -> tuple[Path, Path]:
        paths = self.state_path, self.log_path
        return tuple(p.with_stem(f"{p.stem}-{label}") if label else p for p in paths)  # type: ignore[return-value]

    def open_log(self) -> None:
        """Rewrite the log to the rows that count: those before the step resumed from."""
        if self.writes:
            text = "".join(_line(row) for row in self.rows)
            write_atomic(self.log_path, text.encode(), error=TrainingError)

    def log(self, row: LogRow) -> None:
        """Append one step to the log; a disk that refuses costs the log, not the run."""
        self.rows.append(row)
        if not self.writes or not self._logs:
            return
        try:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(_line(row))
        except OSError as error:
            self._logs = False
            logger.warning("The loss log ends here. %s", explain(error, f"write {self.log_path}"))

    def save(self, state: State) -> None:
        """Write the state, never with a number that is not finite.

        Raises:
            TrainingError: If a tensor is not finite or the system refuses; the older state stays.
        """
        if not self.writes:
            return
        for key, tensor in state.tensors.items():
            if not torch.isfinite(tensor).all():
                raise TrainingError(f"{key} is no longer finite; the state saved before is kept.")
        facts = json.dumps({"format": FORMAT, "run": self.run, **state.facts})
        write_atomic(self.state_path, pack(state.tensors, {"state": facts}), error=TrainingError)

    def finish(self, title: str) -> None:
        """Delete the state: the concept is in the bank. The log stays, with a picture of it."""
        if not self.writes:
            return
        try:
            from ..pictures.files import save_picture
            from ..pictures.losses import loss_picture

            for path in (self.state_path, self._files(self.run[:8])[0]):
                path.unlink(missing_ok=True)
            save_picture(loss_picture(self.rows, title), self.folder / "loss.png")
        except Exception:
            # The concept is safe; a picture of its loss is only decoration.
            logger.warning("The loss picture of %s was not drawn.", title, exc_info=True)


def final_loss(rows: list[LogRow]) -> float | None:
    """Mean loss of the last 5 % of the steps that were taken; None if there are none."""
    tail = rows[-max(1, len(rows) // 20) :]
    losses = [row["loss"] for row in tail if not row["skipped"] and row["loss"] is not None]
    return sum(losses) / len(losses) if losses else None


def loss_curve(rows: list[LogRow]) -> list[list[float]]:
    """The losses of a run for its concept's file: at most 64 points [step, loss].

    Of a longer run each point is the mean of as many steps that follow one another, at the last
    of them; losses have 4 significant digits. Steps that were skipped are left out.
    """
    taken = [
        (row["step"], row["loss"]) for row in rows if not row["skipped"] and row["loss"] is not None
    ]
    width = -(-len(taken) // _CURVE_POINTS)
    parts = [taken[at : at + width] for at in range(0, len(taken), max(width, 1))]
    means = [sum(loss for _, loss in part) / len(part) for part in parts]
    return [[part[-1][0], float(f"{m:.4g}")] for part, m in zip(parts, means, strict=True)]


def _line(row: LogRow) -> str:
    return json.dumps(jsonable(row)) + "\n"


def read_log(folder: Path, steps: int = sys.maxsize) -> list[LogRow]:
    """The first rows of a run's log, one per step; a line cut short by a crash ends it."""
    rows: list[LogRow] = []
    try:
        lines = (folder / LOG_NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return rows
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or int(row.get("step", steps + 1)) > steps:
            break
        rows.append(row)
    return rows
