"""`cidm bank move`: concepts of one bank into another; what is taken is asked about."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ..errors import BankError
from .bank_action import add_action, open_bank
from .console import Console

if TYPE_CHECKING:
    from ..upkeep.conflicts import Conflict
    from ..upkeep.moving import Choice, Decide

_WAYS = ("leave-out", "replace", "rename")


def add_move(actions: Any) -> None:
    """`cidm bank move NAMES --into DIR`."""
    about = "concepts into another bank, or whole banks together"
    parser = add_action(actions, "move", about, run_move)
    parser.add_argument("names", nargs="*", metavar="NAME", help="Concepts of the bank.")
    parser.add_argument("--all", action="store_true", help="All concepts of the bank.")
    parser.add_argument("--into", required=True, metavar="DIR", help="The other bank.")
    parser.add_argument(
        "--copy",
        action="store_true",
        help="They stay in their bank as well. What is moved goes to its trash.",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="Copies for other people: without paths, prompts and the like that tell of this "
        "machine, and with a small picture inside that LoRA managers show.",
    )
    parser.add_argument(
        "--on-conflict",
        choices=_WAYS,
        help="Where the other bank has a name or word: leave the concept out, let it replace the "
        "other one (which is kept as a version, or goes to the trash), or give it a free name and "
        "free words. By default it is asked at a terminal; without one nothing is moved.",
    )


def run_move(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Move or copy concepts, and say what became of each."""
    from ..bank import Bank
    from ..upkeep.moving import move_concepts

    bank = open_bank(args)
    if bool(args.names) == args.all:
        raise BankError("Say which concepts: their names, or --all for every one of the bank.")
    copy = args.copy or args.share
    done = move_concepts(
        *(bank, args.names, Bank(args.into), _decide(args, console)), copy=copy, share=args.share
    )
    console.say("\n".join(each.in_words() for each in done))
    if args.share:
        console.note(
            "Their pictures go along; without previews while learning it is a photo of yours. Look "
            "at them before you give the bank away."
        )
    numbers = [str(each.number) for each in done if each.number]
    if numbers:
        console.note(
            f"In '{bank.path}' they are in the trash; to undo: cidm bank trash --bank "
            f"'{bank.path}' --restore {' '.join(numbers)}"
        )
    return {"bank": bank.path, "into": args.into, "copied": copy, "concepts": list(map(vars, done))}


def _decide(args: argparse.Namespace, console: Console) -> Decide | None:
    """By the flag, or asked; None if nobody can be asked."""
    from ..upkeep.moving import Choice

    if args.on_conflict:
        chosen = Choice(args.on_conflict)
        return lambda _: chosen
    if sys.stdin and sys.stdin.isatty():
        return lambda conflict: _ask(conflict, console)
    return None


def _ask(conflict: Conflict, console: Console) -> Choice:
    from ..upkeep.moving import LEAVE_OUT, RENAME, REPLACE, Choice

    name = conflict.entry.name
    console.note(f"{name}: {conflict.reason}")
    others = ", ".join([each.name for each in conflict.others] or [conflict.damaged])
    ways = {"l": LEAVE_OUT, "r": REPLACE, "n": RENAME}
    question = f"[l]eave {name} out, [r]eplace {others}, or [n]ew name and words?"
    while (answer := _line(console, question).lower()[:1]) not in ways:
        pass
    if ways[answer] != RENAME:
        return Choice(ways[answer])
    new_name = _line(console, f"Name [{conflict.free_name}]:")
    if not conflict.entry.words:
        return Choice(RENAME, new_name)
    free = " ".join(conflict.free_words or ())
    return Choice(RENAME, new_name, _line(console, f"Words [{free}]:"))


def _line(console: Console, question: str) -> str:
    console.note(question)
    answer = sys.stdin.readline()
    if not answer:
        raise BankError("No answer came. Nothing was moved.")
    return answer.strip()
