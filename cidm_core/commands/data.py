"""`cidm data`: photos and captions before anything is learned from them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .console import Console
from .data_edit import add_edit
from .flags import CommandParser, add_output, add_settings, refuse_unused
from .request import read_request, subjects_of
from .subject_flags import add_subject, add_way, method_asked, unused_flags, with_words_asked

if TYPE_CHECKING:
    from ..diffusers_host.reading import TextSide
    from ..families import Family
    from ..training.lesson import Lesson

_EPILOG = """\
examples:
  cidm data check --photos photos/dog --words "<dog1> <dog2>" --class-words dog --out sheet.png
  cidm data edit --photos photos/dog --class-words dog --out captions.txt     then edit that file
  cidm data edit --photos photos/dog --from captions.txt                      shows what changes
  cidm data edit --photos photos/dog --from captions.txt --write
  cidm data edit --photos photos/dog --class-words dog --strip --write        "a brown dog": "a dog"
"""


def add_data(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        "data",
        help="look at photos and captions before training, edit captions",
        description="See what training will see, and mend it before.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_check(actions)
    add_edit(actions)


def _add_check(actions: Any) -> None:
    parser: CommandParser = actions.add_parser(
        "check",
        usage="cidm data check --photos DIR --words WORDS --class-words WORDS [options]",
        help="every photo as it will be learned, and what is likely wrong",
        description="Every photo as it will be learned, with its caption and the words in place. "
        "Warns of too few, alike, blurred and small photos, of crops and masks that lose the "
        "concept, of captions that are too long, all the same, or say what the concept looks like. "
        "Ends with an error only where training would, with the same message.",
        epilog=_EPILOG,
    )
    parser.complete = _add_check_arguments
    parser.set_defaults(run=_check, preset=None, prior=None, subjects=None)


def _add_check_arguments(parser: CommandParser, words: Sequence[str]) -> None:
    name, method = method_asked(words)
    what = parser.add_argument_group("concept")
    add_subject(what, method)
    add_way(what, method)
    what.add_argument(
        "--model",
        metavar="PATH",
        help="The model that will learn, as for cidm train: it says the size, and how much its "
        "text encoders read of a caption. Without it, those of Stable Diffusion 1.5, about.",
    )
    what.add_argument(
        "--tokenizer", metavar="DIR", help="Tokenizer folder, where the model has none of its own."
    )
    what.add_argument("--out", metavar="FILE", help="Picture of all photos with their captions.")
    add_settings(parser, method.Config, ("resolution_px", "buckets"))
    add_output(parser)
    parser.usage = with_words_asked(parser.usage or "", method)
    refuse_unused(parser, words, name, unused_flags(method))


def _check(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Look at everything that training would.

    Raises:
        CidmError: What training would refuse, and a sheet that cannot be written.
    """
    from ..families import FAMILIES
    from ..inspection.inspect import MOST, Frame, hearing, inspect
    from ..inspection.sheet import record, report, sheet
    from ..pictures.files import picture_path, save_picture
    from ..training.lesson import size_px

    out = picture_path(args.out) if args.out else None
    side = _text_side(args)
    family = side.family if side else FAMILIES["SD15"]
    (lesson, reading), told = hearing(lambda: _lesson(args, family, side))
    config = lesson.config
    frame = Frame(size_px(config, family), family.latent_px, config.buckets)
    inspected = inspect(lesson.subjects, frame, reading, told)
    console.say(report(inspected))
    if out is not None:
        save_picture(sheet(inspected, frame), out)
        more = max(len(each.photos) for each in inspected) > MOST
        console.note(f"The sheet is in {out}{f', the first {MOST} photos' if more else ''}.")
    return {"subjects": record(inspected), "sheet": out}


def _text_side(args: argparse.Namespace) -> TextSide | None:
    if not args.model:
        return None
    from ..diffusers_host.reading import text_side

    return text_side(args.model, args.tokenizer)


def _lesson(args: argparse.Namespace, family: Family, side: TextSide | None) -> tuple[Lesson, Any]:
    """What is to be learned, checked as training does, and how its captions are read."""
    from ..inspection.findings import ESTIMATE
    from ..methods import config_for
    from ..training.lesson import Lesson

    request = read_request(args)
    config = config_for(args.method, family, **request.settings)
    lesson = Lesson.of(subjects_of(request), args.method, config)
    if lesson.contrasts:  # CLIP is another matter
        lesson = replace(lesson, contrast={})
    lesson.check()
    if side is None:
        return lesson, ESTIMATE
    from ..diffusers_host.job import check_caption, refuse_ordinary_words

    subjects = [each.subject for each in lesson.subjects]
    words = [word for each in subjects for word in each.words]
    phrases = [name for each in subjects if not each.words for name in each.triggers]
    refuse_ordinary_words(side, words)
    for photo in lesson.templated(lesson.photo_sets()[0]):
        check_caption(side, photo.caption, words, phrases, quiet=True)
    return lesson, side.reading(words)
