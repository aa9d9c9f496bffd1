"""Intervals over pictures: as wide as theory says, and honest about what few make larger."""

import pytest
import torch

from cidm_core.evaluation.intervals import measured
from cidm_core.ops.overfitting import gaussian_distance


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_mean_is_as_sure_as_theory_says():
    x = draw(400)
    found = measured(torch.mean, x)
    error = float(x.std()) / 20
    assert found.value == float(x.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert measured(torch.mean, x) == found  # the same draws each time
    assert measured(torch.mean, torch.zeros(5)).ends == (0, 0, 0)


def test_what_few_make_too_large_is_told():
    """Two sets of one kind: their distance is 0, and seems to be more than 1."""
    x, y = draw(60, 8, seed=1), draw(60, 8, seed=2)
    found = measured(gaussian_distance, x, y, biased=True)
    assert found.low < 0.6 * found.value
    assert found.high < 1.5 * found.value
    far = measured(gaussian_distance, x, y + 5, biased=True)
    assert far.low > 13
    assert far.low < 5 * 8**0.5 < far.high + 0.5


def test_as_text():
    assert str(measured(torch.mean, torch.ones(3))) == "1.000 [1.000, 1.000]"
