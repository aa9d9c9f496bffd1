"""A captions file with other captions for some photos; all else in it stays, byte for byte."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..training.caption_files import read_captions_text, split_line
from ..training.folders import last_part, owners_of
from .editing import as_lines

_SPACE = re.compile(r"[ \t\r\n]*")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CaptionFor = Callable[[str], str | None]


class _Member(NamedTuple):
    """A member of a JSON object: where its name begins, and where its value stands."""

    name: str
    at: int
    start: int
    end: int


def rewritten(path: Path, changed: Mapping[Path, str], pictures: Sequence[Path]) -> str:
    """The text of a captions file with other captions.

    Args:
        path: A file that `read_captions` reads.
        changed: The captions by photo; of one that the file does not name yet, a line is added.
        pictures: All photos that its names may be of.
    """
    owners, left = owners_of(pictures), dict(changed)

    def caption_for(name: str) -> str | None:
        owned = [picture for picture in owners(last_part(name)) if picture in changed]
        for picture in owned:
            left.pop(picture, None)
        return changed[owned[0]] if owned else None

    text = read_captions_text(path)
    if path.suffix.lower() == ".json":
        text = _in_object(text, caption_for)
        return _with_members(text, {picture.name: caption for picture, caption in left.items()})
    if path.suffix.lower() == ".jsonl":
        text = "\n".join(_in_row(line, caption_for) for line in text.split("\n"))
        rows = [{"file_name": picture.name, "text": caption} for picture, caption in left.items()]
        more = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        return _with_lines(text, more)
    text = "".join(_in_line(line, caption_for) for line in text.splitlines(keepends=True))
    new = as_lines([picture.name for picture in left], list(left.values()), {}) if left else ""
    return _with_lines(text, new)


def encoded(text: str, path: Path) -> bytes:
    """A text in the encoding that a file has, with its byte order mark if there is one."""
    with path.open("rb") as file:
        start = file.read(3)
    for mark, name in _MARKS:
        if start.startswith(mark):
            return mark + text.encode(name)
    return text.encode()


def _in_line(line: str, caption_for: _CaptionFor) -> str:
    parts = split_line(line)
    if parts is None or (caption := caption_for(parts[0].strip())) is None:
        return line
    name, mark, before = parts
    return f"{name}{mark}{before.replace(before.strip(), caption, 1)}"


def _in_row(line: str, caption_for: _CaptionFor) -> str:
    if not line.strip():
        return line
    caption = caption_for(json.loads(line)["file_name"])
    if caption is None:
        return line
    start, end = _caption_at(line, 0)
    return f"{line[:start]}{_quoted(caption)}{line[end:]}"


def _in_object(text: str, caption_for: _CaptionFor) -> str:
    parts: list[str] = []
    at = 0
    for member in _members(text):
        if (caption := caption_for(member.name)) is not None:
            start, end = _caption_at(text, member.start)
            parts += [text[at:start], _quoted(caption)]
            at = end
    return "".join([*parts, text[at:]])


def _caption_at(text: str, start: int) -> tuple[int, int]:
    """Where a caption stands, or that of the row, that begins at `start`."""
    if not text.startswith("{", _after_space(text, start)):
        return start, _value(text, start)[1]
    found = {member.name: member for member in _members(text, start)}
    row = found["text" if "text" in found else "caption"]
    return row.start, row.end


def _with_members(text: str, more: Mapping[str, str]) -> str:
    """An object with more members behind its last one, spaced as the first one."""
    first, last = (members := _members(text))[0], members[-1]
    space = text[text.index("{") + 1 : first.at]
    added = [f",{space}{_quoted(name)}: {_quoted(caption)}" for name, caption in more.items()]
    return "".join([text[: last.end], *added, text[last.end :]])


def _members(text: str, at: int = 0) -> list[_Member]:
    """The members of a sound JSON object, in order."""
    at = _after_space(text, at) + 1
    found: list[_Member] = []
    while text[begin := _after_space(text, at)] != "}":
        name, at = _value(text, begin)
        start = _after_space(text, _after_space(text, at) + 1)
        _, end = _value(text, start)
        found.append(_Member(str(name), begin, start, end))
        at = _after_space(text, end)
        at += text[at] == ","
    return found


def _value(text: str, at: int) -> tuple[object, int]:
    """A JSON value, and where it ends."""
    return json.JSONDecoder().raw_decode(text, _after_space(text, at))


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _with_lines(text: str, more: str) -> str:
    """A text with more lines, which end as its own do."""
    if not more:
        return text
    ending = "\r\n" if "\r\n" in text else "\n"
    between = "" if not text or text.endswith(("\n", "\r")) else ending
    return text + between + more.replace("\n", ending)
