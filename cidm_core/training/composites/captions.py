"""The one sentence of composites: what is on the left, and what on the right."""

from __future__ import annotations

import re

from ...errors import PhotoError
from ...words import canonical

SIDES = ("left", "right")
_ON = r"\s+on\s+the\s+(left|right)\b"
_SENTENCE = re.compile(
    rf"(?:(?:an?\s+)?photo\s+of\s+)?(?P<one>.+?){_ON}\s*,?\s*and\s+(?P<two>.+?){_ON}\s*\.?",
    re.IGNORECASE,
)
_SIDE = re.compile(_ON.replace(r"\s+on", r"\bon", 1), re.IGNORECASE)


def side_caption(left: str, right: str) -> str:
    """What stands below two things: "a photo of <x1> <x2> on the left and chef on the right".

    The paper's sentence (Lin et al. 2024, method figure) as CLIP's tokenizers see it, in lower
    case; prompts end without a full stop, and so does this. It is one that mini-sd knows, too.

    Raises:
        PhotoError: If one of them names a side itself.
    """
    text = canonical(f"a photo of {left} on the left and {right} on the right")
    if named := [name for name in (left, right) if named_sides(name)]:
        raise PhotoError(
            f"{named[0]!r} names a side itself, and captions say what is left and right: {text!r}. "
            "Call the common thing, or the part in its mask's name, something else."
        )
    return text


def sides_of(caption: str) -> tuple[str, str] | None:
    """What a caption of two things has on the left and on the right; None for other captions."""
    match = _SENTENCE.fullmatch(caption.strip())
    if match is None or match[2].lower() == match[4].lower():
        return None
    one, two = match["one"], match["two"]
    return (one, two) if match[2].lower() == "left" else (two, one)


def named_sides(caption: str) -> list[str]:
    """The sides that a caption names, in order: "left", "right"."""
    return [side.lower() for side in _SIDE.findall(caption)]
