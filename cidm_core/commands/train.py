"""`cidm train`: one concept from a folder of photos into the bank."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..config import AGAIN_HELP
from ..training.presets import PRESET_HELP, PRESETS
from .console import Console
from .contrast import (
    CONTRAST_EPILOG,
    CONTRAST_FLAGS,
    add_contrast,
    contrast_told,
    contrasted,
    may_contrast,
)
from .estimate import add_estimate, estimated, tell_memory
from .flags import (
    CommandParser,
    add_model,
    add_output,
    add_settings,
    chosen_base,
    model_words,
    of_families,
    refuse_foreign,
    refuse_unused,
)
from .masks import add_segments, masked
from .request import options_of, read_request, subjects_of
from .subject_flags import add_subject, add_way, method_asked, unused_flags, with_words_asked

if TYPE_CHECKING:
    from ..methods.base import MethodClass
    from ..training.data import TrainingSubject

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

    name, method = method_asked(words)
    _add_concept(parser, method, needed="--estimate" not in words)
    add_model(parser)
    add_settings(parser, method.Config)
    add_output(parser)
    contrasts = may_contrast(method)
    parser.epilog = f"{_EPILOG}{of_families(name)}{CONTRAST_EPILOG if contrasts else ''}"
    others = {other: row.Config for other, row in METHODS.items() if other != name}
    refuse_foreign(parser, words, name, method.Config, others)
    parser.usage = with_words_asked(parser.usage or "", method)
    unused = [*unused_flags(method), *(() if contrasts else CONTRAST_FLAGS)]
    refuse_unused(parser, words, name, unused)


def _add_concept(parser: CommandParser, method: MethodClass, *, needed: bool) -> None:
    what = parser.add_argument_group("concept")
    what.add_argument(
        "--bank", required=needed, metavar="DIR", help="Folder of concepts; it may be new."
    )
    add_subject(what, method)
    what.add_argument("--name", help="Its name in the bank. By default it is made from the words.")
    add_segments(what)
    add_contrast(what, method)
    add_way(what, method)
    what.add_argument(
        "--preset", choices=tuple(PRESETS), help=f"Settings for a kind of card: {PRESET_HELP}."
    )
    what.add_argument(
        "--again",
        choices=("replace", "go-on"),
        type=lambda text: text.replace("_", "-"),  # as the API and the node have it
        help=f"{AGAIN_HELP.replace('_', '-')}. Without it they are refused, with what differs.",
    )
    add_estimate(what)
    what.add_argument(
        "--no-resume", action="store_true", help="Start over even if a state of this run is there."
    )


def _run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Train and describe the concept.

    Raises:
        CidmError: Anything the user can mend.
    """
    from ..methods import config_for, method_called

    if args.estimate:
        return estimated(args, options_of(args).settings, console)
    request = read_request(args)
    # A wrong number is told before the model is loaded.
    method_called(args.method).Config.from_dict(request.settings)
    for note in request.notes:
        console.note(f"{args.options}: {note}")

    from ..bank import Bank
    from ..diffusers_host.train import train_concept
    from ..sampling.parts import quoted
    from ..training.progress import duration
    from .progress_bar import ProgressBar

    started = time.monotonic()
    first, *others = subjects = masked(subjects_of(request), args, console)
    by_contrast = contrasted(args, request.settings, subjects, console)
    bank = Bank(args.bank)
    tell_memory(
        args,
        request.of_options,
        console,
        has_masks=any(photo.has_mask for each in subjects for photo in each.photos),
        has_prior=bool(first.prior),
    )
    base = chosen_base(args)
    config = config_for(args.method, base.family, **request.settings)
    told = " and ".join(_told(subject) for subject in subjects)
    console.note(
        f"{told}: {config.all_steps} steps of {args.method} on {base.name} ({base.family.name}, "
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
            contrast=by_contrast and by_contrast.on(base, bank, bar),
        )
    seconds = time.monotonic() - started
    path = next(entry.path for entry in bank.entries() if entry.name == concept.name)
    earlier = concept.facts.get("earlier_steps")
    time_taken = duration(seconds) + (f", after {earlier} earlier steps" if earlier else "")
    console.say(f"Learned {concept.phrase!r} as {concept.name!r} in {time_taken}: {path}")
    if contrast := contrast_told(concept, bank):
        console.say(contrast)
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
