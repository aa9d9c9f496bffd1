"""What the consolidation losses cost, beside the released way of computing them.

    python benchmarks/consolidation.py [--quick] [--out benchmarks/results/consolidation.json]

Forward and backward of R1 (and R2) on the real layer shapes of a family, for banks of growing
size. All variants of one bank size run interleaved, on one thread; the figure is the smallest
CPU time of several rounds. `prepare` is paid once per training.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from cidm_core.families import FAMILIES, PROJECTIONS
from cidm_core.lora import LoraFactors
from cidm_core.ops.consolidation_model import CommonSubspace, Orthogonality, Projection

RANK = 4
COMMON_RANK = 16
DIRECTIONS = 64  # the cap of the bounded variants
SLOW_UP_TO = 10  # earlier concepts up to which the released loop is run at all

Shapes = dict[str, tuple[int, int]]
Step = Callable[[], object]


def layer_shapes(family: str) -> Shapes:
    layers = FAMILIES[family].layers
    return {f"{layer.path}.{p}": layer.shape(p) for layer in layers for p in PROJECTIONS}


def concepts(shapes: Shapes, count: int) -> Iterator[dict[str, LoraFactors]]:
    """Earlier concepts, made one at a time: a thousand do not fit in memory beside their stacks."""
    for seed in range(count):
        draw = torch.Generator().manual_seed(seed)
        yield {
            key: LoraFactors(
                torch.randn(RANK, n_in, generator=draw),
                torch.randn(n_out, RANK, generator=draw),
                float(RANK),
            )
            for key, (n_out, n_in) in shapes.items()
        }


def released_loop(ups: dict[str, Tensor], old: list[dict[str, Tensor]]) -> Tensor:
    """R1 the released way: one out x out matrix per layer and earlier concept."""
    terms = [(ups[key] @ earlier[key].t()).abs().mean() for earlier in old for key in ups]
    return torch.stack(terms).mean()


def backward(loss: Callable[[], Tensor], leaves: list[Tensor]) -> Step:
    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss().backward()

    return run


def variants(shapes: Shapes, count: int) -> tuple[dict[str, Step], dict[str, float]]:
    """One callable per way of computing the losses, and the seconds each took to prepare."""
    new = next(iter(concepts(shapes, 1)))
    ups = {key: pair.up.clone().requires_grad_() for key, pair in new.items()}
    pairs = {key: (ups[key], pair.down.clone().requires_grad_()) for key, pair in new.items()}
    steps: dict[str, Step] = {}
    prepared: dict[str, float] = {}

    def timed(name: str, make: Callable[[], object]) -> object:
        started = time.process_time()
        made = make()
        prepared[name] = time.process_time() - started
        return made

    def r1(mode: str, directions: int | None = None) -> None:
        name = f"{mode}, {directions} directions" if directions else mode
        old = concepts(shapes, count)
        held = timed(name, lambda: Orthogonality.prepare(old, mode, directions=directions))
        steps[name] = backward(lambda: held.loss(ups), list(ups.values()))

    def projection(directions: int | None = None) -> None:
        name = f"projection, {directions} directions" if directions else "projection"
        old = concepts(shapes, count)
        held = timed(name, lambda: Projection.prepare(old, RANK, directions=directions))
        steps[name] = lambda: held.apply(ups)

    def r2(mode: str) -> None:
        name = f"common subspace, {mode}"
        old = concepts(shapes, count)
        held = timed(name, lambda: CommonSubspace.prepare(old, COMMON_RANK, mode))
        leaves = [tensor for pair in pairs.values() for tensor in pair]
        run = backward(lambda: held.loss(pairs), leaves)

        def both() -> None:
            run()
            held.step(1e-4, pairs)

        steps[name] = both if mode == "gradient" else run

    if count <= SLOW_UP_TO:
        old = [{k: pair.up for k, pair in c.items()} for c in concepts(shapes, count)]
        steps["released loop"] = backward(lambda: released_loop(ups, old), list(ups.values()))
        r1("released")
    r1("subspace")
    r1("energy")
    r1("energy", DIRECTIONS)
    projection()
    projection(DIRECTIONS)
    r2("closed_form")
    r2("gradient")
    return steps, prepared


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each variant in each round; within a round the variants take turns."""
    for run in steps.values():
        run()  # warm-up
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, run in steps.items():
            repeats = 1 if name.startswith("released") else 5
            started = time.process_time()
            for _ in range(repeats):
                run()
            seconds[name].append((time.process_time() - started) / repeats)
    return seconds


def table(results: list[dict]) -> str:
    """Milliseconds by variant and bank size, and the ratio to the released loop."""
    sizes = [row["earlier_concepts"] for row in results]
    names = list(dict.fromkeys(name for row in results for name in row["milliseconds"]))
    lines = [
        "ms per step (forward + backward)".ljust(34) + "".join(f"g={g}".rjust(11) for g in sizes)
    ]
    for name in names:
        cells = [row["milliseconds"].get(name) for row in results]
        lines.append(name.ljust(34) + "".join(f"{c:11.2f}" if c else "-".rjust(11) for c in cells))
    lines.append("times faster than the released loop")
    for name in names[1:]:
        cells = [row["faster_than_released_loop"].get(name) for row in results]
        if any(cells):
            text = "".join(f"{c:10.0f}x" if c else "-".rjust(11) for c in cells)
            lines.append("  " + name.ljust(32) + text)
    return "\n".join(lines)


def result(count: int, seconds: dict[str, list[float]], prepared: dict[str, float]) -> dict:
    best = {name: min(values) for name, values in seconds.items()}
    loop = best.get("released loop")
    others = [n for n in best if n != "released loop" and not n.startswith("common")]
    return {
        "earlier_concepts": count,
        "milliseconds": {name: value * 1e3 for name, value in best.items()},
        "faster_than_released_loop": {n: loop / best[n] for n in others if n in best}
        if loop
        else {},
        "prepare_seconds": prepared,
        "raw_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="SD15", choices=sorted(FAMILIES))
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 10, 50, 100, 1000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="g = 2 and 10, five rounds")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    sizes, rounds = ([2, 10], 5) if options.quick else (options.sizes, options.rounds)
    torch.set_num_threads(1)
    shapes = layer_shapes(options.family)
    results = []
    for count in sizes:
        steps, prepared = variants(shapes, count)
        results.append(result(count, measure(steps, rounds), prepared))
        print(
            f"g={count}: prepared in " + json.dumps({k: round(v, 2) for k, v in prepared.items()})
        )
    print(table(results))
    if options.out:
        report = {
            "benchmark": "consolidation",
            "command": "python benchmarks/consolidation.py " + " ".join(sys.argv[1:]),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "family": options.family,
            "layers": len(shapes),
            "rank": RANK,
            "common_rank": COMMON_RANK,
            "rounds": rounds,
            "timing": "time.process_time, one thread, variants interleaved, minimum of the rounds",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "results": results,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
