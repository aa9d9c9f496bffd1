"""`cidm train`: one concept from a folder of photos into the bank."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import AGAIN_HELP
from ..errors import CidmError
from ..training.presets import PRESET_HELP, PRESETS, presets_of
from .console import Console
from .flags import (
    CommandParser,
    add_model,
    add_output,
    add_settings,
    chosen_base,
    given,
    model_words,
    of_families,
    refuse_foreign,
    refuse_unused,
)
from .masks import add_masks, masked

if TYPE_CHECKING:
    from ..methods.base import MethodClass
    from ..training.data import Photo, TrainingSubject

DEFAULT_METHOD = "cidm"

_EPILOG = """\
examples:
  cidm train --bank bank --photos photos/dog --words "<dog1> <dog2>" --class-words dog
  cidm train --model sd15.safetensors --bank bank --photos photos/ink --words "<ink1> <ink2>" \\
      --class-words "ink painting" --kind style --preset low-vram
  cidm train --bank bank --photos photos/cat --options options/cat.yml      options of the CIFC code
  cidm train --bank bank --photos more/dog --words "<dog1> <dog2>" --class-words dog --again go-on
  accelerate launch --num_processes 2 -m cidm_core train --bank bank ...    two GPUs or processes

Captions stand in dog1.txt beside dog1.jpg, or where --captions says. The class words in a caption
become the concept words; without captions, "a photo of a <dog1> <dog2>" and the like are used.
Ctrl-C keeps the state; the same command goes on where it stopped. The log and the loss picture of a
run are in BANK/.runs/NAME/. The defaults in brackets give way to those of the model's family, these
to --options, then to --preset, then to single flags. A recipe gives way to all of them.
"""


def add_train(verbs: Any) -> None:
    parser: CommandParser = verbs.add_parser(
        "train",
        usage="cidm train --bank DIR --photos DIR --words WORDS --class-words WORDS [options]",
        help="teach a concept from a folder of photos",
        description="Learn one concept from 3 to 20 photos and add it to a bank. Concepts learned "
        "earlier stay as they are.",
        epilog=_EPILOG,
    )
    # The settings depend on --method, and to know the methods takes a second.
    parser.complete = _add_arguments
    parser.set_defaults(run=_run)


def _add_arguments(parser: CommandParser, words: Sequence[str]) -> None:
    """All flags of the method that the command line names."""
    from ..methods import METHODS

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--method", nargs="?", default=DEFAULT_METHOD)
    name = early.parse_known_args(words)[0].method
    method = METHODS.get(name, METHODS[DEFAULT_METHOD])
    _add_concept(parser, tuple(METHODS), method)
    add_model(parser)
    add_settings(parser, method.Config)
    add_output(parser)
    parser.epilog = f"{_EPILOG}{of_families(name)}"
    others = {other: row.Config for other, row in METHODS.items() if other != name}
    refuse_foreign(parser, words, name, method.Config, others)
    asked = {"needed": "--words WORDS ", "optional": "[--words WORDS] ", "unused": ""}[method.words]
    parser.usage = (parser.usage or "").replace("--words WORDS ", asked)
    used = {
        "--words": method.words != "unused",
        "--prior": method.prior != "unused",
        "--subjects": method.several,
    }
    refuse_unused(parser, words, name, [flag for flag, is_used in used.items() if not is_used])


def _add_concept(parser: CommandParser, methods: tuple[str, ...], method: MethodClass) -> None:
    what = parser.add_argument_group("concept")
    what.add_argument(
        "--bank", required=True, metavar="DIR", help="Folder of concepts; it may be new."
    )
    what.add_argument("--photos", metavar="DIR", help="Folder of photos.")
    if method.words != "unused":
        what.add_argument(
            "--words",
            metavar="WORDS",
            help='New words in angle brackets that will call it, the noun last: "<dog1> <dog2>".',
        )
    what.add_argument("--class-words", metavar="WORDS", help='What it is in plain words: "dog".')
    what.add_argument(
        "--kind",
        choices=("object", "style", "human"),
        help="What kind of thing is learned [object].",
    )
    what.add_argument("--name", help="Its name in the bank. By default it is made from the words.")
    what.add_argument(
        "--captions", metavar="PATH", help="Folder of .txt files, or one captions file."
    )
    add_masks(what)
    if method.prior != "unused":
        what.add_argument(
            "--prior",
            metavar="DIR",
            help="Folder of pictures of other things of the class, with captions or without. By "
            "default the model draws some (--prior-images).",
        )
    if method.several:
        what.add_argument(
            "--subjects",
            metavar="JSON",
            help="File with more subjects to learn at once, each with photos, words and class "
            "words; diffusers' concepts_list will do. Without --photos its first one leads.",
        )
    what.add_argument(
        "--method",
        choices=methods,
        default=DEFAULT_METHOD,
        help=f"How it is learned [{DEFAULT_METHOD}]. Together with --help it shows that method's "
        "settings.",
    )
    what.add_argument(
        "--options", metavar="YML", help="Options file of the public CIFC code. Flags override it."
    )
    what.add_argument(
        "--preset", choices=tuple(PRESETS), help=f"Settings for a kind of card: {PRESET_HELP}."
    )
    what.add_argument(
        "--again",
        choices=("replace", "go-on"),
        type=lambda text: text.replace("_", "-"),  # as the API and the node have it
        help=f"{AGAIN_HELP.replace('_', '-')}. Without it they are refused, with what differs.",
    )
    what.add_argument(
        "--no-resume", action="store_true", help="Start over even if a state of this run is there."
    )


def read_request(args: argparse.Namespace) -> argparse.Namespace:
    """The command line, and where it is silent its options file.

    Adds `settings` (those of flags go first, then the preset's), `mapping` and `notes`.

    Raises:
        CidmError: If something needed is given by neither.
    """
    from ..methods import method_called

    flags = {key: value for key, value in vars(args).items() if value is not None}
    found: dict[str, Any] = {"words": "", "kind": "object", "prior": None, "mapping": None}
    found |= {"settings": {}, "notes": (), "subjects": None}
    if args.options:
        from ..importers.cifc_options import read_options

        file = read_options(args.options, processes=int(os.environ.get("WORLD_SIZE", "1")))
        found |= {"photos": file.photos_dir, "words": " ".join(file.words), "kind": file.kind}
        found |= {"class_words": file.class_words, "name": file.name, "notes": file.notes}
        found |= {"captions": file.captions_dir, "masks": file.masks_dir}
        found["settings"] = file.settings
        # Replacements name the file's words: other words on the command line end them.
        found["mapping"] = file.mapping or None if "words" not in flags else None
    found = {**vars(args), **found, **flags}
    with_words = method_called(args.method).words == "needed"
    if found["subjects"] and not found["photos"]:
        _refuse_lost(flags)
        return _with_settings(found, args)
    for key in ("photos", *(("words",) if with_words else ()), "class_words"):
        if not found[key]:
            raise CidmError(f"--{key.replace('_', '-')} is missing. Give it, or an --options file.")
    return _with_settings(found, args)


def _refuse_lost(flags: Mapping[str, Any]) -> None:
    """Make sure that nothing is said of photos that are not given."""
    for key in ("words", "class_words", "kind", "captions", "masks", "prior"):
        if key in flags:
            raise CidmError(
                f"--{key.replace('_', '-')} is about --photos, which are not given. Write it into "
                f"the subject's row of '{flags['subjects']}', or give --photos of one more subject."
            )


def _with_settings(found: dict[str, Any], args: argparse.Namespace) -> argparse.Namespace:
    from ..methods import method_called

    preset = presets_of(method_called(args.method).Config)[args.preset] if args.preset else {}
    found["settings"] = {**found["settings"], **preset, **given(args)}
    return argparse.Namespace(**found)


def _subjects(request: argparse.Namespace) -> list[TrainingSubject]:
    """What is to be learned, with its photos."""
    from ..importers.subjects_file import read_subjects
    from ..training.data import Photo, TrainingSubject
    from ..training.prior_folders import prior_photos

    held: list[TrainingSubject] = []
    if request.photos:
        photos = Photo.from_folder(request.photos, request.captions, request.masks)
        prior: list[Photo] = []
        if request.prior:
            prior = prior_photos(request.prior, request.class_words, request.kind)
        called = request.words, request.class_words, request.kind, request.mapping
        held.append(TrainingSubject(photos, *called, prior))
    return held + (read_subjects(Path(request.subjects)) if request.subjects else [])


def _run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Train and describe the concept.

    Raises:
        CidmError: Anything the user can mend.
    """
    from ..methods import config_for, method_called

    request = read_request(args)
    # A wrong number is told before the model is loaded.
    method_called(args.method).Config.from_dict(request.settings)
    for note in request.notes:
        console.note(f"{args.options}: {note}")

    from ..bank import Bank
    from ..diffusers_host.train import train_concept
    from ..sampling.infuse import quoted
    from ..training.progress import duration
    from .progress_bar import ProgressBar

    started = time.monotonic()
    first, *others = masked(_subjects(request), args, console)
    bank = Bank(args.bank)
    base = chosen_base(args)
    config = config_for(args.method, base.family, **request.settings)
    told = " and ".join(_told(subject) for subject in (first, *others))
    console.note(
        f"{told}: {config.steps} steps of {args.method} on {base.name} ({base.family.name}, "
        f"{base.device})"
    )
    with ProgressBar(enabled=console.shows_progress) as bar:
        concept = train_concept(
            base,
            bank,
            first.photos,
            words=first.words,
            class_words=first.class_words,
            kind=first.kind,
            name=request.name,
            method=args.method,
            config=config,
            subjects=others,
            prior=first.prior,
            on_progress=bar,
            mapping=first.mapping,
            resume=not args.no_resume,
            again=(args.again or "refuse").replace("-", "_"),
        )
    seconds = time.monotonic() - started
    path = next(entry.path for entry in bank.entries() if entry.name == concept.name)
    earlier = concept.facts.get("earlier_steps")
    time_taken = duration(seconds) + (f", after {earlier} earlier steps" if earlier else "")
    console.say(f"Learned {concept.phrase!r} as {concept.name!r} in {time_taken}: {path}")
    asked = f" --infuse {shlex.quote(quoted(concept.name))}" if concept.on_request else ""
    console.note(
        f"Try: cidm generate {model_words(args)} --bank {args.bank} "
        f'--prompt "a photo of a {concept.phrase}"{asked} --out picture.png'
    )
    return {
        "concept": concept.name,
        "words": concept.words,
        "class_words": concept.class_words,
        "kind": concept.kind,
        "method": concept.method,
        "file": path,
        "seconds": round(seconds, 2),
        "facts": concept.facts,
        "config": concept.config,
    }


def _told(subject: TrainingSubject) -> str:
    becomes = f" become {subject.words!r}" if subject.words else ""
    return f"{len(subject.photos)} photos of {subject.class_words!r}{becomes}"
