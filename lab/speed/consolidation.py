"""What the consolidation losses cost, beside the released way of computing them.

    python -m lab.speed.consolidation [--rounds N] [--out FILE] [--quick]

Forward and backward of R1 (and R2) on the real layer shapes of a family, for banks of growing
size. `prepare` is paid once per training.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from cidm_core.families import FAMILIES, PROJECTIONS
from cidm_core.ops.consolidation_model import CommonSubspace, Orthogonality, Projection
from cidm_core.updates import LowRank

from .measure import Step, always, interleave, parse, write
from .models import RANK

COMMON_RANK = 16
DIRECTIONS = 64  # the cap of the bounded variants
SLOW_UP_TO = 10  # earlier concepts up to which the released loop is run at all

LayerShapes = dict[str, tuple[int, int]]


def layer_shapes(family: str) -> LayerShapes:
    layers = FAMILIES[family].layers
    return {f"{layer.path}.{p}": layer.shape(p) for layer in layers for p in PROJECTIONS}


def concepts(shapes: LayerShapes, count: int) -> Iterator[dict[str, LowRank]]:
    """Earlier concepts, made one at a time: a thousand do not fit in memory beside their stacks."""
    for seed in range(count):
        draw = torch.Generator().manual_seed(seed)
        yield {
            key: LowRank(
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


class PreparedLosses:
    """All ways of computing the losses for one bank size, and the seconds each took to prepare."""

    def __init__(self, shapes: LayerShapes, count: int) -> None:
        self.old = lambda: concepts(shapes, count)
        new = next(concepts(shapes, 1))
        self.ups = {key: pair.up.clone().requires_grad_() for key, pair in new.items()}
        self.pairs = {
            key: (self.ups[key], pair.down.clone().requires_grad_()) for key, pair in new.items()
        }
        self.steps: dict[str, Step] = {}
        self.prepared: dict[str, float] = {}
        if count <= SLOW_UP_TO:
            self.released_loop()
            self.r1("released")
        self.r1("subspace")
        for directions in (None, DIRECTIONS):
            self.r1("energy", directions)
            self.projection(directions)
        for mode in ("closed_form", "gradient"):
            self.r2(mode)

    def prepare(self, name: str, make: Callable[[], Any]) -> Any:
        started = time.process_time()
        made = make()
        self.prepared[name] = time.process_time() - started
        return made

    def released_loop(self) -> None:
        old = [{key: pair.up for key, pair in concept.items()} for concept in self.old()]
        run = backward(lambda: released_loop(self.ups, old), list(self.ups.values()))
        self.steps["released loop"] = run

    def r1(self, mode: str, directions: int | None = None) -> None:
        name = f"{mode}, {directions} directions" if directions else mode
        held = self.prepare(
            name, lambda: Orthogonality.prepare(self.old(), mode, directions=directions)
        )
        self.steps[name] = backward(lambda: held.loss(self.ups), list(self.ups.values()))

    def projection(self, directions: int | None) -> None:
        name = f"projection, {directions} directions" if directions else "projection"
        held = self.prepare(
            name, lambda: Projection.prepare(self.old(), RANK, directions=directions)
        )
        self.steps[name] = lambda: held.apply(self.ups)

    def r2(self, mode: str) -> None:
        name = f"common subspace, {mode}"
        held = self.prepare(name, lambda: CommonSubspace.prepare(self.old(), COMMON_RANK, mode))
        leaves = [tensor for pair in self.pairs.values() for tensor in pair]
        run = backward(lambda: held.loss(self.pairs), leaves)

        def both_steps() -> None:
            run()
            held.step(1e-4, self.pairs)

        self.steps[name] = both_steps


def by_bank_size(results: list[dict]) -> str:
    """The figures by way and bank size."""
    sizes = [row["earlier_concepts"] for row in results]
    sections = {
        "milliseconds": "ms per step (forward + backward)",
        "faster_than_released_loop": "times faster than the released loop",
        "prepare_seconds": "seconds to prepare, once per training",
    }
    lines = [" " * 40 + "".join(f"g={size}".rjust(9) for size in sizes)]
    for section, title in sections.items():
        lines.append(title)
        for name in dict.fromkeys(name for row in results for name in row[section]):
            cells = [row[section].get(name) for row in results]
            shown = ["-" if c is None else f"{c:.2f}" if c < 100 else f"{c:.0f}" for c in cells]
            lines.append("  " + name.ljust(38) + "".join(c.rjust(9) for c in shown))
    return "\n".join(lines)


def result(count: int, seconds: dict[str, list[float]], prepared: dict[str, float]) -> dict:
    best = {name: min(values) for name, values in seconds.items()}
    loop = best.get("released loop")
    r1 = [name for name in best if name != "released loop" and not name.startswith("common")]
    return {
        "earlier_concepts": count,
        "milliseconds": {name: value * 1e3 for name, value in best.items()},
        "faster_than_released_loop": {n: loop / best[n] for n in r1} if loop else {},
        "prepare_seconds": prepared,
        "raw_seconds": seconds,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="consolidation", description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="SD15", choices=sorted(FAMILIES))
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 10, 50, 100, 1000])
    options, command = parse(parser, argv)
    family, sizes = ("MINI", [2, 3]) if options.quick else (options.family, options.sizes)
    shapes = layer_shapes(family)
    results = []
    for count in sizes:
        ways = PreparedLosses(shapes, count)
        timed = {name: always(step) for name, step in ways.steps.items()}
        results.append(result(count, interleave(timed, options.rounds), ways.prepared))
        print(f"g={count}: done", flush=True)
    print(by_bank_size(results))
    body = {"rounds": options.rounds, "family": family, "layers": len(shapes)}
    body |= {"rank": RANK, "common_rank": COMMON_RANK, "results": results}
    write(options.out, "consolidation", command, body)


if __name__ == "__main__":
    main()
