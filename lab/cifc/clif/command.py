"""`python -m lab.cifc.clif`: look-alikes in one picture, with words told apart and without."""

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

TASKS = (0, 6, 2, 8)  # two dogs, two cats


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(
        prog="python -m lab.cifc.clif",
        usage="python -m lab.cifc.clif [--out DIR] [options]",
        description="Teach mini-sdxl two dogs and two cats from photos with masks: by CLIF, CLIF "
        "without parts of it, CIDM and Custom Diffusion, these with its contrast and without. "
        "Measure what becomes of look-alikes that one prompt asks for, and of each alone.",
        epilog="Everything done is kept under OUT/work: the same command goes on where it was "
        "stopped.\nwritten to OUT: clif.json, clif.md, clif.png",
    )
    parser.add_argument("--out", default="clif", metavar="DIR", help="Results.")
    parser.add_argument(
        "--ways", nargs="+", metavar="NAME", help="Only these, and ours. Default: all."
    )
    parser.add_argument(
        "--train-steps", type=int, default=100, metavar="N", help="Per concept [100]."
    )
    parser.add_argument("--prompts", type=int, default=8, metavar="N", help="Per concept [8].")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="Per prompt, seed [2].")
    parser.add_argument(
        "--scene-images",
        type=int,
        default=12,
        metavar="N",
        help="Per prompt of several concepts, and seed [12].",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="The first one [0].")
    parser.add_argument(
        "--seeds",
        type=int,
        default=2,
        metavar="N",
        help="Times that all is learned and drawn, but for CLIF without G, R or M and with the "
        "contrast as released [2].",
    )
    parser.add_argument(
        "--clif-seeds",
        type=int,
        default=4,
        metavar="N",
        help="Times for CLIF with its contrast and without [4].",
    )
    add_output(parser)
    parser.set_defaults(run=_run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, as `cidm` does."""
    return started(build_parser(), argv)


def sizes_of(args: argparse.Namespace) -> Sizes:
    """The benchmark's quick sizes with four look-alikes, and more of each."""
    from ..sizes import QUICK_RUN

    training = {**QUICK_RUN.training, "steps": args.train_steps}
    given = {"prompts": args.prompts, "images": args.images, "training": training}
    return replace(QUICK_RUN, tasks=TASKS, scenes=30, **given)


def _run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Do what is not done yet, and report."""
    from cidm_core.commands.progress_bar import ProgressBar
    from cidm_core.diffusers_host.clip import load_clip
    from cidm_core.diffusers_host.composites import Contrast
    from cidm_core.diffusers_host.contrast import load_contrast_clip
    from cidm_core.diffusers_host.load import load_base
    from cidm_core.mini.common_things import drawn_things

    from ..tasks import mini_suite
    from .run import Amounts, run
    from .ways import WAYS

    sizes, out = sizes_of(args), user_path(args.out)
    base, clip = load_base("mini-sdxl", device="cpu"), load_clip("mini-clip", "cpu")
    contrast = Contrast(load_contrast_clip("mini-clip", "cpu"), drawn_things())
    amounts = Amounts(args.seed, args.seeds, args.clif_seeds, args.scene_images)
    with ProgressBar(enabled=console.shows_progress) as bar:
        results, page = run(
            *(base, clip, contrast, mini_suite(masks=True), sizes, out, amounts),
            ways=args.ways or tuple(WAYS),
            about={"command": args.typed, "model": "mini-sdxl", "clip": "mini-clip"},
            on_cell=lambda done, of, key, _left: bar.update(done, of, key, "Cells"),
        )
    console.say(page)
    return results
