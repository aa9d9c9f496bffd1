"""safetensors files in which every changed bit is found.

The format itself has no checksum: nearly every flipped bit loads silently. Two digests at the
start of the header mend that: one over the whole file, and one over the header alone, so that a
listing need not read tensors. Both count as zeros in the header's sum, the file's own in its own.
Parsing and laying out are left to the safetensors library. (Earlier files carry one digest per
tensor as well, which the one over the whole file makes needless.)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import stat
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import BankError

SUFFIX = ".safetensors"
MAX_HEADER = 8 * 2**20
MAX_TENSORS = 20_000

_ZEROS = "0" * 64
_NO_DIGESTS = {"cidm.sha256": _ZEROS, "cidm.header_sha256": _ZEROS}
_METADATA_AT = len('{"__metadata__":')
# The length of the header in 8 bytes, then the header itself with the digests of file and header.
_START = re.compile(
    rb'.{8}\{"__metadata__":\{"cidm\.sha256":"(.{64})","cidm\.header_sha256":"(.{64})"', re.DOTALL
)


_START_BYTES = 256  # more than it takes


class _FaultError(Exception):
    """What is wrong with a file, without its name."""


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file with digests; the same input gives the same bytes.

    Raises:
        BankError: If the header grows too large.
    """
    # Copies, because the library refuses views and tensors that share memory.
    copies = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }
    laid_out = save(copies)
    end = 8 + int.from_bytes(laid_out[:8], "little")
    # Only its table is kept: the library has no fixed order for metadata.
    table = {"__metadata__": _NO_DIGESTS | dict(metadata)} | json.loads(laid_out[8:end])
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of their element size
    if len(header) > MAX_HEADER or len(tensors) > MAX_TENSORS:
        raise BankError(
            f"The file header takes {len(header)} bytes for {len(tensors)} tensors; the limits are "
            f"{MAX_HEADER} and {MAX_TENSORS}. Store fewer tensors or shorter notes."
        )
    start = bytearray(len(header).to_bytes(8, "little") + header)
    of_file, of_header = _digest_slices(start)
    start[of_header] = _digest(start, of_file, of_header)
    data = start + memoryview(laid_out)[end:]
    data[of_file] = _digest(data, of_file)
    return bytes(data)


def unpack(data: bytes, origin: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the bytes of a whole file, which error texts call `origin`.

    Raises:
        BankError: If a single bit differs from what was written, or the content is not allowed:
            overlapping or missing ranges, a key that stands twice, too many tensors.
    """
    with _named(origin):
        start, _ = _read_start(io.BytesIO(data))
        of_file, _ = _digest_slices(start)
        if data[of_file] != _digest(data, of_file):
            raise _FaultError("damaged, its bytes are not all as they were written")
        try:
            tensors = load(data)
        except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as caught:
            raise _FaultError(f"safetensors refuses it ({caught})") from caught
        # Parsed again, because the library silently takes the last of two equal keys.
        return tensors, _parse(start[8:].decode())["__metadata__"]


def read(path: Path) -> bytes:
    """All bytes of a regular file that begins as ours do.

    Raises:
        BankError: If there is no such file, it cannot be read, or its header is damaged.
    """
    with _named(path.name), _opened(path) as file:
        _read_start(file)  # refuses a foreign file before all its gigabytes are read
        file.seek(0)
        return file.read()


def read_metadata(path: Path) -> tuple[dict[str, str], int]:
    """A file's metadata, and the size of its tensor part, of which nothing is read.

    Raises:
        BankError: If the header is not one of ours, or is damaged.
    """
    with _named(path.name), _opened(path) as file:
        start, size = _read_start(file)
        try:
            # The rows of the tensors, which are most of the header, are not parsed.
            metadata, _ = _JSON.raw_decode(start[8:].decode(), _METADATA_AT)
        except ValueError as caught:
            raise _FaultError(f"unreadable header ({caught})") from caught
        if not all(isinstance(text, str) for text in metadata.values()):
            raise _FaultError("its metadata is not a table of texts")
        return metadata, size - len(start)


def is_ours(path: Path) -> bool:
    """Whether a file begins as ours do, whatever it is called."""
    try:
        with _opened(path) as file:
            return _START.match(file.read(_START_BYTES)) is not None
    except (OSError, _FaultError):
        return False


def parse_text(text: str, origin: str) -> Any:
    """JSON without duplicate keys, NaN or infinity.

    Raises:
        BankError: If the text is not that.
    """
    with _named(origin):
        return _parse(text)


@contextlib.contextmanager
def _named(origin: str) -> Generator[None]:
    try:
        yield
    except (_FaultError, RecursionError) as fault:
        raise BankError(
            f"{origin}: {fault}. Restore the file from a copy, or remove it and train again."
        ) from fault
    except OSError as caught:
        reason = caught.strerror or caught
        raise BankError(f"{origin}: cannot be read ({reason}). Check that it exists.") from caught


def _opened(path: Path) -> BinaryIO:
    # A pipe or a device named like a concept would block, or never end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise _FaultError("not a regular file")
    return open(path, "rb")


def _read_start(file: BinaryIO) -> tuple[bytes, int]:
    """The file up to the end of its header, verified; and the size of the whole file."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    length = file.read(8)
    if size < 8:
        raise _FaultError(f"{size} bytes are too few for a concept file")
    end = 8 + int.from_bytes(length, "little")
    if end > 8 + MAX_HEADER:
        raise _FaultError(f"a header of {end - 8} bytes, where {MAX_HEADER} are allowed")
    if end > size:
        raise _FaultError(f"cut off: its header alone takes {end} bytes, the file has {size}")
    start = length + file.read(end - 8)
    # Counted before parsing: a hundred thousand empty tensors take seconds otherwise.
    if start.count(b"{") > MAX_TENSORS:
        raise _FaultError(f"more than {MAX_TENSORS} tensors")
    of_file, of_header = _digest_slices(start)
    if start[of_header] != _digest(start, of_file, of_header):
        raise _FaultError("its header was changed after it was written")
    return start, size


def _digest_slices(start: bytes | bytearray) -> tuple[slice, slice]:
    """Where the digests of file and header stand."""
    found = _START.match(start)
    if found is None:
        raise _FaultError("not a concept file, or its header was rewritten by another program")
    return slice(*found.span(1)), slice(*found.span(2))


def _digest(data: bytes | bytearray, *digests: slice) -> bytes:
    """SHA-256 of all bytes, with zeros where the given digests stand."""
    view, end, digest = memoryview(data), 0, hashlib.sha256()
    for place in digests:
        digest.update(view[end : place.start])
        digest.update(_ZEROS.encode())
        end = place.stop
    digest.update(view[end:])
    return digest.hexdigest().encode()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


_JSON = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def _parse(text: str) -> Any:
    try:
        return _JSON.decode(text)
    except ValueError as caught:
        raise _FaultError(f"unreadable header ({caught})") from caught
