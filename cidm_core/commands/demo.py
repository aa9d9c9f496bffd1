"""`cidm demo`: three concepts in a row with the tiny model, and one page that shows it all."""

from __future__ import annotations

import argparse
from typing import Any

from .console import Console
from .flags import add_output

_EPILOG = """\
example:
  cidm demo --out demo

The pictures are drawn by this program: a purple striped cat, a teal spotted cat (its look-alike)
and a painting style. Each is taught in turn, with no photo of the others at hand. The page shows
each concept right after its own training and after the last one, from the same seeds.
"""


def add_demo(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        "demo",
        help="see it work in a few minutes, with the tiny model that comes along",
        description="Learn three concepts one after another and draw a contact sheet.",
        epilog=_EPILOG,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="Folder for all results.")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="Seed of photos, training and pictures [0].",
    )
    parser.add_argument(
        "--quick", action="store_true", help="A few steps only: to see that it runs, not how well."
    )
    add_output(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Run the demo.

    Raises:
        CidmError: If the folder cannot be written, or something is in the way there.
    """
    from ..demo.run import run_demo
    from ..paths import user_path
    from .progress_bar import ProgressBar

    with ProgressBar(enabled=console.shows_progress) as bar:
        result = run_demo(
            user_path(args.out),
            seed=args.seed,
            quick=args.quick,
            on_progress=bar,
            on_note=console.note,
        )
    console.say(result.summary())
    return result.to_dict()
