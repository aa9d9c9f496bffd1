"""`cidm data edit`: all captions of a folder in one text, and back."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import CidmError
from ..paths import user_path
from .console import Console
from .flags import add_output
from .subject_flags import add_captions, add_class_words, add_kind, add_photos, add_words

if TYPE_CHECKING:
    from ..inspection.editing import Edit, Notes
    from ..inspection.writing import Source
    from ..training.data import TrainingSubject


def add_edit(actions: Any) -> None:
    """`cidm data edit`."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "edit",
        help="all captions in one text, and back to their files",
        description="Without --from and --strip: all captions in one text, a line for each photo, "
        "with what is likely wrong as notes. With them: what would change, and with --write it "
        "does, each caption in the file that it came from. What they were is kept in one file.",
    )
    what = parser.add_argument_group("captions")
    add_photos(what, required=True)
    add_captions(what)
    add_words(what)
    add_class_words(what)
    add_kind(what)
    what.add_argument("--out", metavar="FILE", help="A new file for the text.")
    what.add_argument("--from", dest="text", metavar="FILE", help="The text, edited.")
    what.add_argument(
        "--strip",
        action="store_true",
        help="Take words of colour, material, pattern and texture from before the class words.",
    )
    what.add_argument("--write", action="store_true", help="Write the captions to their files.")
    add_output(parser)
    parser.set_defaults(run=_edit)


def _edit(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Write the text, or what it changes.

    Raises:
        CidmError: If captions cannot be read or written, or the flags do not fit.
    """
    from ..inspection.editing import difference, edits
    from ..inspection.writing import Source, write_captions

    _check_flags(args)
    source = Source.of(args.photos, args.captions)
    after = _after(args, source)
    changed = edits(source.texts, after)
    found = _result(source, changed)
    if args.out or not (args.text or args.strip):
        return found | {"text": _write_text(args, source, after, console)}
    if not changed:
        console.say("Nothing changes.")
        return found
    console.say(difference(source.names, changed))
    if not args.write:
        count = f"{len(changed)} of {len(source.names)}"
        console.note(
            f"Nothing is written yet; {count} captions would change. Add --write to do it."
        )
        return found
    files, kept = write_captions(source, changed)
    console.note(
        f"Written: {len(changed)} of {len(source.names)} captions. What they were is in '{kept}'; "
        f"with --from {shlex.quote(str(kept))} they can be brought back."
    )
    return found | {"files": files, "kept": kept}


def _check_flags(args: argparse.Namespace) -> None:
    if args.strip and not (args.class_words or args.words):
        raise CidmError(
            "--strip takes words from before the class words, which are not given. Give "
            "--class-words."
        )
    if args.write and args.out:
        raise CidmError("--out writes a text, --write the captions. Leave one of them out.")
    if args.write and not (args.text or args.strip):
        raise CidmError("--write has nothing to write. Give --from, --strip, or both.")


def _subject(args: argparse.Namespace) -> TrainingSubject | None:
    from ..training.data import TrainingSubject

    if not (args.class_words or args.words):
        return None
    return TrainingSubject((), args.words or "", args.class_words or "", args.kind or "object")


def _after(args: argparse.Namespace, source: Source) -> dict[int, str]:
    """Captions that were given, and stripped where that was asked for."""
    from ..inspection.editing import read_edited
    from ..inspection.inspect import suggestion_for
    from ..training.caption_files import read_captions_text

    after: dict[int, str] = {}
    if args.text:
        path = user_path(args.text)
        after = read_edited(read_captions_text(path), f"'{path}'", source.names)
    subject = _subject(args) if args.strip else None
    if subject is not None:
        for number, text in enumerate(source.texts):
            without = suggestion_for(after.get(number, text), subject)
            after |= {number: without} if without is not None else {}
    return after


def _write_text(
    args: argparse.Namespace, source: Source, after: dict[int, str], console: Console
) -> str:
    from ..inspection.editing import as_lines
    from ..storage.atomic import write_atomic

    texts = [after.get(number, text) for number, text in enumerate(source.texts)]
    text = as_lines(source.names, texts, _notes(args, source, texts))
    if not args.out:
        console.say(text.rstrip("\n"))
        return text
    path = user_path(args.out)
    if path.exists():
        raise CidmError(
            f"'{path}' is there already, perhaps with captions that you edited. Give another name, "
            "or remove it."
        )
    write_atomic(path, text.encode())
    console.note(
        f"{len(texts)} photos are in {path}. Edit it; then: cidm data edit --photos "
        f"{shlex.quote(args.photos)} --from {shlex.quote(str(path))}"
    )
    return text


def _notes(args: argparse.Namespace, source: Source, texts: Sequence[str]) -> Notes:
    """What is likely wrong, by photo."""
    from ..inspection.inspect import Frame, findings_for, hearing
    from ..training.data import Photo

    photos = [Photo(path, text) for path, text in zip(source.pictures, texts, strict=True)]
    found, told = hearing(lambda: findings_for(photos, _subject(args), Frame()))
    notes: dict[int | None, list[str]] = {
        None: [f"Captions of the photos in '{source.folder}': name, colon, caption.", *told]
    }
    for each in found:
        notes.setdefault(each.photo, []).append(each.text)
    return notes


def _result(source: Source, changed: Sequence[Edit]) -> dict[str, object]:
    """For scripts."""
    return {
        "captions": dict(zip(source.names, source.texts, strict=True)),
        "changes": [
            {"photo": source.names[each.photo], "before": each.before, "after": each.after}
            for each in changed
        ],
    }
