"""Versions of a prompt: which layers share one, and which are alike and encoded once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

TOKEN_LAYERS = ("layer", "block", "one")


def shared_versions(layers: Sequence[str], sharing: str) -> tuple[int, ...]:
    """Which version of a word's rows each layer reads, counted from 0.

    Args:
        layers: Paths of the attn2 layers in execution order.
        sharing: "layer": each its own, as in the paper; "block": those of one attention block, one
            after another in SDXL's (in SD 1.5 a block has one layer); "one": all the same.
    """
    if sharing == "layer":
        return tuple(range(len(layers)))
    if sharing == "one":
        return (0,) * len(layers)
    blocks = [layer.partition(".transformer_blocks.")[0] for layer in layers]
    order = list(dict.fromkeys(blocks))
    return tuple(order.index(block) for block in blocks)


def versions_of(layers: Sequence[str], count: int) -> tuple[int, ...]:
    """`shared_versions` for rows of so many versions."""
    found = (shared_versions(layers, sharing) for sharing in TOKEN_LAYERS)
    return next(each for each in found if max(each) + 1 == count)


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
