"""`cidm bank`: what a bank holds, and concepts in and out of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..as_text import table
from ..errors import BankError
from .console import Console
from .flags import add_output

if TYPE_CHECKING:
    from ..bank import Bank
    from ..concept import Concept
    from ..storage.concept_file import Entry

_EPILOG = """\
examples:
  cidm bank list --bank bank
  cidm bank show dog --bank bank
  cidm bank export dog --bank bank --out dog_lora.safetensors      for any LoRA loader
  cidm bank import other/dog.safetensors --bank bank --name dog-2
  cidm bank import edlora_model-latest.pth --bank bank --class-words dog --model sd15.safetensors
"""


def add_parser(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        "bank",
        help="list, show, remove, export and import concepts",
        description="Look after a bank: a folder with one file per concept, in learning order.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _action(actions, "list", "all concepts, in learning order", list_concepts)
    show = _action(actions, "show", "words, origin and training of one concept", show_concept)
    show.add_argument("name", metavar="NAME", help="Its name in the bank.")
    remove = _action(actions, "remove", "delete a concept's file", remove_concept)
    remove.add_argument("name", metavar="NAME", help="Its name in the bank.")
    remove.add_argument("--yes", action="store_true", help="Do not ask.")
    export = _action(actions, "export", "its weights as a plain LoRA file", export_concept)
    export.add_argument("name", metavar="NAME", help="Its name in the bank.")
    export.add_argument("--out", required=True, metavar="FILE", help="A .safetensors file.")
    _add_import(actions)


def _add_import(actions: Any) -> None:
    parser = _action(actions, "import", "a concept file, or a .pth of the public code", import_file)
    parser.add_argument("file", metavar="FILE", help=".safetensors of ours, or .pth.")
    parser.add_argument("--name", help="Its name here. Default: its own, or from its words.")
    group = parser.add_argument_group("for .pth files")
    group.add_argument("--words", metavar="WORDS", help="Which of its words. Default: all.")
    group.add_argument("--class-words", metavar="WORDS", help='What it is in plain words: "dog".')
    group.add_argument("--kind", choices=("object", "style", "human"), default="object")
    group.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="Their alpha: 1.0 as trained [1.0]."
    )
    group.add_argument(
        "--model",
        metavar="PATH",
        help="The base model it was learned on. Default: that of the bank's other concepts.",
    )


def _action(actions: Any, name: str, about: str, run: Any) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False
    )
    parser.add_argument("--bank", required=True, metavar="DIR", help="Folder of concepts.")
    add_output(parser)
    parser.set_defaults(run=run)
    return parser


def _open(args: argparse.Namespace) -> Bank:
    from ..bank import Bank

    bank = Bank(args.bank)
    if not bank.path.exists() and args.action != "import":
        raise BankError(f"There is no bank '{bank.path}'. `cidm train --bank` makes one.")
    return bank


def list_concepts(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """All concepts, from the headers of their files."""
    bank = _open(args)
    entries, broken = bank.entries(), bank.broken()
    rows = [(e.index, e.name, e.trigger, e.class_words, e.kind, e.family, e.rank) for e in entries]
    head = ("order", "name", "words", "class words", "kind", "family", "rank")
    console.say(table(head, rows) if rows else f"Bank '{bank.path}' holds no concept yet.")
    for path, error in broken:
        console.error(f"{path.name} cannot be used: {error}")
    return {
        "bank": bank.path,
        "concepts": [_facts(entry) for entry in entries],
        "broken": [{"file": path, "error": str(error)} for path, error in broken],
    }


def show_concept(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """One concept, its file read and verified."""
    bank = _open(args)
    bank[args.name]  # verifies every tensor
    entry = next(entry for entry in bank.entries() if entry.name == args.name)
    facts = _facts(entry)
    shown = {key: value for key, value in facts.items() if key not in ("facts", "config")}
    shown["base"] = f"{entry.base[:48]}..." if len(entry.base) > 51 else entry.base
    shown |= {f"  {key}": value for key, value in entry.facts.items()}
    width = max(len(key) for key in shown)
    console.say("\n".join(f"{key.ljust(width)}  {_words(value)}" for key, value in shown.items()))
    settings = ", ".join(f"{key} {value}" for key, value in entry.config.items() if value != "")
    console.say(f"{'settings'.ljust(width)}  {settings}")
    return facts


def remove_concept(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Delete a concept's file and preview."""
    bank = _open(args)
    if not args.yes and sys.stdin.isatty():
        console.note(f"Remove {args.name!r} from '{bank.path}'? It cannot be undone. [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            console.say("Nothing was removed.")
            return {"removed": None}
    bank.remove(args.name)
    console.say(f"Removed {args.name!r} from '{bank.path}'.")
    return {"removed": args.name}


def export_concept(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Write a plain LoRA."""
    from ..storage.atomic import make_folder

    bank = _open(args)
    out = Path(args.out).expanduser()
    make_folder(out.parent)
    bank.export(args.name, out)
    console.say(f"{out}  (weights only: the concept words stay in the bank's own file)")
    return {"file": out}


def import_file(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Add a concept from a file."""
    bank = _open(args)
    path = Path(args.file).expanduser()
    concept = _from_pth(args, path, bank) if path.suffix.lower() == ".pth" else _own(args, path)
    stored = bank.add(concept)
    left = stored.facts.get("left_out")
    console.say(f"Added {stored.trigger!r} as {stored.name!r} to '{bank.path}'.")
    if left:
        console.note(f"Left out, no part of a concept: {_words(left)}.")
    entry = next(entry for entry in bank.entries() if entry.name == stored.name)
    return _facts(entry)


def _own(args: argparse.Namespace, path: Path) -> Concept:
    from dataclasses import replace

    from ..importers.cifc_concept import read_concept_file

    concept = read_concept_file(path)
    return replace(concept, name=args.name) if args.name else concept


def _from_pth(args: argparse.Namespace, path: Path, bank: Bank) -> Concept:
    from ..importers.cifc_concept import read_pth
    from ..storage.names import default_name

    if not args.class_words:
        raise BankError("--class-words is missing: say what the concept is, such as 'dog'.")
    family, base = _base_of(args, bank)
    words = args.words.split() if args.words else None
    concept = read_pth(
        path,
        name=args.name or "imported",
        class_words=args.class_words,
        kind=args.kind,
        family=family,
        base=base,
        scale=args.scale,
        words=words,
    )
    if args.name:
        return concept
    from dataclasses import replace

    return replace(concept, name=default_name(concept.words, concept.class_words))


def _base_of(args: argparse.Namespace, bank: Bank) -> tuple[str, str]:
    """Family and fingerprint of the model a foreign file was learned on."""
    if args.model:
        from ..diffusers_host.load import load_base

        base = load_base(args.model, device="cpu")
        return base.family.name, base.fingerprint
    if entries := bank.entries():
        return entries[0].family, entries[0].base
    raise BankError(
        "Such a file does not tell its base model, and the bank is still empty. "
        "Give --model, the checkpoint it was learned on."
    )


def _facts(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "words": entry.words,
        "class_words": entry.class_words,
        "kind": entry.kind,
        "family": entry.family,
        "method": entry.method,
        "order": entry.index,
        "rank": entry.rank,
        "alpha": entry.alpha,
        "layers": len(entry.layers),
        "base": entry.base,
        "created": entry.created,
        "file": entry.path,
        "preview": entry.preview if entry.preview.exists() else None,
        "facts": entry.facts,
        "config": entry.config,
    }


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return " ".join(str(each) for each in value)
    return "-" if value is None else str(value)
