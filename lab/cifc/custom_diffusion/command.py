"""`python -m lab.cifc.custom_diffusion`: Custom Diffusion beside CIDM on the small world."""

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
        prog="python -m lab.cifc.custom_diffusion",
        usage="python -m lab.cifc.custom_diffusion [--out DIR] [options]",
        description="Teach mini-sd five concepts, two pairs of look-alikes and a style, by CIDM "
        "and by Custom Diffusion: each alone, all at once, merged in closed form, compressed. "
        "Measure what each draws, what becomes of look-alikes, and of what the model knew.",
        epilog="Everything done is kept under OUT/work: the same command goes on where it was "
        "stopped.\nwritten to OUT: custom_diffusion.json, custom_diffusion.md, "
        "custom_diffusion.png",
    )
    parser.add_argument("--out", default="custom_diffusion", metavar="DIR", help="Results.")
    parser.add_argument(
        "--ways", nargs="+", metavar="NAME", help="Only these, and ours. Default: all."
    )
    parser.add_argument(
        "--train-steps", type=int, default=250, metavar="N", help="Per concept [250]."
    )
    parser.add_argument("--prompts", type=int, default=20, metavar="N", help="Per concept [20].")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="Per prompt, seed [2].")
    parser.add_argument(
        "--pair-images", type=int, default=16, metavar="N", help="Per pair and seed [16]."
    )
    parser.add_argument(
        "--drift-images", type=int, default=100, metavar="N", help="Per class and seed [100]."
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="The first one [0].")
    parser.add_argument(
        "--seeds", type=int, default=2, metavar="N", help="Times that all is learned and drawn [2]."
    )
    add_output(parser)
    parser.set_defaults(run=_run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, as `cidm` does."""
    return started(build_parser(), argv)


def sizes_of(args: argparse.Namespace) -> Sizes:
    """The benchmark's quick tasks, two pairs of look-alikes and a style, and more of each."""
    from ..sizes import QUICK_RUN

    training = {**QUICK_RUN.training, "steps": args.train_steps}
    given = {"prompts": args.prompts, "images": args.images, "training": training}
    return replace(QUICK_RUN, scenes=30, **given)


def _run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Do what is not done yet, and report."""
    from cidm_core.commands.progress_bar import ProgressBar
    from cidm_core.diffusers_host.clip import load_clip
    from cidm_core.diffusers_host.load import load_base

    from ..tasks import mini_suite
    from .run import Amounts, run
    from .ways import WAYS

    sizes, out = sizes_of(args), user_path(args.out)
    base, clip = load_base("mini-sd", device="cpu"), load_clip("mini-clip", "cpu")
    amounts = Amounts(args.seed, args.seeds, args.pair_images, args.drift_images)
    with ProgressBar(enabled=console.shows_progress) as bar:
        results, page = run(
            *(base, clip, mini_suite(), sizes, out, amounts),
            ways=args.ways or tuple(WAYS),
            about={"command": args.typed, "model": "mini-sd", "clip": "mini-clip"},
            on_cell=lambda done, of, key, _left: bar.update(done, of, key, "Cells"),
        )
    console.say(page)
    return results
