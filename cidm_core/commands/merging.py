"""`cidm bank merge` and `cidm bank compress`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..merging.settings import CompressConfig, MergeConfig
from .bank_action import add_action, open_bank
from .console import Console
from .flags import add_model, add_settings, chosen_base, given

if TYPE_CHECKING:
    from ..bank import Bank


def add_merge(actions: Any) -> None:
    """`cidm bank merge A B --as NAME`."""
    about = "several concepts as one, in closed form, for other programs too"
    parser = add_action(actions, "merge", about, merge_concepts)
    parser.add_argument("names", nargs="+", metavar="NAME", help="Concepts of the bank.")
    parser.add_argument("--as", required=True, dest="name", metavar="NAME", help="The new one's.")
    parser.add_argument(
        "--into",
        metavar="DIR",
        help="Bank for the new concept, which has the words of all of them, so that one bank "
        "cannot hold both. By default <bank>-merged beside the bank.",
    )
    parser.add_argument(
        "--captions",
        metavar="FILE",
        help="Ordinary captions, one a line, at which the model stays what it was. By default 324 "
        "of our own.",
    )
    _add_overwrite(parser)
    add_settings(parser, MergeConfig)
    add_model(parser)


def add_compress(actions: Any) -> None:
    """`cidm bank compress NAME --energy 0.6`."""
    about = "a concept in fewer numbers, by its singular values"
    parser = add_action(actions, "compress", about, compress_concept)
    parser.add_argument("name", metavar="NAME", help="Its name in the bank.")
    parser.add_argument("--as", dest="new_name", default="", metavar="NAME", help="A new name.")
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--into", metavar="DIR", help="Bank for it. By default <bank>-compressed beside the bank."
    )
    place.add_argument(
        "--replace",
        action="store_true",
        help="Put it in the place of the whole one, which is kept as a version.",
    )
    _add_overwrite(parser)
    add_settings(parser, CompressConfig)


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    about = (
        "Take the place of a concept of that name in the other bank, which keeps it as a version."
    )
    parser.add_argument("--overwrite", action="store_true", help=about)


def merge_concepts(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Merge concepts into a new one of another bank."""
    from ..catalogue import find_entry, record
    from ..diffusers_host.encode import DiffusersEncoder
    from ..merging.banks import merge_in_bank
    from ..merging.texts import read_captions, shipped_captions
    from .progress_bar import ProgressBar

    bank = open_bank(args)
    into = _target(args, bank, "merged")
    config = MergeConfig.from_dict(given(args))
    given_captions = read_captions(args.captions) if args.captions else None
    base = chosen_base(args)
    captions = given_captions or shipped_captions(base.family)
    encode = DiffusersEncoder(base).captions
    with ProgressBar(enabled=console.shows_progress) as bar:
        concept, report = merge_in_bank(
            *(bank, args.names, into, args.name, base, encode, captions, config),
            on_progress=lambda done, of, what: bar.update(done, of, verb=what),
            overwrite=args.overwrite,
        )
    console.say(f"{concept.phrase!r} is in '{into.path}' as {concept.name!r}.\n{report.in_words()}")
    return record(find_entry(into, concept.name)) | {"bank": into.path, "report": asdict(report)}


def compress_concept(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Compress a concept into another bank, or in its own place."""
    from ..catalogue import find_entry, record
    from ..merging.banks import compress_in_bank
    from .progress_bar import ProgressBar

    bank = open_bank(args)
    into = None if args.replace else _target(args, bank, "compressed")
    config = CompressConfig.from_dict(given(args))
    with ProgressBar(enabled=console.shows_progress) as bar:
        concept, report = compress_in_bank(
            *(bank, args.name, into, args.new_name, config),
            on_progress=lambda done, of, what: bar.update(done, of, verb=what),
            overwrite=args.overwrite,
        )
    held = bank if into is None else into
    console.say(f"{concept.name!r} is in '{held.path}'.\n{report.in_words()}")
    return record(find_entry(held, concept.name)) | {"bank": held.path, "report": asdict(report)}


def _target(args: argparse.Namespace, bank: Bank, what: str) -> Bank:
    from ..bank import Bank as Opened
    from ..merging.banks import beside

    return Opened(args.into) if args.into else beside(bank, what)
