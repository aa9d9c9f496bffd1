"""Reading captions: one text file per photo, or one file for all of them."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ..errors import PhotoError
from ..paths import user_path

MAX_CAPTION = 2000
_MAX_CAPTION_BYTES = 100_000
_MAX_CAPTIONS_BYTES = 16_000_000


def clean(text: str, where: str) -> str:
    """One line of visible text: whitespace folded, control and zero-width characters removed.

    Raises:
        PhotoError: If more than `MAX_CAPTION` characters remain.
    """
    folded = " ".join(text.split())
    visible = "".join(c for c in folded if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    visible = " ".join(visible.split())
    if len(visible) > MAX_CAPTION:
        raise PhotoError(
            f"{where} has {len(visible)} characters; the limit is {MAX_CAPTION}, and text encoders "
            "read about 300. Shorten it."
        )
    return visible


def read_text(path: str | os.PathLike[str], max_bytes: int, what: str = "Caption file") -> str:
    """Text of a UTF-8 file, or of one in UTF-16 or UTF-8 that begins with its byte order mark.

    Args:
        path: The file.
        max_bytes: Larger ones are refused.
        what: What errors call it.

    Raises:
        PhotoError: If the file is missing, too large, or in another encoding.
    """
    path = user_path(path)
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise PhotoError(f"{what} '{path}' cannot be read ({error.strerror}).") from error
    if len(data) > max_bytes:
        raise PhotoError(
            f"{what} '{path}' has over {max_bytes / 1000:.0f} kB. Shorten it, or leave it "
            "out if it is another kind of file."
        )
    has_utf16_mark = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if has_utf16_mark else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise PhotoError(
            f"{what} '{path}' is not UTF-8 text (byte {error.start}). Save it as UTF-8."
        ) from error
    if "\0" in text:
        raise PhotoError(
            f"{what} '{path}' holds NUL characters: binary data, or UTF-16 without a byte "
            "order mark. Save it as UTF-8."
        )
    return text


def read_caption(path: str | os.PathLike[str]) -> str:
    """The caption in a text file: all of its lines, joined.

    Raises:
        PhotoError: If the file cannot be read, or its caption is empty or too long.
    """
    caption = clean(read_text(path, _MAX_CAPTION_BYTES), f"Caption '{path}'")
    if not caption:
        raise PhotoError(
            f"Caption '{path}' is empty. Write what the picture shows, or delete the file to have "
            "a caption made from the class words."
        )
    return caption


def read_captions(path: str | os.PathLike[str]) -> dict[str, str]:
    """Captions by file name from one file.

    `.json`: an object of file name to caption, or to an object that has it as `text` or `caption`.
    `.jsonl`: one object per line with `file_name` and one of these. `.txt`: lines of
    `name.jpg: caption`, or of name, tab and caption; `#` starts a comment.

    Raises:
        PhotoError: If the file is none of these, or a name comes twice or without a caption.
    """
    path = user_path(path)
    if path.suffix.lower() not in (known := (".json", ".jsonl", ".txt")):
        raise PhotoError(f"Captions '{path}' end in none of {', '.join(known)}. Rename the file.")
    return captions_in(read_captions_text(path), f"'{path}'", path.suffix.lower())


def read_captions_text(path: Path) -> str:
    """Text of a captions file; see `read_text`."""
    return read_text(path, _MAX_CAPTIONS_BYTES)


def captions_in(text: str, where: str, form: str = ".txt") -> dict[str, str]:
    """Captions by file name from the text of a captions file.

    Args:
        text: As `read_captions` reads it.
        where: What errors call it.
        form: `.json`, `.jsonl` or `.txt`.

    Raises:
        PhotoError: As `read_captions` does.
    """
    readers = {".json": _from_json, ".jsonl": _from_jsonl, ".txt": _from_lines}
    pairs = readers[form](text, where)
    captions: dict[str, str] = {}
    for name, caption in pairs:
        cleaned = clean(caption, f"Caption of '{name}' in {where}")
        if name in captions:
            raise PhotoError(f"Captions {where} name '{name}' twice. Keep one of the lines.")
        if not cleaned:
            raise PhotoError(f"The caption of '{name}' in {where} is empty. Fill or remove it.")
        captions[name] = cleaned
    if not captions:
        raise PhotoError(f"Captions {where} hold no caption. Add lines such as 'dog1.jpg: a dog'.")
    return captions


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PhotoError(f"{where} is not JSON ({error}). Correct it at that place.") from error


def _from_json(text: str, where: str) -> Iterable[tuple[str, str]]:
    found = _json(text, f"Captions {where}")
    if not isinstance(found, dict):
        raise PhotoError(f"Captions {where} are no JSON object of file name to caption.")
    for name, row in found.items():
        caption = row if isinstance(row, str) else _caption_in(row)
        if not isinstance(caption, str):
            raise PhotoError(f"The caption of '{name}' in {where} is no text, but {row!r:.40}.")
        yield name, caption


def _caption_in(row: object) -> object:
    found = row if isinstance(row, dict) else {}
    return found.get("text", found.get("caption"))


def _from_jsonl(text: str, where: str) -> Iterable[tuple[str, str]]:
    # Not `splitlines`: strings of JSON may hold other line breaks.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = _json(line, f"Line {number} of {where}")
        name = row.get("file_name") if isinstance(row, dict) else None
        caption = _caption_in(row)
        if not isinstance(name, str) or not isinstance(caption, str):
            raise PhotoError(
                f"Line {number} of {where} lacks a text 'file_name' or 'text'. Write "
                '{"file_name": "dog1.jpg", "text": "a dog"}.'
            )
        yield name, caption


def split_line(line: str) -> tuple[str, str, str] | None:
    """Name, tab or colon, and caption of a line; None of an empty one, and of a comment.

    Without tab and colon the last two are empty.
    """
    if not line.strip() or line.lstrip().startswith("#"):
        return None
    parts = line.partition("\t")
    return parts if parts[1] else line.partition(":")


def _from_lines(text: str, where: str) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if (parts := split_line(line)) is None:
            continue
        name, mark, caption = parts
        if not mark:
            raise PhotoError(
                f"Line {number} of {where} is '{line.strip()[:60]}'; expected 'name.jpg: caption'."
            )
        yield name.strip(), caption
