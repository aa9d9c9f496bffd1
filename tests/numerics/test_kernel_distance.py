"""The unbiased kernel distance against loops over all pairs."""

import itertools

import pytest
import torch

from cidm_core.errors import CidmError
from cidm_core.ops.kernel_distance import kernel_distance, polynomial


def draw(count, dim=6, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) + shift


def reference(x, y, paired=False):
    """Pair by pair in float64."""

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def mean(first, second, others):
        pairs = itertools.product(range(len(first)), range(len(second)))
        values = [k(first[i], second[j]) for i, j in pairs if i != j or not others]
        return sum(values) / len(values)

    x, y = x.tolist(), y.tolist()
    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, paired)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (5, 3), (4, 9)])
def test_it_is_the_mean_over_pairs(m, n):
    x, y = draw(m, seed=1), draw(n, seed=2, shift=0.5)
    assert float(kernel_distance(x, y)) == pytest.approx(reference(x, y), rel=1e-12)


def test_of_pairs_their_own_are_left_out():
    x, y = draw(7, seed=1), draw(7, seed=2)
    found = float(kernel_distance(x, y, paired=True))
    assert found == pytest.approx(reference(x, y, paired=True), rel=1e-12)


def test_the_kernel_by_hand():
    x = torch.tensor([[1.0, 1.0], [0.0, -4.0]])
    assert polynomial(x, x).tolist() == [[8.0, -1.0], [-1.0, 729.0]]


def test_a_set_and_itself():
    x = draw(12)
    assert float(kernel_distance(x, x, paired=True)) == 0
    assert float(kernel_distance(x, x)) < 0  # its own pairs are too near


@pytest.mark.parametrize("paired", [False, True])
def test_it_has_no_bias(paired):
    """Mean over many draws of few; with pairs also where each y is near its x."""
    found = []
    for seed in range(500):
        x = draw(5, 3, seed)
        y = 0.8 * x + 0.6 * draw(5, 3, 10_000 + seed) if paired else draw(8, 3, 10_000 + seed)
        found.append(float(kernel_distance(x, y, paired=paired)))
    values = torch.tensor(found)
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean())) < 3 * error
    assert float(kernel_distance(draw(50, 3), draw(50, 3, 1, shift=1.0), paired=paired)) > 0.5


def test_too_few():
    for x, y, paired in ((1, 5, False), (5, 1, False), (4, 5, True)):
        with pytest.raises(CidmError, match=f"Sets of {x} and {y} pictures"):
            kernel_distance(draw(x), draw(y), paired=paired)
