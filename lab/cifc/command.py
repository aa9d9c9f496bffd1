"""`python -m lab.cifc`: the forgetting benchmark, in miniature or with a real model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cidm_core.commands.console import Console
from cidm_core.commands.flags import CommandParser, add_model, add_output, chosen_base, own_device
from cidm_core.errors import CidmError
from cidm_core.families import FAMILIES
from cidm_core.paths import user_path

from .started import started

if TYPE_CHECKING:
    from cidm_core.commands.progress_bar import ProgressBar
    from cidm_core.diffusers_host.base import Base
    from cidm_core.training.progress import Progress

    from .run import Benches, BenchmarkRequest
    from .sizes import Sizes

_EPILOG = """\
examples:
  python -m lab.cifc --quick                      a few minutes: five concepts, one order
  python -m lab.cifc --out results                ten concepts, three orders, forty in one bank
  python -m lab.cifc --systems ours released oracle --only main
  python -m lab.cifc --model sd15.safetensors --clip openai/clip-vit-base-patch32 --data cifc

Everything done is kept under OUT/work: the same command goes on where it was stopped. Started
several times on one folder, by hand or by `accelerate launch`, the processes share the work.

written to OUT:
  results.json, tables.md, forgetting.png, likeness.png, contact_sheet.png, scenes.png,
  bank_size.png, ablations.md
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(
        prog="python -m lab.cifc",
        usage="python -m lab.cifc [--out DIR] [options]",
        description="Learn concepts one after another with ours and nine other systems, and "
        "measure what each of them still draws.",
        epilog=_EPILOG,
    )
    what = parser.add_argument_group("what")
    what.add_argument("--out", default="cifc", metavar="DIR", help="Results and kept work [cifc].")
    what.add_argument(
        "--quick", action="store_true", help="Few tasks, prompts and steps; shows that it works."
    )
    what.add_argument(
        "--systems",
        nargs="+",
        metavar="NAME",
        help="Only these systems. Default: all ten; with --quick six.",
    )
    what.add_argument("--orders", type=int, metavar="N", help="At most this many task orders.")
    what.add_argument(
        "--only",
        nargs="+",
        metavar="PART",
        help="Do and report only some of main, multi, long, ablations. Default: all; with --quick "
        "main and multi.",
    )
    what.add_argument("--seed", type=int, default=0, metavar="N", help="Training and pictures [0].")
    what.add_argument("--train-steps", type=int, metavar="N", help="Training steps per concept.")
    what.add_argument("--steps", type=int, metavar="N", help="Denoising steps.")
    what.add_argument("--images", type=int, metavar="N", help="Pictures per prompt at the end.")
    what.add_argument("--commit", default="", metavar="ID", help="Noted in the results.")
    real = parser.add_argument_group("the real thing")
    real.add_argument(
        "--data",
        metavar="DIR",
        help="Photos with captions, and prompts. Default: the small world of mini-sd.",
    )
    real.add_argument("--clip", metavar="PATH", help="CLIP model. Default for mini-sd: mini-clip.")
    real.add_argument("--dino", metavar="PATH", help="DINO or DINOv2 model; adds DINO alignment.")
    add_model(parser)
    add_output(parser)
    parser.set_defaults(run=_run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, as `cidm` does."""
    return started(build_parser(), argv)


def _run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Do what is not done yet, and report.

    Raises:
        CidmError: Anything the user can mend.
    """
    from cidm_core.commands.progress_bar import ProgressBar

    from .run import run_benchmark

    sizes = _sizes(args)
    request = _request(args, sizes)
    if args.data and "--model" not in args.typed:
        raise CidmError(
            "--data is the real thing, and no model was named. Give --model, such as an SD 1.5 "
            "checkpoint; --model mini-sd and mini-sdxl mean the tiny ones, at 32 x 32 px."
        )
    base = chosen_base(args)
    out = user_path(args.out)
    with ProgressBar(enabled=console.shows_progress) as bar:
        shown = _Shown(bar)
        benches = _prepare(args, base, request, sizes, out, shown.step)
        results = run_benchmark(benches, out, request, shown.cell, writes=console.is_main)
    _say(console, results, out)
    return results


class _Shown:
    """One bar over all cells; inside it the cell at work, its steps, and what remains."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._count = (0, 0)
        self._key, self._left = "", ""

    def cell(self, done: int, total: int, key: str, remaining: float) -> None:
        from cidm_core.training.progress import duration

        waiting = "waiting for other processes" if done < total else ""
        self._count, self._key = (done, total), key or waiting
        self._left = f"{duration(remaining)} left" if remaining > 0 else ""
        self._show("")

    def step(self, event: Progress) -> None:
        self._show(f"step {event.step} of {event.steps}")

    def _show(self, step: str) -> None:
        details = "  ".join(part for part in (self._key, step, self._left) if part)
        self._bar.update(*self._count, details, "Cells")


def _request(args: argparse.Namespace, sizes: Sizes) -> BenchmarkRequest:
    from .run import BenchmarkRequest
    from .systems import SYSTEMS

    return BenchmarkRequest(
        systems=tuple(args.systems or sizes.systems or SYSTEMS),
        parts=tuple(args.only or sizes.parts),
        seed=args.seed,
        clip=args.clip or "mini-clip",
        dino=args.dino or "",
        command=args.typed,
        commit=args.commit,
    )


def _sizes(args: argparse.Namespace) -> Sizes:
    from .sizes import FULL_RUN, PAPER_PROTOCOL, QUICK_RUN

    sizes = QUICK_RUN if args.quick else PAPER_PROTOCOL if args.data else FULL_RUN
    if args.orders is not None:
        if args.orders < 1:
            raise CidmError(f"--orders is {args.orders}. Give 1 or more.")
        sizes = replace(sizes, orders=args.orders)
    if args.train_steps is not None:
        sizes = replace(sizes, training={**sizes.training, "steps": args.train_steps})
    if args.steps is not None:
        sizes = replace(sizes, sampling={**sizes.sampling, "steps": args.steps})
    if args.images is not None:
        if args.images < 1:
            raise CidmError(f"--images is {args.images}. Give 1 or more.")
        sizes = replace(sizes, images=args.images, own_images=min(args.images, sizes.own_images))
    return sizes


def _prepare(
    args: argparse.Namespace,
    base: Base,
    request: BenchmarkRequest,
    sizes: Sizes,
    out: Path,
    on_step: Any,
) -> Benches:
    from cidm_core.diffusers_host.clip import load_clip
    from lab.cifc.dino import load_dino

    from .run import make_benches
    from .tasks import folder_suite, long_suite, mini_suite

    small = base.family.resolution_px == FAMILIES["MINI"].resolution_px
    if not (small or (args.data and args.clip)):
        raise CidmError(
            f"{base.name} is no mini-sd or mini-sdxl: the small world is not for it. Give photos "
            "and prompts with --data, and a CLIP model with --clip."
        )
    suite = folder_suite(user_path(args.data)) if args.data else mini_suite()
    long = None
    if not args.data and "long" in request.parts and sizes.long.concepts:
        long = long_suite(sizes.long.concepts)
    device = own_device(args.device)
    clip = load_clip(request.clip, device)
    dino = load_dino(request.dino, device) if request.dino else None
    return make_benches(base, clip, dino, suite, long, sizes, out, request, on_step)


def _say(console: Console, results: dict[str, Any], out: Path) -> None:
    from cidm_core.as_text import table

    rows: list[tuple[object, ...]] = []
    for row in results.get("main", {}).values():
        gap = row.get("oracle_gap", {}).get("ia", {}).get("mean")
        kept = row["forgetting"].get("retention")
        rows.append(
            (
                row["label"],
                100 * row["scores"]["ia"]["mean"],
                100 * row["scores"]["ta"]["mean"],
                None if gap is None else 100 * gap,
                None if kept is None else 100 * kept,
            )
        )
    if rows:
        console.say(table(("system", "IA", "TA", "oracle gap", "kept %"), rows))
    console.say(f"Tables and pictures are in {out}.")
