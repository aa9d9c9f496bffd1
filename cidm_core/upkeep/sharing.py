"""Concepts for other people: without what tells of the machine they were learned on."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..concept import Concept

if TYPE_CHECKING:
    from PIL.Image import Image

# What was typed for oneself, how fast the machine is, and marks of photos and of what went before.
PRIVATE = ("preview_prompt", "seconds", "taught", "inputs", "start")
_PART = r"[\\/][^\s\\/\"'<>|:*?][^\\/\"'<>|:*?\n]*"
_PATH = re.compile(rf"(?<![\w.:/\\])(?:~[\w-]*|[A-Za-z]:|\\\\[\w.-]+)?(?:{_PART})+")
THUMBNAIL = "modelspec.thumbnail"
_SIDE = 256
_MOST_BYTES = 24_000


def without_traces(concept: Concept) -> Concept:
    """A concept whose notes hold no path, only the last part of each, and nothing private."""
    return replace(concept, facts=_told(concept.facts), config=_told(concept.config))


def thumbnail(picture: Image) -> str:
    """A picture as LoRA managers read it from a file's header: a small JPEG as a data URI."""
    small = picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    data = b""
    for quality in (85, 70, 50, 30):
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality)
        data = buffer.getvalue()
        if len(data) <= _MOST_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _told(notes: Mapping[str, object]) -> dict[str, object]:
    return {key: _without(value) for key, value in notes.items() if key not in PRIVATE}


def _without(value: Any) -> object:
    if isinstance(value, str):
        return _PATH.sub(_last_part, value)
    if isinstance(value, Mapping):
        return _told(value)  # type: ignore[arg-type]
    if isinstance(value, Sequence):
        return [_without(each) for each in value]
    return value


def _last_part(match: re.Match[str]) -> str:
    return re.split(r"[\\/]", match[0].rstrip("\\/"))[-1]
