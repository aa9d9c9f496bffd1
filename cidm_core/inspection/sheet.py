"""What was inspected, as a picture, as text, and for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from ..calls import find_calls
from ..pictures.photos import Card, Part, Section, photos_picture
from .editing import one_line
from .inspect import MOST, Frame, Inspected, Picture, Seen

_SUBTITLE = (
    "Each photo as it is learned, without augmentation, and its caption with the words in place. "
    "What a mask leaves out is pale. Templates may still vary how a caption begins."
)


def sheet(inspected: Sequence[Inspected], frame: Frame) -> Image.Image:
    """A page of all photos, with what was found about each."""
    return photos_picture(
        [_section(each, frame) for each in inspected], "Photos and captions", _SUBTITLE
    )


def _section(one: Inspected, frame: Frame) -> Section:
    subject, count = one.subject.subject, len(one.photos)
    first = f"{MOST} of {count} photos are shown" if count > MOST else _photos(count)
    means = f" for {subject.class_words!r}" if subject.words else ""
    shapes = "in their own shapes, of about" if frame.buckets else "at"
    note = f"{first}, {subject.kind}, learned {shapes} {frame.side_px} x {frame.side_px} px"
    return Section(
        f"{subject.phrase}{means}",
        note,
        [finding.text for finding in one.of_photo(None)],
        [
            _card(one, seen, seen.picture, number)
            for number, seen in enumerate(one.photos)
            if seen.picture is not None
        ],
    )


def _card(one: Inspected, seen: Seen, picture: Picture, number: int) -> Card:
    (width, height), (to_width, to_height) = seen.size, seen.learned_at
    note = f"{width} x {height} px, as {to_width} x {to_height}"
    warnings = [finding.text for finding in one.of_photo(number)]
    return Card(picture.image, picture.mask, seen.name, note, _parts(one, seen), warnings)


def _parts(one: Inspected, seen: Seen) -> list[Part]:
    """The caption, cut where the words stand."""
    parts: list[Part] = []
    at = 0
    for call in find_calls(seen.bound, [one.subject.subject.triggers]):
        for start, last in call.at:
            end = last + len(seen.bound[last:].split(" ", 1)[0])  # "<dog1>," stays together
            parts += [(seen.bound[at:start], False), (seen.bound[start:end], True)]
            at = end
    parts.append((seen.bound[at:], False))
    if not seen.caption:
        parts.append(("(no caption: in a template)", False))
    return [part for part in parts if part[0].strip()]


def report(inspected: Sequence[Inspected]) -> str:
    """All findings in words, in the order of the photos."""
    return "\n".join(line for each in inspected for line in _report(each))


def _report(one: Inspected) -> list[str]:
    subject = one.subject.subject
    about_all = [f"  {finding.text}" for finding in one.of_photo(None)]
    lines = [f"{subject.phrase}: {_photos(len(one.photos))} of {subject.class_words!r}", *about_all]
    for number, seen in enumerate(one.photos):
        found = one.of_photo(number)
        lines += [
            f"{one_line(seen.name)}: {seen.bound}",
            *(f"  {finding.text}" for finding in found),
        ]
    if not one.findings:
        lines.append("Nothing to complain of.")
    return lines


def record(inspected: Sequence[Inspected]) -> list[Mapping[str, object]]:
    """All of it as JSON can hold it."""
    return [_record(each) for each in inspected]


def _record(one: Inspected) -> Mapping[str, object]:
    subject = one.subject.subject
    return {
        "words": subject.words,
        "class_words": subject.class_words,
        "kind": subject.kind,
        "findings": [{"kind": f.kind, "text": f.text} for f in one.of_photo(None)],
        "photos": [
            {
                "name": seen.name,
                "size": seen.size,
                "learned_at": seen.learned_at,
                "mask": seen.has_mask,
                "caption": seen.caption,
                "learned_caption": seen.bound,
                "suggestion": seen.suggestion,
                "findings": [{"kind": f.kind, "text": f.text} for f in one.of_photo(number)],
            }
            for number, seen in enumerate(one.photos)
        ],
    }


def _photos(count: int) -> str:
    return f"{count} photo{'s' if count != 1 else ''}"
