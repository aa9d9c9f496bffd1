"""The whole benchmark: work off the cells, then write figures, tables and `results.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cidm_core.as_text import jsonable
from cidm_core.diffusers_host.base import Base
from cidm_core.errors import CidmError
from cidm_core.evaluation.encoders import Encoder
from cidm_core.storage.atomic import make_folder
from cidm_core.training.progress import Progress

from .bench import Bench
from .cells import Board, Cell, OnCell, each_once, seconds_of
from .parts.ablations import ablation_cells, ablation_results
from .parts.long import long_cells, long_results
from .parts.main import main_cells, main_results
from .parts.perfect import perfect_cells, perfect_results
from .parts.scenes import multi_cells, multi_results
from .parts.strengths import strength_cells, strength_results
from .reports.files import write_reports
from .scoring import Judge, encoder_digest, suite_digest
from .sizes import Sizes, restricted
from .systems import SYSTEMS, System
from .tasks.suite import Suite

PARTS = ("main", "multi", "long", "ablations")
_RUN = "run"


@dataclass(frozen=True)
class BenchmarkRequest:
    """What is to be run.

    Attributes:
        systems: Names of the compared systems.
        parts: Some of `PARTS`.
        seed: Of training and pictures.
        clip: Name of the encoder.
        dino: Name of the encoder, or nothing.
        command: What the caller typed, for the record.
        commit: Of the code, if the caller knows it.
    """

    systems: tuple[str, ...] = tuple(SYSTEMS)
    parts: tuple[str, ...] = PARTS
    seed: int = 0
    clip: str = "mini-clip"
    dino: str = ""
    command: str = ""
    commit: str = ""

    def __post_init__(self) -> None:
        for what, given, known in (
            ("system", self.systems, tuple(SYSTEMS)),
            ("part", self.parts, PARTS),
        ):
            if unknown := [name for name in given if name not in known]:
                names = ", ".join(known)
                raise CidmError(f"There is no {what} {unknown[0]!r}. Choose among {names}.")
            if not given:
                raise CidmError(f"No {what} was chosen. Choose among {', '.join(known)}.")

    @property
    def chosen(self) -> list[System]:
        """The systems in the order of the tables."""
        return [system for name, system in SYSTEMS.items() if name in self.systems]


@dataclass(frozen=True)
class Benches:
    """The ten tasks, and the many of the long run."""

    main: Bench
    long: Bench | None = None


def make_benches(
    base: Base,
    clip: Encoder,
    dino: Any,
    suite: Suite,
    long: Suite | None,
    sizes: Sizes,
    out: Path,
    request: BenchmarkRequest,
    on_step: Callable[[Progress], None] | None = None,
) -> Benches:
    """Make ready what cells need, and see to it that the folder belongs to this very run.

    Args:
        base: The model.
        clip: Encoder of pictures and texts.
        dino: Encoder of pictures, or None.
        suite: Tasks, orders, scenes.
        long: Tasks of the long run, if it is wanted.
        sizes: How much.
        out: Folder for everything.
        request: What is to be run.
        on_step: Hears every training step.

    Raises:
        CidmError: If the folder holds another run.
    """
    part = restricted(suite, sizes)
    encoders = " ".join(encoder_digest(each) for each in (clip, dino) if each is not None)
    board = Board(make_folder(out) / "work")
    claim_folder(board, out, _identity(base, part, sizes, request, encoders))
    main = Bench(
        base,
        Judge(clip, dino, part),
        part,
        sizes,
        board,
        seed=request.seed,
        encoders=encoders,
        on_step=on_step,
    )
    if long is None or "long" not in request.parts or not sizes.long.concepts:
        return Benches(main)
    judge = Judge(clip, None, long)
    return Benches(main, replace(main, judge=judge, suite=long, name="long"))


def _identity(
    base: Base, suite: Suite, sizes: Sizes, request: BenchmarkRequest, encoders: str
) -> dict[str, Any]:
    """What must be the same when a run is taken up again; systems and parts may be added."""
    return {
        "suite": suite.name,
        "tasks": [task.name for task in suite.tasks],
        "data": suite_digest(suite),
        "model": base.fingerprint,
        "sizes": sizes.to_dict(),
        "seed": request.seed,
        "encoders": encoders,
    }


def claim_folder(board: Board, out: Path, identity: dict[str, Any]) -> None:
    """See to it that a folder belongs to this very run.

    Raises:
        CidmError: If it holds another.
    """
    asked = json.loads(json.dumps(jsonable(identity)))
    if not board.done(_RUN):
        board.write(_RUN, asked)
    found = board.read(_RUN, fresh=True)
    if found != asked:
        odd = ", ".join(key for key in asked if found.get(key) != asked[key])
        raise CidmError(
            f"'{out}' holds another run: its {odd} differ. Give a new folder with --out, or ask "
            "for the same again to go on with it. If only the encoders differ, delete run.json, "
            f"draw, drawn and scenes in '{board.folder}': what is learned can be kept."
        )


def cells_of(benches: Benches, request: BenchmarkRequest) -> dict[str, list[Cell]]:
    """All work of a request by part, in the order in which it is done; parts share cells."""
    main, cells = benches.main, dict[str, list[Cell]]()
    if "main" in request.parts:
        cells["main"] = each_once(
            main_cells(main, request.chosen),
            perfect_cells(main),
            strength_cells(main, request.chosen),
        )
    if "multi" in request.parts:
        cells["multi"] = multi_cells(main)
    if benches.long is not None:
        cells["long"] = long_cells(benches.long)
    if "ablations" in request.parts:
        cells["ablations"] = ablation_cells(main)
    return cells


def run_benchmark(
    benches: Benches,
    out: Path,
    request: BenchmarkRequest,
    on_cell: OnCell | None = None,
    writes: bool = True,
) -> dict[str, Any]:
    """Do all work, together with whoever else works on the folder, and write the reports.

    Args:
        benches: From `make_benches`.
        out: The same folder.
        request: What is to be run.
        on_cell: Hears of every cell.
        writes: False: another process writes the reports.

    Returns:
        What `results.json` holds.

    Raises:
        CidmError: Anything the user can mend; all finished cells are kept.
    """
    cells = cells_of(benches, request)
    benches.main.board.work_off(each_once(*cells.values()), on_cell)
    results = collect(benches, request, cells)
    if writes:
        write_reports(benches.main, out, request.chosen, results)
    return results


def collect(
    benches: Benches, request: BenchmarkRequest, cells: Mapping[str, Sequence[Cell]]
) -> dict[str, Any]:
    """All figures of a finished run."""
    main = benches.main
    results: dict[str, Any] = {
        "benchmark": "cifc",
        "command": request.command,
        "commit": request.commit,
        "suite": main.suite.name,
        "size": main.sizes.name,
        "sizes": main.sizes.to_dict(),
        "seed": request.seed,
        "model": main.base.name,
        "fingerprint": main.base.fingerprint,
        "clip": request.clip,
        "dino": request.dino or None,
        "orders": [[main.suite.tasks[k].name for k in order] for order in main.suite.orders],
    }
    if "main" in request.parts:
        results["main"] = main_results(main, request.chosen)
        results["perfect"] = perfect_results(main)
        results["strengths"] = strength_results(main, request.chosen)
    if "multi" in request.parts and main.suite.scenes:
        results["multi"] = multi_results(main)
    if benches.long is not None:
        results["long"] = long_results(benches.long)
    if "ablations" in request.parts:
        results["ablations"] = ablation_results(main)
    results["seconds"] = seconds_of(main.board, cells)
    return results
