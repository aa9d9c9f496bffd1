"""Several concepts' low-rank weights as one: their sum or average, exactly."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.diffusers_host.base import Base
from cidm_core.ops.aggregation import concatenate
from cidm_core.updates import LowRank


def combined(concepts: Sequence[Concept], share: float = 1.0) -> dict[str, LowRank]:
    """Factors whose delta is `share * sum_i delta_i`: the concepts' side by side.

    Args:
        concepts: At least one.
        share: 1 sums, 1 / len(concepts) averages.
    """
    result: dict[str, LowRank] = {}
    for path in dict.fromkeys(path for concept in concepts for path in concept.low_rank):
        held = [concept.low_rank[path] for concept in concepts if path in concept.low_rank]
        both = concatenate(held)
        result[path] = LowRank(both.down, share * both.up, alpha=float(len(both.columns)))
    return result


@contextmanager
def folded(base: Base, concepts: Sequence[Concept]) -> Generator[None]:
    """The model with the sum of all deltas in its weights; bit for bit as before on leaving."""
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        for path, pair in combined(concepts).items():
            weight: Tensor = base.unet.get_submodule(path).weight
            saved.append((weight.data, weight.detach().clone()))
            weight.data.add_(pair.delta.to(weight))
        yield
    finally:
        for weight, value in saved:
            weight.copy_(value)
