"""`cidm bank`: what a bank holds, and concepts in and out of it; merging is in `merging`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..exporters.formats import FILE_ENDINGS, FORMATS, LORA, NEEDS_MODEL
from ..importers.settings import ImportConfig
from ..paths import user_path
from .bank_action import add_action, open_bank
from .console import Console
from .flags import add_settings, given
from .merging import add_compress, add_merge
from .moving import add_move
from .upkeep import add_rename, add_trash, add_versions, agreed, how_to_restore

if TYPE_CHECKING:
    from ..diffusers_host.unet_facts import UnetFacts

_EPILOG = """\
examples:
  cidm bank list --bank bank
  cidm bank show dog --bank bank
  cidm bank export dog --bank bank --out dog_lora.safetensors      for any LoRA loader
  cidm bank export cat --bank bank --as webui --out models         words too: loras/, embeddings/
  cidm bank export cat --bank bank --as compvis-delta --out cat.ckpt --model sd15.safetensors
  cidm bank import other/dog.safetensors --bank bank --name dog-2
  cidm bank import embeddings/toy.pt --bank bank --class-words toy --model sd15.safetensors
  cidm bank import edlora_model-latest.pth --bank bank --class-words dog --model sd15.safetensors
  cidm bank import delta.bin --bank bank --class-words cat+dog --model sd15.safetensors
  cidm bank import exp/lora --bank bank --class-words dog+cat --model sdxl.safetensors
  cidm bank versions dog --bank bank --back 2                      undo a training
  cidm bank versions dog --bank bank --compare --prompt "a <dog1> <dog2>" --model sd15.safetensors
  cidm bank remove dog --bank bank       and back: cidm bank trash --bank bank --restore 1
  cidm bank move dog cat --bank bank --into pets --copy             --all: banks together
  cidm bank merge dog cat --bank bank --as pets --model sd15.safetensors      into bank-merged
  cidm bank compress pets --bank bank-merged --energy 0.6
"""


def add_bank(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        "bank",
        help="list, show, rename, move, remove, restore, export, import, merge, compress concepts",
        description="Look after a bank: a folder with one file per concept, in learning order.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add_action(actions, "list", "all concepts, in learning order", list_concepts)
    show = add_action(actions, "show", "words, origin and training of one concept", show_concept)
    show.add_argument("name", metavar="NAME", help="Its name in the bank.")
    remove = add_action(actions, "remove", "put a concept into the bank's trash", remove_concept)
    remove.add_argument("name", metavar="NAME", help="Its name in the bank.")
    remove.add_argument("--yes", action="store_true", help="Do not ask; needed without a terminal.")
    _add_export(actions)
    _add_import(actions)
    add_versions(actions)
    add_trash(actions)
    add_rename(actions)
    add_move(actions)
    add_merge(actions)
    add_compress(actions)


def _add_export(actions: Any) -> None:
    parser = add_action(actions, "export", "a concept as files for other programs", export_concept)
    parser.add_argument("name", metavar="NAME", help="Its name in the bank.")
    listed = "; ".join(f"{name}: {about}" for name, about in FORMATS.items())
    parser.add_argument(
        "--as",
        dest="file_format",
        choices=tuple(FORMATS),
        default=LORA,
        help=f"{listed}. Default: {LORA}.",
    )
    endings = ", ".join(f"{ending} for {name}" for name, ending in FILE_ENDINGS.items())
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help=f"A file: {endings}. A folder for the others.",
    )
    parser.add_argument(
        "--model",
        metavar="PATH",
        help=f"For {', '.join(NEEDS_MODEL)}: the base model that it was learned on.",
    )


def _add_import(actions: Any) -> None:
    parser = add_action(
        actions,
        "import",
        "a concept file, one of CIFC, Mix-of-Show, Custom Diffusion, Infusion or CLIF, or a "
        "textual inversion",
        import_file,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help=".safetensors, .pth, .pt, .bin or .ckpt, or the folder that diffusers' Custom "
        "Diffusion script wrote, or CLIF's: its LoRA, with OUT_full_model beside it, or the text "
        "encoders of its earlier stages.",
    )
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="For files of other programs: the base model they were learned on. By default that of "
        "the bank's other concepts; files of Custom Diffusion need it.",
    )
    add_settings(parser, ImportConfig)


def list_concepts(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """All concepts, from the headers of their files."""
    from ..catalogue import listing, record

    bank = open_bank(args)
    console.say(listing(bank))
    return {
        "bank": bank.path,
        "concepts": [record(entry) for entry in bank.entries()],
        "broken": [{"file": path, "error": str(error)} for path, error in bank.broken()],
    }


def show_concept(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """One concept, its file read and verified."""
    from ..catalogue import described, find_entry, record

    bank = open_bank(args)
    entry = find_entry(bank, args.name)
    bank[entry.name]  # verifies every tensor
    texts = described(entry)
    width = max(map(len, texts))
    console.say("\n".join(f"{label.ljust(width)}  {text}" for label, text in texts.items()))
    return record(entry)


def remove_concept(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Put a concept's file, picture and versions into the bank's trash."""
    bank = open_bank(args)
    bank.find(args.name)  # asked for nothing otherwise
    question = f"Put {args.name!r} of '{bank.path}' into its trash?"
    if not agreed(args, console, question, f"{args.name!r} would go to the trash"):
        console.say("Nothing was removed.")
        return {"removed": None}
    removed = bank.remove(args.name)
    console.say(f"Removed {args.name!r} from '{bank.path}'. {how_to_restore(bank, removed)}")
    return {"removed": args.name, "trash": removed.number}


def export_concept(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Write a concept for other programs."""
    from ..exporters.export import export_concept

    bank, model = open_bank(args), _model(args)
    files = export_concept(bank, args.name, user_path(args.out), args.file_format, model)
    console.say("\n".join(map(str, files)))
    if args.file_format == LORA:
        console.say("(weights only: the concept words stay in the bank's own file)")
    return {"file": files[0], "files": files}


def _model(args: argparse.Namespace) -> UnetFacts | None:
    if not args.model:
        return None
    from ..diffusers_host.unet_facts import unet_facts

    return unet_facts(args.model)


def import_file(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Add a concept from a file."""
    from ..catalogue import find_entry, record
    from ..importers.concept_import import import_concept

    bank, model = open_bank(args), _model(args)
    config = ImportConfig.from_dict(given(args))
    concept, note = import_concept(user_path(args.file), bank, config, model)
    console.say(f"{concept.phrase!r} is in '{bank.path}' as {concept.name!r}.")
    if note:
        console.note(note)
    return record(find_entry(bank, concept.name))
