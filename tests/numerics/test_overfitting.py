"""Over-fitting: score differences against loops, distances of Gaussians against known answers."""

import math

import pytest
import torch

from cidm_core.errors import CidmError
from cidm_core.ops.overfitting import gaussian_distance, score_gaps


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def root(matrix):
    """The symmetric square root, by eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


def printed(mean_1, cov_1, mean_2, cov_2):
    """W as the formula has it, in float64."""
    half = root(cov_1)
    spread = torch.trace(cov_1 + cov_2 - 2 * root(half @ cov_2 @ half))
    return math.sqrt(max(0.0, float((mean_1 - mean_2).square().sum() + spread)))


def with_moments(mean, cov, count, seed=0):
    """Samples with exactly this mean and covariance."""
    x = draw(count, len(mean), seed=seed)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(root(x.T @ x / (count - 1)))
    return x @ root(cov) + mean


def fitted(x):
    centred = x - x.mean(0)
    return x.mean(0), centred.T @ centred / (len(x) - 1)


# --- the latent Fisher divergence ----------------------------------------------------------------


def test_lfd_is_the_squared_difference_of_scores():
    noise, plain = draw(3, 4, 5, 6, seed=1), draw(3, 4, 5, 6, seed=2)
    alpha = 0.3
    weighted, unweighted = score_gaps(noise, plain, torch.tensor(alpha))
    alpha = float(torch.tensor(alpha))  # as float32 has it
    for row in range(3):
        pairs = list(zip(noise[row].flatten().tolist(), plain[row].flatten().tolist(), strict=True))
        scores = [(-a / math.sqrt(1 - alpha), -b / math.sqrt(1 - alpha)) for a, b in pairs]
        expected = sum((a - b) ** 2 for a, b in scores) / len(scores)
        assert float(weighted[row]) == pytest.approx(expected, rel=1e-12)
        expected = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
        assert float(unweighted[row]) == pytest.approx(expected, rel=1e-12)


def test_lfd_of_two_gaussians_is_known():
    """Scores of N(m, I) and N(n, I) at any z differ by m - n."""
    m, n = draw(1, 4, 2, 2, seed=1), draw(1, 4, 2, 2, seed=2)
    alpha = torch.tensor(0.64, dtype=torch.float64)
    z = draw(500, 4, 2, 2, seed=3)
    # z_t of N(m, I) is N(sqrt(a) m, I): s = sqrt(a) m - z, and eps = -sqrt(1 - a) s.
    eps, base = (-((1 - alpha).sqrt()) * (alpha.sqrt() * mean - z) for mean in (m, n))
    weighted, _ = score_gaps(eps, base, alpha)
    expected = 0.64 * float((m - n).square().mean())
    torch.testing.assert_close(weighted, torch.full((500,), expected, dtype=torch.float64))


def test_lfd_of_a_model_and_itself():
    noise = draw(2, 4, 3, 3)
    assert [part.tolist() for part in score_gaps(noise, noise, torch.tensor(0.5))] == [[0, 0]] * 2


# --- the 2-Wasserstein distance ------------------------------------------------------------------


def test_w2_of_gaussians_with_known_answers():
    zero, one = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    shift = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    cases = [
        (zero, one, zero, one, 0.0),
        (zero, one, shift, one, 5.0),  # moved as they are: as far as they were moved
        (zero, one, zero, 4 * one, math.sqrt(3)),  # sqrt(sum of (s1 - s2)^2)
        (shift, 9 * one, zero, torch.diag(torch.tensor([1.0, 4.0, 16.0]).double()), None),
    ]
    for k, (mean_1, cov_1, mean_2, cov_2, expected) in enumerate(cases):
        expected = math.sqrt(25 + 4 + 1 + 1) if expected is None else expected
        assert printed(mean_1, cov_1, mean_2, cov_2) == pytest.approx(expected, abs=1e-7)
        x, y = with_moments(mean_1, cov_1, 20, seed=k), with_moments(mean_2, cov_2, 15, seed=9 + k)
        assert float(gaussian_distance(x, y)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("m", "n", "dim"), [(40, 30, 6), (5, 9, 12), (2, 2, 30), (3, 50, 7)])
def test_w2_is_the_printed_formula_of_the_fitted_gaussians(m, n, dim):
    """Also where there are fewer samples than dimensions."""
    x, y = draw(m, dim, seed=1), 0.5 * draw(n, dim, seed=2) + 0.3
    expected = printed(*fitted(x), *fitted(y))
    assert float(gaussian_distance(x, y)) == pytest.approx(expected, rel=1e-6)
    assert float(gaussian_distance(y, x)) == pytest.approx(expected, rel=1e-6)


def test_w2_of_a_set_and_itself_or_in_another_order():
    x = draw(12, 40)
    assert float(gaussian_distance(x, x)) < 1e-6
    assert float(gaussian_distance(x, x.flip(0))) < 1e-6


def test_w2_of_few_is_too_large():
    """Two sets of one kind; the truth is 0."""
    far = [float(gaussian_distance(draw(n, 20, seed=1), draw(n, 20, seed=2))) for n in (10, 100)]
    assert far[0] > 2 * far[1] > 1


def test_w2_needs_two_of_each():
    with pytest.raises(CidmError, match="Sets of 1 and 5 pictures have no spread"):
        gaussian_distance(draw(1, 3), draw(5, 3))
