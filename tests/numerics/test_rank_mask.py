"""The rank mask of T-LoRA against its formula: exact fractions, plain loops, float64."""

from fractions import Fraction

import pytest
import torch
from torch.testing import assert_close

from cidm_core.ops import aggregation
from cidm_core.ops.rank_mask import active_ranks, column_mask, fewest_ranks, rank_mask


def reference(t, rank, fewest, levels):
    """r(t) = floor((r - r_min) (T - t) / T) + r_min, without any rounding."""
    return int((rank - fewest) * (Fraction(levels) - Fraction(t)) / levels // 1) + fewest


@pytest.mark.parametrize(
    ("rank", "fewest"), [(4, 2), (4, 1), (4, 0), (4, 4), (1, 1), (3, 2), (64, 32), (16, 5)]
)
@pytest.mark.parametrize("levels", [1000, 999, 7])
def test_rank_mask_counts_as_the_formula(rank, fewest, levels):
    times = torch.arange(levels + 1)
    expected = [reference(t, rank, fewest, levels) for t in range(levels + 1)]
    assert active_ranks(times, rank, fewest, levels).tolist() == expected
    assert active_ranks(times.double(), rank, fewest, levels).tolist() == expected


def test_rank_mask_counts_between_whole_timesteps():
    times = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1000
    expected = [reference(t, 8, 3, 1000) for t in times.tolist()]
    assert active_ranks(times, 8, 3, 1000).tolist() == expected


def test_rank_mask_at_the_ends():
    times = torch.tensor([-3, 0, 1, 500, 501, 999, 1000, 1200])
    assert active_ranks(times, 4, 2, 1000).tolist() == [4, 4, 3, 3, 2, 2, 2, 2]


def test_rank_mask_never_grows_with_noise():
    active = active_ranks(torch.arange(1000), 32, 7, 1000)
    assert (active.diff() <= 0).all()
    assert set(active.tolist()) == set(range(7, 33))


@pytest.mark.parametrize(
    ("rank", "share", "expected"),
    [(4, 0.5, 2), (5, 0.5, 3), (4, 0.25, 1), (4, 0, 0), (4, 1, 4), (30, 0.1, 3), (1, 0.5, 1)],
)
def test_rank_mask_fewest_is_the_rounded_share(rank, share, expected):
    assert fewest_ranks(rank, share) == expected


def test_rank_mask_keeps_the_first_ranks_of_each_picture():
    mask = rank_mask(torch.tensor([0, 400, 999]), 4, 1, 1000)
    assert mask.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]


def test_rank_mask_of_a_branch_is_b_m_a_summed_over_concepts():
    """x (sum_i w_i s_i B_i M_t,i A_i)^T by loops over concepts and ranks, other ranks in each."""
    source = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=source)

    class Pair:
        def __init__(self, rank):
            self.down, self.up, self.scale, self.rank = draw(rank, 5), draw(6, rank), 0.7, rank

    pairs, fewest, weights, x = [Pair(4), Pair(3), Pair(2)], [2, 3, 0], draw(3), draw(1, 2, 5)
    for t in (0.0, 120.5, 500.0, 998.0):
        delta = torch.zeros(6, 5, dtype=torch.float64)
        for pair, least, weight in zip(pairs, fewest, weights, strict=True):
            for k in range(reference(t, pair.rank, least, 1000)):
                delta += weight * pair.scale * torch.outer(pair.up[:, k], pair.down[k])
        down, up, owner = aggregation.concatenate(pairs)
        ranks = [(pair.rank, least) for pair, least in zip(pairs, fewest, strict=True)]
        columns = weights[owner] * column_mask(t, ranks, 1000)
        found = aggregation.low_rank_branch(x, down, up, columns[None])
        assert_close(found, x @ delta.T)
