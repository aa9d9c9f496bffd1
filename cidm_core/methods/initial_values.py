"""Where learning starts: the first rows of words and the first low-rank weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import ConceptError
from ..families import PROJECTIONS, CrossAttention
from ..updates import LowRank
from .base import Host
from .group import Group


def initial_tokens(
    class_rows: Tensor, words: int, versions: int, std: float, source: torch.Generator
) -> Tensor:
    """First embeddings of the concept words, (words, versions, dim); all versions start alike.

    The last words take over the class tokens, aligned at the end; when there are more tokens than
    words for them, the earliest of these words takes their mean. The words left over, at least
    the first of two or more, start as N(0, std^2): they stand for the identity.

    Args:
        class_rows: Embeddings of the class words, (tokens, dim).
        words: Number of concept words.
        versions: Versions of each row.
        std: Spread of the random words.
        source: CPU generator.

    Raises:
        ConceptError: If there are no class tokens.
    """
    if not len(class_rows):
        raise ConceptError("The class words are empty. Name what the concept is, such as 'dog'.")
    named = min(max(1, words - 1), len(class_rows))
    surplus = len(class_rows) - named + 1
    taken = torch.cat([class_rows[:surplus].mean(0, keepdim=True), class_rows[surplus:]])
    drawn = std * torch.randn(words, class_rows.shape[1], generator=source)
    rows = torch.cat([drawn[: words - named], taken.float().cpu()])
    return rows[:, None].repeat(1, versions, 1)


def entry_rows(host: Host, names: str, words: int) -> dict[str, Tensor]:
    """Rows of words that begin as entries of the vocabulary, encoder -> (words, 1, dim).

    Args:
        host: The model.
        names: Plain words of one token or numbers of entries, joined by +, taken in turn; of none
            there is nothing.
        words: How many rows.

    Raises:
        ConceptError: If one is neither.
    """
    named = [name.strip() for name in names.split("+") if name.strip()]
    if not named:
        return {}
    found = host.entries([named[i % len(named)] for i in range(words)])
    return {encoder: rows[:, None].clone() for encoder, rows in found.items()}


def initial_factors(
    layers: Iterable[CrossAttention], rank: int, source: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Down (rank, in) uniform in +-1/sqrt(in), up (out, rank) zero, by path of the linear layer.

    The usual start of LoRA (Kaiming-uniform with a = sqrt(5), and zero): the delta is 0.
    """
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for layer in layers:
        for projection in PROJECTIONS:
            out, width = layer.shape(projection)
            down = (2 * torch.rand(rank, width, generator=source) - 1) / math.sqrt(width)
            factors[f"{layer.path}.{projection}"] = (down, torch.zeros(out, rank))
    return factors


def live_factors(
    factors: Mapping[str, tuple[Tensor, Tensor]], alpha: float, device: torch.device
) -> tuple[Group, dict[str, LowRank]]:
    """Factors as they learn: in one group, and as the updates whose tensors are its views."""
    held: dict[str, Tensor] = {}
    for path, (down, up) in factors.items():
        held |= {f"{path}.down": down.to(device), f"{path}.up": up.to(device)}
    group = Group("lora", held)
    live = group.tensors
    pairs = {path: LowRank(live[f"{path}.down"], live[f"{path}.up"], alpha) for path in factors}
    return group, pairs
