"""Small concepts, forked writers and hand-made files for the tests of the bank."""

import hashlib
import json
import os
import signal
import struct
from pathlib import Path

import torch

from cidm_core.concept import Concept, Subject
from cidm_core.families import FAMILIES, PROJECTIONS
from cidm_core.updates import LowRank

LAYERS = tuple(layer.path for layer in FAMILIES["SD15"].layers)
BASE = "1280x768:" + ",".join(str(n) for n in range(-16, 16))
OTHER_BASE = "1280x768:" + ",".join(str(90 - n) for n in range(32))


def make_concept(
    name="dog", words=None, *, layers=2, width=4, rank=2, dtype=torch.float32, alpha=3.2, **rest
):
    """A concept of the right form and tiny width; the same arguments give the same one."""
    generator = torch.Generator().manual_seed(sum(name.encode()))

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    paths = rest.pop("paths", LAYERS[:layers])
    updates = {
        f"{path}.{projection}": LowRank(random(rank, width), random(width, rank), alpha)
        for path in paths
        for projection in PROJECTIONS
    }
    words = words or (f"<{name}-1>", f"<{name}-2>")
    given = {
        "class_words": "dog",
        "kind": "object",
        "family": "SD15",
        "base": BASE,
        "config": {"steps": 800, "lr_lora": 1e-4},
        "facts": {"photos": 5, "loss": 0.125},
        **rest,
    }
    return Concept(
        name=name,
        subjects=(Subject(tuple(words), given.pop("class_words"), given.pop("kind")),),
        layers=paths,
        updates=updates,
        rows={"text_encoder": random(len(words), len(paths), width)},
        **given,
    )


def same(a, b):
    """Whether two concepts hold the same, bit for bit; alpha as the file's float32."""
    assert (a.name, a.words, a.class_words, a.kind) == (b.name, b.words, b.class_words, b.kind)
    assert (a.family, a.base, a.layers, a.method) == (b.family, b.base, b.layers, b.method)
    assert a.updates.keys() == b.updates.keys()
    assert a.rows.keys() == b.rows.keys()
    for path, update in a.updates.items():
        assert type(update) is type(b.updates[path])
        mine, theirs = update.tensors(), b.updates[path].tensors()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
        assert all(mine[key].dtype == theirs[key].dtype for key in mine)
    return all(torch.equal(a.rows[key], b.rows[key]) for key in a.rows)


def fork(work):
    """Run `work` in a child process; its exit status is 0 if it returned."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        work()
        status = 0
    finally:
        os._exit(status)


def wait(pid):
    """Exit status of a child; minus the signal if one ended it."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def crash_at(step, *also):
    """Die at the n-th step of writing: before or after a system call, or within a write.

    `also` names further calls of `os` that count.
    """
    count = writes = 0

    def strike():
        nonlocal count
        count += 1
        if count == step:
            die()

    def wrap(name):
        real = getattr(os, name)

        def call(*args, **rest):
            nonlocal writes
            strike()
            writes += name == "write"
            if name == "write" and writes == 1:  # the first one is cut short
                args = args[0], bytes(args[1][: len(args[1]) // 2])
            result = real(*args, **rest)
            strike()
            return result

        return call

    for name in ("open", "write", "fsync", "close", "replace", "unlink", *also):
        setattr(os, name, wrap(name))


# The file format once more, written from its description and not from the code.
FILE_MARK, HEADER_MARK = b'"cidm.sha256":"', b'"cidm.header_sha256":"'


def sign(header, body, length=None):
    """A file of this header and these tensor bytes, with digests that are right."""
    data = bytearray(struct.pack("<Q", len(header) if length is None else length) + header + body)
    places = [data.index(mark) + len(mark) for mark in (FILE_MARK, HEADER_MARK)]
    for place in places:
        data[place : place + 64] = b"0" * 64
    digest = hashlib.sha256(data[: 8 + len(header)]).hexdigest().encode()
    data[places[1] : places[1] + 64] = digest
    digest = hashlib.sha256(data).hexdigest().encode()
    data[places[0] : places[0] + 64] = digest
    return bytes(data)


def split(data):
    """Header table and tensor bytes of a file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def forge(data, change):
    """A file whose digests are right and whose content `change` has edited.

    `change(table, record, blobs)` edits the tensor table, the concept's record and the bytes of
    each tensor; offsets and the two digests are then written anew.
    """
    table, body = split(data)
    metadata = table.pop("__metadata__")
    record = json.loads(metadata["cidm"])
    blobs = {k: body[slice(*row["data_offsets"])] for k, row in table.items()}
    change(table, record, blobs)
    end = 0
    for key, row in table.items():
        row["data_offsets"] = [end, end + len(blobs[key])]
        end += len(blobs[key])
    record["tensor_bytes"] = end
    metadata["cidm"] = json.dumps(record)
    header = json.dumps({"__metadata__": metadata} | table, separators=(",", ":")).encode()
    return sign(header, b"".join(blobs[key] for key in table))


def flip(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def contents(folder):
    """Name and bytes of every visible file below a folder."""
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.name[0] != "."}


def orphans(folder):
    return [name for name in os.listdir(folder) if name.endswith(".tmp")]
