"""Work in small cells that can be stopped anywhere, taken up again, and shared by processes.

A cell is done when its result file is there; files are written whole or not at all. Processes
that work on one folder claim cells through lock files, which the system frees when a process
dies, however it dies. So any number of processes may be started on the same folder by hand.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cidm_core.as_text import jsonable
from cidm_core.errors import CidmError
from cidm_core.storage.atomic import make_folder, write_atomic
from cidm_core.storage.locks import locked

Result = dict[str, Any]
_Cost = tuple[float, float]  # seconds of one process, and of its processor
_NAP_SECONDS = 0.3


class BusyError(Exception):
    """Another process is doing what this cell needs; come back later."""


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        key: Stable name, parts divided by "/"; the first part is the kind of work.
        work: Does it; what it returns is kept as JSON.
        needs: Keys of cells that must be done before.
        weight: About how many seconds it takes; only the estimate of remaining time reads it.
    """

    key: str
    work: Callable[[], Result]
    needs: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def kind(self) -> str:
        return self.key.partition("/")[0]


OnCell = Callable[[int, int, str, float], None]
"""Cells done, cells in all, key of the cell at work, remaining seconds (NaN: unknown)."""


class Board:
    """Results by key in a folder that several processes may share.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        self._locks = make_folder(folder / "locks")
        self._known: dict[str, Result] = {}
        self._done: set[str] = set()  # a result never goes away again

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def done(self, key: str) -> bool:
        if key not in self._done and self.path(key).exists():
            self._done.add(key)
        return key in self._done

    def read(self, key: str, *, fresh: bool = False) -> Result:
        """A cell's result.

        Args:
            key: Whose.
            fresh: Look at the disk; another process may have replaced it.

        Raises:
            CidmError: If it is not there or damaged.
        """
        if fresh or key not in self._known:
            try:
                self._known[key] = json.loads(self.path(key).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise CidmError(
                    f"The result '{self.path(key)}' cannot be read ({error}). Delete it and run "
                    "the same command again; only that piece is done anew."
                ) from error
        return self._known[key]

    def write(self, key: str, result: Result) -> None:
        """Keep a result, replacing an earlier one."""
        make_folder(self.path(key).parent)
        write_atomic(self.path(key), json.dumps(jsonable(result)).encode())
        self._known.pop(key, None)

    @contextmanager
    def claimed(self, key: str) -> Generator[None]:
        """Be the only process at this key.

        Raises:
            BusyError: If another is.
        """
        name = sha256(key.encode()).hexdigest()[:24]
        with locked(self._locks / f"{name}.lock", BusyError(key)):
            yield

    def work_off(self, cells: Sequence[Cell], on_cell: OnCell | None = None) -> None:
        """Do all cells, together with whoever else works on this folder.

        Returns when all are done, also those that other processes do.

        Raises:
            CidmError: If cells wait for each other, or whatever a cell raises.
        """
        _check(cells)
        clock = _Clock(self, cells)
        pending = list(cells)
        while pending := [cell for cell in pending if not self.done(cell.key)]:

            def tell(key: str) -> None:
                if on_cell is not None:
                    left = sum(not self.done(cell.key) for cell in pending)
                    on_cell(len(cells) - left, len(cells), key, clock.remaining())

            if not any(self._try(cell, tell) for cell in pending):
                tell("")
                time.sleep(_NAP_SECONDS)
        if on_cell is not None:
            on_cell(len(cells), len(cells), "", 0.0)

    def _try(self, cell: Cell, tell: Callable[[str], None]) -> bool:
        """Do a cell if it is free and ready."""
        if self.done(cell.key) or not all(self.done(need) for need in cell.needs):
            return False
        try:
            with self.claimed(cell.key):
                if self.done(cell.key):
                    return False
                tell(cell.key)
                started, before = time.monotonic(), time.process_time()
                result = cell.work()
                spent = time.monotonic() - started
                cpu = time.process_time() - before  # a busy machine does not count
                cost = {"seconds": spent, "cpu_seconds": cpu, "process": os.getpid()}
                self.write(cell.key, {**result, **cost})
        except BusyError:
            return False
        return True


def _check(cells: Sequence[Cell]) -> None:
    """Refuse keys that come twice and needs that nobody fulfils before."""
    seen: set[str] = set()
    for cell in cells:
        if cell.key in seen:
            raise CidmError(f"The cell {cell.key} is listed twice.")
        if missing := [need for need in cell.needs if need not in seen]:
            raise CidmError(f"The cell {cell.key} needs {missing[0]}, which no earlier cell does.")
        seen.add(cell.key)


class _Clock:
    """Estimates remaining time: seconds per unit of weight, kind by kind, and how many help."""

    def __init__(self, board: Board, cells: Iterable[Cell]) -> None:
        self._board, self._cells = board, list(cells)
        self._before = {cell.key for cell in self._cells if board.done(cell.key)}
        self._started = time.monotonic()

    def remaining(self) -> float:
        spent: dict[str, float] = defaultdict(float)
        weighed: dict[str, float] = defaultdict(float)
        left: dict[str, float] = defaultdict(float)
        since = 0.0
        for cell in self._cells:
            if not self._board.done(cell.key):
                left[cell.kind] += cell.weight
                continue
            seconds = float(self._board.read(cell.key).get("seconds") or 0.0)
            spent[cell.kind] += seconds
            weighed[cell.kind] += cell.weight
            since += seconds if cell.key not in self._before else 0.0
        if not since:
            return float("nan")
        rate = {kind: spent[kind] / weighed[kind] for kind in weighed}
        usual = sum(spent.values()) / sum(weighed.values())
        work = sum(weight * rate.get(kind, usual) for kind, weight in left.items())
        helpers = since / max(1e-3, time.monotonic() - self._started)
        return work / helpers


def each_once(*lists: Iterable[Cell]) -> list[Cell]:
    """Several lists as one, cells that come twice once, in order."""
    return list({cell.key: cell for cells in lists for cell in cells}.values())


def seconds_of(board: Board, parts: Mapping[str, Sequence[Cell]]) -> dict[str, Any]:
    """What every part and every kind of work has cost; shared cells count for the first part."""
    everything: dict[str, _Cost] = {}
    found: dict[str, Any] = {}
    for part, cells in parts.items():
        new = {cell.key: _cost(board, cell) for cell in cells if cell.key not in everything}
        found[part] = _total(new.values())
        everything |= new
    kinds: dict[str, list[_Cost]] = defaultdict(list)
    for key, cost in everything.items():
        work, _, of, *_ = key.split("/")
        kinds[work if work == "perfect" else f"{work} {of}"].append(cost)
    return {
        "parts": {**found, "all": _total(everything.values())},
        "work": {kind: _total(kinds[kind]) for kind in sorted(kinds)},
    }


def _cost(board: Board, cell: Cell) -> _Cost:
    result = board.read(cell.key)
    return float(result.get("seconds") or 0.0), float(result.get("cpu_seconds") or 0.0)


def _total(costs: Collection[_Cost]) -> dict[str, float]:
    return {
        "cells": len(costs),
        "seconds": round(sum(cost[0] for cost in costs), 1),
        "cpu_seconds": round(sum(cost[1] for cost in costs), 1),
    }
