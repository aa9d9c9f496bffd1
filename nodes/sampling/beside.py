"""A call of the model with further rows behind those that ComfyUI asks for.

Whatever has one entry for each row, or for each conditioning, gets the entries of the new rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_OF_CONDITIONINGS = ("cond_or_uncond", "uuids")  # lists in the options that other nodes count


def again(value: Any, sources: Sequence[int], rows: int) -> Any:
    """A model's argument with the rows `sources` once more behind all others.

    Args:
        value: A tensor, or tensors in lists or by name, as ControlNet has them.
        sources: Numbers of rows.
        rows: How many there are; what does not count as many is left as it is.
    """
    if isinstance(value, Tensor):
        return torch.cat([value, value[list(sources)]]) if _counts(value, rows) else value
    if isinstance(value, dict):
        return {key: again(each, sources, rows) for key, each in value.items()}
    if isinstance(value, list):
        return [again(each, sources, rows) for each in value]
    return value


def options_again(options: Mapping[str, Any], sources: Sequence[int], rows: int) -> dict[str, Any]:
    """The options of a call, whose conditionings each have the same number of rows."""
    found = dict(options)
    for name in _OF_CONDITIONINGS:
        if held := options.get(name):
            pictures = rows // len(held)
            found[name] = [*held, *(held[source // pictures] for source in sources[::pictures])]
    return found


def _counts(value: Tensor, rows: int) -> bool:
    return value.ndim > 0 and len(value) == rows
