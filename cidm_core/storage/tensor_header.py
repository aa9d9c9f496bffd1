"""The header of a safetensors file, parsed strictly.

A header is a JSON table: texts about the file (`__metadata__`), then type, shape and place of
each tensor. Ours starts with two digests at fixed places (`tensor_file` has the reason).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

MAX_HEADER = 8 * 2**20
MAX_TENSORS = 20_000
SIZES = {"F32": 4, "F16": 2, "BF16": 2}

FILE_KEY, HEADER_KEY = "cidm.sha256", "cidm.header_sha256"
BETWEEN = b'","' + HEADER_KEY.encode() + b'":"'
_OPENING = b'{"__metadata__":{"' + FILE_KEY.encode() + b'":"'
# Places of the two digests in the file; its first 8 bytes are the length of the header.
FILE_AT = 8 + len(_OPENING)
HEADER_AT = FILE_AT + 64 + len(BETWEEN)


class FaultError(Exception):
    """What is wrong with a file, without its name."""


def header_length(start: bytes, size: int) -> int:
    """Length of the header from the first 8 bytes of a file of the given size."""
    if len(start) < 8:
        raise FaultError(f"{size} bytes are too few for a concept file")
    length: int = struct.unpack("<Q", start[:8])[0]
    if length > MAX_HEADER:
        raise FaultError(f"a header of {length} bytes, where {MAX_HEADER} are allowed")
    if 8 + length > size:
        raise FaultError(f"cut off: its header alone takes {8 + length} bytes, the file has {size}")
    return length


def header_of(data: bytes, size: int) -> bytes:
    """The header as it stands in the file, if it begins as ours do."""
    header = data[8 : 8 + header_length(data, size)]
    between = header[FILE_AT + 56 : FILE_AT + 56 + len(BETWEEN)]
    if not header.startswith(_OPENING) or between != BETWEEN:
        raise FaultError("not a concept file, or its header was rewritten by another program")
    # Counted before parsing: a hundred thousand empty tensors take seconds otherwise.
    if header.count(b'"data_offsets"') > MAX_TENSORS:
        raise FaultError(f"more than {MAX_TENSORS} tensors")
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def parse_json(text: str) -> Any:
    """JSON without duplicate keys, NaN or infinity."""
    try:
        return _DECODER.decode(text)
    except ValueError as caught:
        raise FaultError(f"unreadable header ({caught})") from caught


def _decode(header: bytes) -> str:
    try:
        return header.decode()
    except UnicodeDecodeError as caught:
        raise FaultError("its header is not UTF-8 text") from caught


def parse_table(header: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """The unchecked rows of all tensors, and the metadata."""
    table = parse_json(_decode(header))
    metadata = string_map(table.pop("__metadata__"))  # `header_of` saw it
    return table, metadata


def parse_first(header: bytes) -> tuple[str, str]:
    """Key and text of the first metadata entry behind the two digests, and nothing more.

    The rest of a header is most of its bytes, and a listing does not need it.
    """
    text = _decode(header)
    try:
        key, end = _DECODER.raw_decode(text, HEADER_AT + 64 - 8 + len('",'))
        value, _ = _DECODER.raw_decode(text, end + len(":"))
    except ValueError as caught:
        raise FaultError(f"unreadable header ({caught})") from caught
    if not isinstance(key, str) or not isinstance(value, str):
        raise FaultError("its metadata is not a table of texts")
    return key, value


def string_map(value: object) -> dict[str, str]:
    """A table of texts, or a fault."""
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise FaultError("its metadata is not a table of texts")
    return value


def _are_counts(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(type(n) is int and 0 <= n < 2**48 for n in value)
    )


def _check_row(key: str, row: object) -> None:
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        raise FaultError(f"the entry of {key[:120]} is malformed")
    if not isinstance(row["dtype"], str) or row["dtype"] not in SIZES:
        raise FaultError(f"{key[:120]} is {row['dtype']!s:.20}; expected {', '.join(SIZES)}")
    places = row["data_offsets"]
    if not _are_counts(row["shape"]) or not _are_counts(places) or len(places) != 2:
        raise FaultError(f"shape or place of {key[:120]} is malformed")


def check_table(table: Mapping[str, Any], size: int) -> None:
    """Ranges must follow each other from 0 to the end of the file, each of its shape's size."""
    if len(table) > MAX_TENSORS:
        raise FaultError(f"more than {MAX_TENSORS} tensors")
    for key, row in table.items():
        _check_row(key, row)
    end = 0
    for key, row in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = row["data_offsets"]
        if first != end or last - first != math.prod(row["shape"]) * SIZES[row["dtype"]]:
            raise FaultError(f"the bytes of {key[:120]} overlap, leave a hole or miss its shape")
        end = last
    if end != size:
        raise FaultError(f"{size} bytes of tensors, where its header tells of {end}")
