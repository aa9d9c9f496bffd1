"""Fair timing on a shared machine, and the report every benchmark writes.

All variants of a comparison take turns within a round, and the next round starts with another
one, so that a busy spell or a warm cache favours none. The figure is the smallest CPU time of
several rounds: what other programs take away only ever adds to it. All raw times are kept.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from pathlib import Path

import diffusers
import peft
import torch
import transformers

Step = Callable[[], object]
Way = Callable[[], AbstractContextManager[Step]]  # what it sets up is not timed

ROUNDS = 7
METHOD = (
    "CPU seconds (time.process_time), one thread, variants interleaved and rotated, untimed call "
    "before each, minimum over all rounds"
)
PACKAGES = (torch, diffusers, transformers, peft)


def always(step: Step) -> Way:
    """A variant that needs no setting up."""

    @contextmanager
    def opened() -> Iterator[Step]:
        yield step

    return opened


def interleave(
    variants: Mapping[str, Way],
    rounds: int,
    repeats: int = 2,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """CPU seconds of every variant: `rounds * repeats` single calls each."""
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            with variants[name]() as step:
                step()  # whatever the variant before left in the caches is gone now
                for _ in range(repeats):
                    started = clock()
                    step()
                    seconds[name].append(clock() - started)
    return seconds


def summary(seconds: Mapping[str, Sequence[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Smallest and median milliseconds of each variant, and both as ratios to the baseline."""
    low, middle = min(seconds[baseline]), statistics.median(seconds[baseline])
    return {
        name: {
            "ms": min(values) * 1e3,
            "ms_median": statistics.median(values) * 1e3,
            "ratio": min(values) / low,
            "ratio_of_medians": statistics.median(values) / middle,
        }
        for name, values in seconds.items()
    }


def as_table(title: str, rows: Mapping[str, Mapping[str, float]], baseline: str) -> str:
    """A summary for people."""
    head = f"{title}".ljust(46) + "min ms".rjust(10) + "median".rjust(10) + f"  x {baseline}"
    lines = [
        name.ljust(46)
        + f"{row['ms']:10.2f}{row['ms_median']:10.2f}{row['ratio']:9.3f}"
        + f"  ({row['ratio_of_medians']:.3f} of medians)"
        for name, row in rows.items()
    ]
    return "\n".join([head, *lines])


def target(what: str, measured: float, limit: float, at_most: bool = True) -> dict[str, object]:
    """One line of the verdict: a figure beside what was promised."""
    met = measured <= limit if at_most else measured >= limit
    return {
        "target": what,
        "limit": limit,
        "at": "most" if at_most else "least",
        "measured": measured,
        "met": met,
    }


def verdict(targets: Sequence[Mapping[str, object]]) -> str:
    return "\n".join(
        f"{'met   ' if row['met'] else 'MISSED'}  {row['target']}: {row['measured']:.4g} "
        f"(at {row['at']} {row['limit']:g})"
        for row in targets
    )


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, rounds: bool = True
) -> tuple[argparse.Namespace, str]:
    """Add the options all benchmarks have; returns them and the command as typed."""
    parser.prog = f"python -m lab.speed.{parser.prog}"
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that it runs")
    if rounds:
        parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    given = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(given)
    if options.quick:
        options.rounds = 1
    torch.set_num_threads(1)
    return options, " ".join([parser.prog, *given])


def machine() -> dict[str, object]:
    """What the times depend on."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in load],
        "python": platform.python_version(),
        **{module.__name__: str(module.__version__) for module in PACKAGES},
    }


def _processor() -> str:
    try:
        rows = dict(
            line.split(":", 1)
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if ":" in line
        )
    except OSError:
        return platform.processor()
    found = {key.strip(): value.strip() for key, value in rows.items()}
    return f"{found.get('model name', platform.processor())} (model {found.get('model', '?')})"


def resident_mb() -> float:
    """Memory this process really uses, in RAM, right now; 0 where the system does not tell."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)  # give back what is free, or growth would hide in it
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def write(path: Path | None, name: str, command: str, body: Mapping[str, object]) -> None:
    """Write a report, if one is wanted."""
    if path is None:
        return
    report = {
        "benchmark": name,
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "timing": METHOD,  # a body may say it better
        "machine": machine(),
        **body,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
