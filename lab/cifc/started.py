"""How every command of this benchmark starts."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from cidm_core import cli


def started(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Run a command, which finds in `args.typed` what was typed; returns the exit code.

    Args:
        parser: Its `prog` is what comes before the arguments, its default `run` does the work.
        argv: Arguments; None: those of the program.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(given)
    args.typed = shlex.join([*parser.prog.split(), *given])
    return cli.run(args)
