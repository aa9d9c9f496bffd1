"""Short names of base models, by which a concept knows the one it was learned on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .errors import FamilyError
from .families import CrossAttention

_PROBES = 16
_SAME_BASE = 0.005  # bf16 rounding measures 0.0017, a fine-tuning of 2 % measures 0.02


def fingerprint_paths(layers: Sequence[CrossAttention]) -> tuple[str, str]:
    """The two linear layers whose weights `fingerprint` reads: to_k, to_v of the middle block."""
    path = next(layer.path for layer in layers if layer.path.startswith("mid_block"))
    return f"{path}.to_k", f"{path}.to_v"


def fingerprint(weights: Iterable[Tensor]) -> str:
    """A short name of a base model that survives a change of precision.

    Each weight W (out, in) is probed with 16 fixed cosine patterns, u_i^T W v_i; the sums are
    divided by the common Frobenius norm and written in thousandths: `"1280x768:-575,356,..."`.
    The root mean square difference of two such rows estimates the relative distance of the
    weights, ||W1 - W2|| / ||W1|| (random projections, Johnson and Lindenstrauss 1984).

    Args:
        weights: The weights named by `fingerprint_paths`, any floating type and device.

    Raises:
        FamilyError: If there is no weight, or one is zero throughout or not finite.
    """
    sizes: list[str] = []
    probes = torch.zeros(_PROBES, dtype=torch.float64)
    square = 0.0
    for k, weight in enumerate(weights):
        w = weight.detach().cpu().double()
        i = torch.arange(1, _PROBES + 1, dtype=torch.float64) + _PROBES * k
        rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in w.shape)
        # Irrational frequencies: no two patterns, nor rows and columns of one, fall together.
        u = math.sqrt(2) * torch.cos(math.pi * math.sqrt(2) * torch.outer(i, rows))
        v = math.sqrt(2) * torch.cos(math.pi * math.sqrt(3) * torch.outer(i, columns))
        probes += ((u @ w) * v).sum(1)
        square += w.square().sum().item()
        sizes.append("x".join(str(n) for n in w.shape))
    if not sizes or not math.isfinite(square) or square == 0.0:
        raise FamilyError(
            "The cross-attention weights of the middle block are missing, zero or not finite, so "
            "the model has no fingerprint. The file is damaged; get the checkpoint again."
        )
    row = (1000 * probes / math.sqrt(square)).round().int().tolist()
    return f"{sizes[0]}:{','.join(str(n) for n in row)}"


def same_base(a: str, b: str) -> bool:
    """Whether two fingerprints are of one model, be it stored in fp32, fp16 or bf16.

    Siblings (fine-tuned weights, 1 % or more away) are told apart. Rounding to 8 bits moves
    weights by 2 to 4 %, as far as a fine-tuning does, and counts as another base.
    """
    (size_a, row_a), (size_b, row_b) = _parsed(a), _parsed(b)
    if size_a != size_b or len(row_a) != len(row_b) or not row_a:
        return a == b
    return math.dist(row_a, row_b) / math.sqrt(len(row_a)) <= 1000 * _SAME_BASE


def _parsed(text: str) -> tuple[str, list[int]]:
    size, _, row = text.partition(":")
    try:
        return size, [int(number) for number in row.split(",")]
    except ValueError:
        return text, []
