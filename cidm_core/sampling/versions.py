"""Which versions of a prompt are to be encoded, where several layers read the same rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def distinct_versions(rows: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """The versions that differ, and for each version the place of its like among them.

    SDXL has 70 layers; a word that was learned with one version for each of its 11 attention blocks
    is then encoded 11 times. Live rows, which learn, are taken as they are.

    Args:
        rows: Of each word of a prompt, (versions, dim), or (1, dim) for all versions.
    """
    count = max((len(each) for each in rows), default=1)
    if count == 1 or any(each.requires_grad for each in rows):
        return list(range(count)), list(range(count))
    held = [each.detach().float().cpu().expand(count, -1).numpy() for each in rows]
    keys = [b"".join(each[version].tobytes() for each in held) for version in range(count)]
    first = {key: version for version, key in reversed(list(enumerate(keys)))}
    kept = sorted(first.values())
    places = {version: place for place, version in enumerate(kept)}
    return kept, [places[first[key]] for key in keys]
