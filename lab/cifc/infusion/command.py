"""`python -m lab.cifc.infusion`: Infusion beside CIDM and Custom Diffusion on the small world."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cidm_core.commands.console import Console
from cidm_core.commands.flags import CommandParser, add_output
from cidm_core.paths import user_path

from ..started import started

if TYPE_CHECKING:
    from ..sizes import Sizes


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(
        prog="python -m lab.cifc.infusion",
        usage="python -m lab.cifc.infusion [--out DIR] [options]",
        description="Teach a mini model concepts by CIDM, Custom Diffusion and Infusion from the "
        "same photos with masks. Measure what each draws, and how much each over-fits.",
        epilog="Everything done is kept under OUT/work: the same command goes on where it was "
        "stopped.\nwritten to OUT: infusion.json, infusion.md, infusion.png, both.png, "
        "over_fitting.png",
    )
    parser.add_argument("--out", default="infusion", metavar="DIR", help="Results.")
    parser.add_argument("--model", default="mini-sd", metavar="NAME", help="mini-sd or mini-sdxl.")
    parser.add_argument(
        "--tasks",
        type=int,
        nargs="+",
        default=[0, 8, 3],
        metavar="N",
        help="Numbers of the suite's tasks, from 0, all of things [0 8 3].",
    )
    parser.add_argument(
        "--train-steps", type=int, default=200, metavar="N", help="Per concept [200]."
    )
    parser.add_argument("--prompts", type=int, default=20, metavar="N", help="Per concept [20].")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="Per prompt [2].")
    parser.add_argument(
        "--fit-images", type=int, default=32, metavar="N", help="For over-fitting [32]."
    )
    parser.add_argument(
        "--both-images", type=int, default=16, metavar="N", help="Of two concepts [16]."
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="[0].")
    add_output(parser)
    parser.set_defaults(run=_run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, as `cidm` does."""
    return started(build_parser(), argv)


def sizes_of(args: argparse.Namespace) -> Sizes:
    """The benchmark's quick sizes with tasks of things, and more prompts."""
    from ..sizes import QUICK_RUN

    training = {**QUICK_RUN.training, "steps": args.train_steps}
    given = {"prompts": args.prompts, "images": args.images, "training": training}
    return replace(QUICK_RUN, tasks=tuple(args.tasks), **given)


def _run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Do what is not done yet, and report."""
    from cidm_core.commands.progress_bar import ProgressBar
    from cidm_core.diffusers_host.clip import load_clip
    from cidm_core.diffusers_host.load import load_base

    from ..tasks import mini_suite
    from .run import Amounts, run

    sizes, out = sizes_of(args), user_path(args.out)
    base, clip = load_base(args.model, device="cpu"), load_clip("mini-clip", "cpu")
    amounts = Amounts(args.seed, args.fit_images, args.both_images)
    with ProgressBar(enabled=console.shows_progress) as bar:
        results, page = run(
            *(base, clip, mini_suite(masks=True), sizes, out, amounts),
            about={"command": args.typed, "model": args.model, "clip": "mini-clip"},
            on_cell=lambda done, of, key, _left: bar.update(done, of, key, "Cells"),
        )
    console.say(page)
    return results
