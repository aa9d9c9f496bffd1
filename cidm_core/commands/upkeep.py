"""`cidm bank versions`, `trash` and `rename`: what was replaced or removed, and other names."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..config import SampleConfig
from ..errors import BankError
from .bank_action import add_action, open_bank
from .console import Console
from .flags import add_model, add_settings, chosen_base, given

if TYPE_CHECKING:
    from ..bank import Bank
    from ..storage.record import Entry
    from ..upkeep.versions import Version

_ALL = "all"


def add_versions(actions: Any) -> None:
    """`cidm bank versions NAME`."""
    about = "what stood in a concept's place before: list, go back, delete, compare"
    parser = add_action(actions, "versions", about, run_versions)
    parser.add_argument("name", metavar="NAME", help="Its name in the bank.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--back",
        type=int,
        metavar="N",
        help="Put version N in the concept's place; what stood there becomes a version.",
    )
    what.add_argument("--delete", type=int, metavar="N", help="Put version N into the trash.")
    what.add_argument(
        "--compare",
        nargs="?",
        const=_ALL,
        metavar="N,N",
        help="Draw the concept as it is and these versions side by side; by default all.",
    )
    group = parser.add_argument_group("--compare")
    group.add_argument("--prompt", help="What the pictures show.")
    group.add_argument(
        "--out", default="versions.png", metavar="FILE", help="File for the picture [versions.png]."
    )
    add_model(parser)
    add_settings(parser, SampleConfig, by_name={"strength": "strengths"})


def add_trash(actions: Any) -> None:
    """`cidm bank trash`."""
    about = "what was removed: list, restore, empty"
    parser = add_action(actions, "trash", about, run_trash)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--restore", type=int, nargs="+", metavar="N", help="Put number N back where it was."
    )
    what.add_argument("--empty", action="store_true", help="Delete all of it, for good.")
    parser.add_argument("--yes", action="store_true", help="Do not ask; needed without a terminal.")


def add_rename(actions: Any) -> None:
    """`cidm bank rename NAME NEW`."""
    parser = add_action(actions, "rename", "give a concept another name", run_rename)
    parser.add_argument("name", metavar="NAME", help="Its name in the bank.")
    parser.add_argument("new_name", metavar="NEW", help="Its name from now on.")


def agreed(args: argparse.Namespace, console: Console, question: str, forbids: str) -> bool:
    """Whether it may be done: by --yes, or asked once at the terminal.

    Raises:
        BankError: If nobody can be asked.
    """
    if args.yes:
        return True
    if not sys.stdin or not sys.stdin.isatty():
        raise BankError(f"{forbids}, and there is no terminal to ask at. Add --yes to do it.")
    console.note(f"{question} [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def run_versions(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """List a concept's versions, go back to one, delete one, or compare them."""
    from ..catalogue import find_name

    bank = open_bank(args)
    name = find_name(bank, args.name)
    if args.back is not None:
        return _go_back(bank, name, args.back, console)
    if args.delete is not None:
        return _delete(bank, name, args.delete, console)
    if args.compare is not None:
        return _compare(bank, name, args, console)
    return _list(bank, name, console)


def _list(bank: Bank, name: str, console: Console) -> dict[str, object]:
    from ..catalogue import record
    from ..upkeep.listings import versions_listing
    from ..upkeep.versions import broken_versions, versions

    found, broken = versions(bank, name), broken_versions(bank, name)
    now = next((entry for entry in bank.entries() if entry.name == name), None)
    console.say(versions_listing(bank, name))
    if not found:
        console.note(f"{name!r} was never replaced; when it is, the former one is kept here.")
    return {
        "name": name,
        "now": record(now) if now else None,
        "versions": [{"number": each.number, **record(each.entry)} for each in found],
        "broken": [{"file": path, "error": str(error)} for path, error in broken],
    }


def _go_back(bank: Bank, name: str, number: int, console: Console) -> dict[str, object]:
    from ..upkeep.versions import go_back, versions

    concept = go_back(bank, name, number)
    kept = [each.number for each in versions(bank, concept.name)]
    console.say(f"{concept.name!r} is version {number} again, learned {concept.created}.")
    if kept:
        console.say(f"What stood there is version {kept[-1]} now; --back {kept[-1]} undoes this.")
    return {"name": concept.name, "back": number, "versions": kept}


def _delete(bank: Bank, name: str, number: int, console: Console) -> dict[str, object]:
    from ..upkeep.versions import remove_version

    removed = remove_version(bank, name, number)
    console.say(f"Version {number} of {name!r} is in the trash. {how_to_restore(bank, removed)}")
    return {"name": name, "deleted": number, "trash": removed.number}


def how_to_restore(bank: Bank, removed: Any) -> str:
    """How what went to the trash comes back."""
    where = shlex.quote(str(bank.path))
    return f"To undo: cidm bank trash --bank {where} --restore {removed.number}"


def _compare(
    bank: Bank, name: str, args: argparse.Namespace, console: Console
) -> dict[str, object]:
    from ..catalogue import find_entry
    from ..diffusers_host.pipeline import generate
    from ..pictures.compared import Compared, compared_sheet
    from ..pictures.files import picture_path, save_picture
    from ..upkeep.listings import when_and_how
    from ..upkeep.versions import versions
    from ..upkeep.views import at_version
    from .progress_bar import ProgressBar

    if not args.prompt:
        raise BankError("--compare draws pictures. Say what they show with --prompt.")
    SampleConfig.from_dict(given(args))  # a wrong number is told before the model is loaded
    out = picture_path(args.out)
    now = find_entry(bank, name)
    chosen = [(0, now), *_chosen(args.compare, versions(bank, name), name)]
    views = [at_version(bank, name, number) for number, _ in chosen]
    base = chosen_base(args)
    bank.check(base, allow_other_base=True)
    config = SampleConfig.for_family(base.family.sampling, **given(args))
    drawn: list[Compared] = []
    with ProgressBar(enabled=console.shows_progress) as bar:
        for view, (number, entry) in zip(views, chosen, strict=True):
            prompt = args.prompt.replace(now.phrase, entry.phrase)
            pictures = generate(
                *(base, view, prompt, (), config),
                on_step=lambda step, steps, _: bar.update(step, steps, verb="Drawing"),
            )
            title = f"version {number}" if number else "now"
            drawn += [Compared(title, when_and_how(entry), picture) for picture in pictures]
    facts = {"prompt": args.prompt, "concept": name, "settings": config.to_dict()}
    sheet = compared_sheet(f"Versions of {name}", f"{args.prompt} (seed {config.seed})", drawn)
    save_picture(sheet, out, facts)
    console.say(str(out))
    return {**facts, "file": out, "versions": [number for number, _ in chosen]}


def _chosen(asked: str, found: Sequence[Version], name: str) -> list[tuple[int, Entry]]:
    known = {each.number: each.entry for each in found}
    try:
        numbers = list(known) if asked == _ALL else [int(part) for part in asked.split(",")]
    except ValueError:
        raise BankError(f"--compare takes numbers such as 1,3, not {asked!r}.") from None
    if not numbers:
        raise BankError(f"{name!r} has no versions to compare with: it was never replaced.")
    for number in numbers:
        if number not in known:
            there = ", ".join(map(str, known)) or "none"
            raise BankError(f"{name!r} has no version {number}; there are: {there}.")
    return [(number, known[number]) for number in dict.fromkeys(numbers)]


def run_trash(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """List what was removed, bring it back, or delete it for good."""
    from ..upkeep.listings import told, trash_listing
    from ..upkeep.trash import empty_trash, restore, trash

    bank = open_bank(args)
    found = trash(bank)
    if args.restore is not None:
        known = {each.number: told(each) for each in found}
        names: list[str] = []
        for number in args.restore:
            names.append(restore(bank, number))
            console.say(f"{known.get(number, repr(names[-1]))} is back in '{bank.path}'.")
        return {"restored": args.restore, "names": names}
    if args.empty:
        many = f"{len(found)} removal{'s' if len(found) != 1 else ''}"
        forbids = f"Emptying the trash of '{bank.path}' ({many}) cannot be undone"
        if found and not agreed(args, console, f"{forbids}. Do it?", forbids):
            console.say("Nothing was deleted.")
            return {"emptied": 0}
        emptied = empty_trash(bank)
        console.say(f"Deleted {many} for good.")
        return {"emptied": emptied}
    console.say(trash_listing(bank))
    return {"trash": [vars(each) for each in found]}


def run_rename(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Give a concept another name."""
    from ..catalogue import find_entry, record
    from ..upkeep.changes import rename

    bank = open_bank(args)
    old = find_entry(bank, args.name).name
    entry = rename(bank, old, args.new_name)
    console.say(f"{old!r} is called {entry.name!r} now.")
    return record(entry)
