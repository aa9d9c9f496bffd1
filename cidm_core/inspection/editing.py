"""All captions of a folder as one text, and edited ones back from it.

A line is `name.jpg: caption`, or the name, a tab and the caption where the name holds a colon;
lines that begin with # are notes. That is the form of a captions file, so such a text can be one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..as_text import listed
from ..errors import PhotoError
from ..training.caption_files import captions_in, split_line
from ..training.data import Photo, with_captions
from ..training.folders import last_part, owners_of

Notes = Mapping[int | None, Sequence[str]]
"""Lines about a photo, by its number; None: about all."""


class Edit(NamedTuple):
    """A caption that changes: the photo's number, what was said of it, and what is to be."""

    photo: int
    before: str
    after: str


def as_lines(names: Sequence[str], captions: Sequence[str], notes: Notes) -> str:
    """Captions as one text.

    Args:
        names: Of the photos' files.
        captions: One for each; "" where there is none.
        notes: What to put before the line of a photo, and before all.
    """
    lines = [f"# {note}" for note in notes.get(None, ())]
    for number, (name, caption) in enumerate(zip(names, captions, strict=True)):
        lines += [f"# {one_line(name)}: {note}" for note in notes.get(number, ())]
        lines.append(_line(name, caption))
    return "\n".join(lines) + "\n"


def read_edited(text: str, where: str, names: Sequence[str]) -> dict[int, str]:
    """The captions that a text gives, by the number of the photo.

    Args:
        text: Lines as above.
        where: What errors call it.
        names: Of the photos' files, or what else photos are called.

    Raises:
        PhotoError: If a line has another form, an empty caption, or the name of no photo, of
            several, or of one that another line names.
    """
    places = {Path(name): number for number, name in enumerate(names)}
    owners = owners_of(list(places))
    found: dict[int, str] = {}
    for name, caption in captions_in(text, where).items():
        owned = owners(last_part(name))
        if not owned:
            raise PhotoError(
                f"{where} has a caption for '{name}', and there is no photo of that name. The "
                f"photos are {listed([one_line(name) for name in names], 5)}."
            )
        if len(owned) > 1:
            raise PhotoError(
                f"'{name}' in {where} may be {listed([path.name for path in owned])}. Write the "
                "whole name, with its ending."
            )
        if (number := places[owned[0]]) in found:
            raise PhotoError(f"{where} names the photo '{names[number]}' twice. Keep one line.")
        found[number] = caption
    return found


def captioned(
    photos: Sequence[Photo], captions: Sequence[str], names: Sequence[str]
) -> list[Photo]:
    """The photos with captions by name, or in their order as `with_captions` takes them.

    Args:
        photos: Those that `captions` does not name keep their own.
        captions: A single text with a line `name: caption` for some photos, or a line for each; or
            several texts, one for each.
        names: Of the photos.

    Raises:
        PhotoError: If captions and photos do not fit.
    """
    lines = captions[0].splitlines() if len(captions) == 1 else []
    owners = owners_of([Path(name) for name in names])
    parts = [split_line(line) for line in lines]
    said = [each for each in parts if each is not None]
    named = [bool(mark) and bool(owners(last_part(name.strip()))) for name, mark, _ in said]
    if not any(named):
        return with_captions(photos, captions)
    if not all(named):
        name, mark, caption = said[named.index(False)]
        raise PhotoError(
            f"Some lines of the captions begin with a photo's name, and '{name}{mark}{caption}' "
            "does not. Begin every line with a name and a colon, or none."
        )
    found = read_edited(captions[0], "the captions", names)
    return [
        replace(photo, caption=found.get(number, photo.caption))
        for number, photo in enumerate(photos)
    ]


def edits(before: Sequence[str], after: Mapping[int, str]) -> list[Edit]:
    """What changes, in the order of the photos."""
    return [
        Edit(number, before[number], text)
        for number, text in sorted(after.items())
        if text != before[number]
    ]


def difference(names: Sequence[str], changed: Sequence[Edit]) -> str:
    """What changes, in lines with - and +."""
    lines: list[str] = []
    for each in changed:
        if each.before:
            lines.append(f"- {one_line(names[each.photo])}: {each.before}")
        lines.append(f"+ {one_line(names[each.photo])}: {each.after}")
    return "\n".join(lines)


def _line(name: str, caption: str) -> str:
    """The line of a photo; a note where nothing can be said of it yet, or not in such a line."""
    shown, mark = one_line(name), _mark_between(name, caption or "any")
    if mark is None:
        what = f"change its caption here: {caption}" if caption else "give it a caption here."
        return f"# Rename {shown} to {what}"
    if not caption:
        return f"# {shown} has no caption yet. Write one, and take the # away:\n# {name}{mark}"
    return f"{name}{mark}{caption}"


def _mark_between(name: str, caption: str) -> str | None:
    """What stands between both in a line, so that it is read as them; None if nothing does."""
    for mark in (": ", "\t"):
        line = f"{name}{mark}{caption}"
        read = split_line(line) if len(line.splitlines()) == 1 else None
        if is_text(line) and read is not None and (read[0], read[2].strip()) == (name, caption):
            return mark
    return None


def is_text(line: str) -> bool:
    """Whether it can be written: a name of bytes that are no UTF-8 cannot."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def one_line(name: str) -> str:
    """A name in one line of text."""
    return name if is_text(name) and name.isprintable() else ascii(name)
