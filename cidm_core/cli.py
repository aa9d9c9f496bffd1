"""The `cidm` command: parse, run one verb, turn errors into one clear message and an exit code.

Exit codes: 0 done, 1 bad input or a problem of the machine, 2 wrong command line, 130 interrupted.
Nothing heavy is imported before the command line is understood.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Sequence
from typing import Any

from tqdm import tqdm

from . import __version__
from .commands.bank import add_bank
from .commands.console import Console
from .commands.data import add_data
from .commands.demo import add_demo
from .commands.evaluate import add_evaluate
from .commands.flags import CommandParser
from .commands.generate import add_generate
from .commands.train import add_train
from .errors import CidmError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_EPILOG = """\
first steps:
  cidm demo --out demo                 learn three concepts with the tiny model, see one picture
  cidm data check --help               look at your photos and captions before
  cidm train --help                    teach a concept from a folder of photos
  cidm generate --help                 draw pictures with what was learned

exit codes:
  0 done   1 bad input or a problem of the machine   2 wrong command line   130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = CommandParser(
        prog="cidm",
        description="Teach a diffusion model concepts one after another, keep them all, and put "
        "them where you draw them.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"cidm {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for add in (add_demo, add_data, add_train, add_generate, add_bank, add_evaluate):
        add(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Words after `cidm`; default: those of the process.

    Returns:
        The exit code.

    Raises:
        SystemExit: For --help, --version and a wrong command line (code 2).
    """
    # PyTorch reads it when it is loaded. Threads that spin while they wait take the time of other
    # programs: with two on two busy cores a step of mini-sd takes five times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run(build_parser().parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Run a parsed command: `args.run(args, console)`, with its errors turned into exit codes."""
    console = Console(args.json, args.quiet, args.verbose)
    for stream in (sys.stdout, sys.stderr):
        # A character that a code page lacks must not end a command that has done its work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with _log_to_stderr(console), _signals_as_interrupts():
        try:
            console.result(args.run(args, console))
            return OK
        except BrokenPipeError:  # `cidm bank list | head`
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - kept until the process ends
            return OK
        except KeyboardInterrupt as error:
            # Training says where it keeps its state.
            return _fail(console, "Interrupted", str(error) or "Interrupted.", INTERRUPTED)
        except CidmError as error:
            code = INTERRUPTED if type(error).__name__ == "Stopped" else FAILED
            return _fail(console, type(error).__name__, str(error), code)
        except (OSError, MemoryError, RuntimeError) as error:
            if (text := _explained(error)) is None:
                raise
            return _fail(console, type(error).__name__, text, FAILED)


def _fail(console: Console, kind: str, message: str, code: int) -> int:
    if console.verbose:
        console.error(traceback.format_exc())
    console.error(message if code == INTERRUPTED else f"{kind}: {message}")
    console.result({"error": {"kind": kind, "message": message}, "exit_code": code})
    return code


def _explained(error: Exception) -> str | None:
    """What a problem of the machine means for the user; None for a mistake in this program."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "not enough memory" in text:
        return (
            "The memory did not suffice. Close other programs, train with --preset low-vram, "
            "or use --dtype bf16 and a smaller picture."
        )
    if isinstance(error, OSError) and error.errno is not None:
        from .storage.atomic import explain

        return explain(error, f"use '{error.filename}'" if error.filename else "go on")
    return None


class _Handler(logging.Handler):
    """Log lines on standard error that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def _log_to_stderr(console: Console) -> Generator[None]:
    """Send the package's warnings (with --verbose its notes) to standard error."""
    log = logging.getLogger(__package__)
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    level, spread = log.level, log.propagate
    least = logging.INFO if console.verbose else logging.WARNING
    log.setLevel(least if console.shows_progress else logging.ERROR)
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = spread


@contextlib.contextmanager
def _signals_as_interrupts() -> Generator[None]:
    """Let SIGTERM end the command as Ctrl-C does: state is written, then it goes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
