"""What the size of a bank costs: opening it, listing it, and planning a prompt with it.

    python -m lab.speed.bank_scale [--family SDXL] [--rounds N] [--out FILE] [--quick]

Banks of 10, 100 and 1,000 concepts with the keys and shapes of SD 1.5 (rank 1: half a megabyte
each) or SDXL (four megabytes) in a temporary folder. The prompt names one concept (weights "gate",
the default). The text encoder has a single layer, a twelfth of CLIP's: what grows with the bank
weighs as much as it can. Files come from the system's cache, as they do for every bank but the
first one after a start.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from cidm_core.bank import Bank
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.families import FAMILIES
from tests.tools.checkpoint_presets import PRESETS

from .measure import (
    Way,
    always,
    as_table,
    interleave,
    parse,
    resident_mb,
    summary,
    target,
    verdict,
    write,
)
from .models import SAMPLE_PROMPT, UNETS, make_base, make_sdxl, random_concept

_CONFIG = SampleConfig(width_px=512, height_px=512)
_TIMING = (
    "CPU seconds (time.process_time; opening also wall seconds), one thread, variants interleaved "
    "and rotated, untimed call before each, minimum over all rounds"
)


def fill_bank(model: Base, folder: Path, count: int, rank: int) -> tuple[Bank, list[float]]:
    """A bank of synthetic concepts, added one after the other, and the seconds of each `add`."""
    bank, seconds = Bank(folder), []
    for i in range(1, count + 1):
        concept = random_concept(model, f"<v{i}> <w{i}>", seed=i, rank=rank, size=0.05)
        started = time.process_time()
        bank.add(concept)
        seconds.append(time.process_time() - started)
    return bank, seconds


def opening(bank: Bank) -> Way:
    return always(lambda: Bank(bank.path).entries())


def planning(base: Base, bank: Bank) -> Way:
    return always(lambda: make_plan(base, bank, SAMPLE_PROMPT, config=_CONFIG))


def planning_fresh(base: Base, bank: Bank) -> Way:
    """As the command line does: open the bank for this one prompt."""
    return always(lambda: make_plan(base, Bank(bank.path), SAMPLE_PROMPT, config=_CONFIG))


def growth_mb(base: Base, bank: Bank) -> float:
    """Memory that an open bank and a plan made with it take."""
    before = resident_mb()
    held = Bank(bank.path)
    plan = make_plan(base, held, SAMPLE_PROMPT, config=_CONFIG)
    after = resident_mb()
    del held, plan
    return after - before


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bank_scale", description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=1, help="of the concepts; default 1")
    parser.add_argument("--family", choices=("SD15", "SDXL"), default="SD15")
    options, command = parse(parser, argv)
    sizes = [1, 3] if options.quick else [10, 100, 1000]
    if options.family == "SDXL":
        model, unet = make_sdxl(), PRESETS["sdxl-full"]["unet"]
    else:
        model, unet = make_base("tiny" if options.quick else "narrow"), UNETS["full"]
    if not options.quick:
        # The family's own widths without weights: a plan asks for shapes, and runs no layer.
        with torch.device("meta"):
            unet = UNet2DConditionModel(**unet)
        model = replace(model, unet=unet, layers=FAMILIES[options.family].layers)
    with tempfile.TemporaryDirectory() as folder:
        banks, adding = {}, {}
        for size in sizes:
            bank, seconds = fill_bank(model, Path(folder) / str(size), size, options.rank)
            banks[size] = bank
            adding[str(size)] = {"first_ms": seconds[0] * 1e3, "last_ms": min(seconds[-5:]) * 1e3}
        with torch.no_grad():
            report(options, command, model, banks, adding)


def report(options, command: str, base: Base, banks: dict[int, Bank], adding: dict) -> None:
    few, many = min(banks), max(banks)
    prompt, fresh = "prompt, bank held, {} concepts", "prompt, bank opened anew, {} concepts"
    groups = {
        "open and list": {f"open, {n} concepts": opening(bank) for n, bank in banks.items()},
        "prompt": {prompt.format(n): planning(base, bank) for n, bank in banks.items()}
        | {fresh.format(n): planning_fresh(base, bank) for n, bank in banks.items()},
    }
    growth_mb(base, banks[few])  # what is loaded once and for all
    memory = {str(n): growth_mb(base, bank) for n, bank in banks.items()}
    raw = {name: interleave(group, options.rounds) for name, group in groups.items()}
    wall = "open and list, wall"
    raw[wall] = interleave(groups["open and list"], options.rounds, clock=time.perf_counter)
    rows = {name: summary(seconds, next(iter(seconds))) for name, seconds in raw.items()}
    for name, row in rows.items():
        print(as_table(name, row, next(iter(row))), end="\n\n")
    size = sum(p.stat().st_size for p in banks[many].path.glob("*.safetensors")) / 1e6
    facts = {"resident_growth_mb": memory, "adding": adding, f"bank_of_{many}_mb": size}
    print(f"{facts}\n")
    held = rows["prompt"][prompt.format(many)]["ms"] / rows["prompt"][prompt.format(few)]["ms"]
    targets = [
        target(f"seconds to open {many}", rows[wall][f"open, {many} concepts"]["ms"] / 1e3, 0.5),
        target(f"time per prompt, {many} concepts vs {few}", held, 1.2),
        target(f"MB of memory, {many} concepts", memory[str(many)], 50),
    ]
    print(verdict(targets))
    body = {"timing": _TIMING, "rounds": options.rounds, "rank": options.rank, "targets": targets}
    write(
        options.out,
        "bank_scale" if options.family == "SD15" else "bank_scale_sdxl",
        command,
        {**body, "facts": facts, "results": rows, "raw_seconds": raw},
    )


if __name__ == "__main__":
    main()
