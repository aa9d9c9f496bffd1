"""safetensors files written in one fixed order and read with suspicion.

The format itself has no checksum: nearly every flipped bit loads silently. Three kinds of digest
in the metadata mend that: one over the whole file, one over the header alone (so that listing
need not read tensors) and one per tensor (so that an error can name the damaged one). The first
two stand at fixed places at the start of the header and count as zeros in their own sums.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..errors import BankError
from .tensor_header import (
    BETWEEN,
    FILE_AT,
    FILE_KEY,
    HEADER_AT,
    HEADER_KEY,
    MAX_HEADER,
    MAX_TENSORS,
    FaultError,
    check_table,
    header_length,
    header_of,
    parse_first,
    parse_json,
    parse_table,
    string_map,
)

SUFFIX = ".safetensors"
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ZEROS = b"0" * 64
_DIGESTS_KEY = "cidm.digests"


@contextlib.contextmanager
def _named(origin: str) -> Generator[None]:
    try:
        yield
    except (FaultError, RecursionError) as fault:
        raise BankError(
            f"{origin}: {fault}. Restore the file from a copy, or remove it and train again."
        ) from fault
    except OSError as caught:
        reason = caught.strerror or caught
        raise BankError(f"{origin}: cannot be read ({reason}). Check that it exists.") from caught


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file with digests; the same input gives the same bytes.

    Raises:
        BankError: If a tensor is of another dtype than float32, float16 or bfloat16, or the
            header grows too large.
    """
    blobs = {key: _blob(key, tensors[key]) for key in _file_order(tensors)}
    digests = {key: _tensor_digest(*blobs[key]) for key in blobs}
    head: dict[str, Any] = {FILE_KEY: "0" * 64, HEADER_KEY: "0" * 64, **metadata}
    header: dict[str, Any] = {"__metadata__": head | {_DIGESTS_KEY: _json(digests)}}
    end = 0
    for key, (dtype, shape, blob) in blobs.items():
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(blob)]}
        end += len(blob)
    text = _json(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER or len(blobs) > MAX_TENSORS:
        raise BankError(
            f"The file header takes {len(text)} bytes for {len(blobs)} tensors; the limits are "
            f"{MAX_HEADER} and {MAX_TENSORS}. Store fewer tensors or shorter notes."
        )
    body = (blob for _, _, blob in blobs.values())
    data = bytearray(b"".join((struct.pack("<Q", len(text)), text, *body)))
    data[HEADER_AT : HEADER_AT + 64] = _header_digest(bytes(data[: 8 + len(text)]))
    data[FILE_AT : FILE_AT + 64] = _file_digest(data)
    return bytes(data)


def unpack(data: bytes, origin: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file's bytes, after every check.

    Args:
        data: The whole file.
        origin: Its name, for error texts.

    Raises:
        BankError: If a single bit differs from what was written, or the content is not allowed:
            other dtypes, overlapping or missing ranges, too many tensors.
    """
    with _named(origin):
        header = header_of(data, len(data))
        if data[FILE_AT : FILE_AT + 64] != _file_digest(data):
            raise FaultError(_damage(data, header))
        table, metadata = parse_table(header)
        body = memoryview(data)[8 + len(header) :]
        check_table(table, len(body))
        if damaged := _damaged(body, table, _digests(metadata)):
            raise FaultError(f"{damaged[:120]} does not match its digest")
        try:
            return load(data), metadata
        except (SafetensorError, ValueError, RuntimeError) as caught:
            raise FaultError(f"safetensors refuses it ({caught})") from caught


def read(path: Path) -> bytes:
    """All bytes of a regular file.

    Raises:
        BankError: If there is no such file or it cannot be read.
    """
    with _named(path.name):
        _check_regular(path)
        return path.read_bytes()


def read_first(path: Path) -> tuple[str, str, int]:
    """Key and text of the first metadata entry, and size of the tensor part: reads no tensor.

    Raises:
        BankError: If the header is not one of ours, or is damaged.
    """
    with _named(path.name):
        _check_regular(path)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            data = start + file.read(header_length(start, size))
        header = header_of(data, size)
        if data[HEADER_AT : HEADER_AT + 64] != _header_digest(data):
            raise FaultError("its header was changed after it was written")
        return *parse_first(header), size - len(data)


def parse_text(text: str, origin: str) -> Any:
    """JSON without duplicate keys, NaN or infinity.

    Raises:
        BankError: If the text is not that.
    """
    with _named(origin):
        return parse_json(text)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _file_order(tensors: Mapping[str, Tensor]) -> list[str]:
    # Wide elements first: every tensor then starts at a multiple of its element size.
    def place(key: str) -> tuple[int, str]:
        return -tensors[key].element_size(), key

    return sorted(tensors, key=place)


def _blob(key: str, tensor: Tensor) -> tuple[str, list[int], bytes]:
    if tensor.dtype not in _NAMES:
        raise BankError(
            f"{key} holds {str(tensor.dtype).removeprefix('torch.')}; a concept file stores "
            "float32, float16 or bfloat16. Convert it first."
        )
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return _NAMES[tensor.dtype], list(tensor.shape), flat.numpy().tobytes()


def _tensor_digest(dtype: str, shape: list[int], blob: bytes | memoryview) -> str:
    digest = hashlib.blake2b(f"{dtype}{shape}".encode(), digest_size=16)
    digest.update(blob)
    return digest.hexdigest()


def _file_digest(data: bytes | bytearray) -> bytes:
    view = memoryview(data)
    digest = hashlib.sha256(view[:FILE_AT])
    digest.update(_ZEROS)
    digest.update(view[FILE_AT + 64 :])
    return digest.hexdigest().encode()


def _header_digest(data: bytes) -> bytes:
    """Over the 8 length bytes and the header, both fixed digests counted as zeros."""
    digest = hashlib.sha256(data[:FILE_AT])
    digest.update(_ZEROS + BETWEEN + _ZEROS)
    digest.update(data[HEADER_AT + 64 :])
    return digest.hexdigest().encode()


def _digests(metadata: Mapping[str, str]) -> dict[str, str]:
    return string_map(parse_json(metadata.get(_DIGESTS_KEY, "")))


def _damaged(body: memoryview, table: Mapping[str, Any], digests: Mapping[str, str]) -> str | None:
    """The first tensor that does not match its digest, or has none."""
    for key, row in table.items():
        first, last = row["data_offsets"]
        if digests.get(key) != _tensor_digest(row["dtype"], row["shape"], body[first:last]):
            return key
    return next((key for key in digests if key not in table), None)


def _damage(data: bytes, header: bytes) -> str:
    """What is wrong with a file whose digest does not match, as precisely as it can be told."""
    start = 8 + len(header)
    if data[HEADER_AT : HEADER_AT + 64] != _header_digest(data[:start]):
        return "its header was changed after it was written"
    table, metadata = parse_table(header)
    check_table(table, len(data) - start)
    damaged = _damaged(memoryview(data)[start:], table, _digests(metadata))
    return f"damaged in {damaged[:120]}" if damaged else "its digest was changed"


def _check_regular(path: Path) -> None:
    # A pipe or a device named like a concept would block, or never end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise FaultError("not a regular file")
