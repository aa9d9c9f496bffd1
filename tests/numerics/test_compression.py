"""Compression by singular values: the rule by hand, and what is lost."""

import pytest
import torch
from torch.testing import assert_close

from cidm_core.ops import compression

DOUBLE = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@pytest.mark.parametrize(
    ("energy", "kept"),
    [(0.0, 0), (0.3, 0), (0.4, 1), (0.69, 1), (0.7, 2), (0.89, 2), (0.9, 3), (0.99, 3), (1.0, 3)],
)
def test_compress_rule_by_hand(energy, kept):
    """Of 4 + 3 + 2 + 1; values, not squares; what goes beyond is left out, and so is the last."""
    assert compression.kept_rank(torch.tensor([4.0, 3.0, 2.0, 1.0]), energy) == kept


def test_compress_of_nothing_keeps_nothing():
    assert compression.kept_rank(torch.zeros(3), 0.6) == 0


def test_compress_loses_the_tail_of_the_singular_values():
    delta = draw(7, 12)
    u, s, vt = compression.spectrum(delta)
    k = compression.kept_rank(s, 0.6)
    assert 0 < k < 7
    assert_close((delta - (u[:, :k] * s[:k]) @ vt[:k]).norm(), s[k:].square().sum().sqrt())


@pytest.mark.parametrize("rank", [3, 9])
def test_compress_spectrum_of_factors_is_that_of_their_product(rank):
    down, up = draw(rank, 12), draw(7, rank, seed=1)
    u, s, vt = compression.spectrum_of_factors(down, up)
    assert_close((u * s) @ vt, up @ down)
    assert_close(s, compression.spectrum(up @ down)[1][: len(s)])
