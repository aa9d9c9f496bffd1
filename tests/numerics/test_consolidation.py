"""Eq. 2 (R1, R2), 6 and 7 against references written from the formulas with numpy."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cidm_core.errors import CidmError
from cidm_core.ops import consolidation

DOUBLE = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def deltas(count, out=9, n_in=7, rank=2, seed=0):
    """(up, down) of some concepts."""
    return [
        (draw(out, rank, seed=seed + i), draw(rank, n_in, seed=seed + 50 + i)) for i in range(count)
    ]


def full(factors):
    return [up.numpy() @ down.numpy() for up, down in factors]


def reference_r1(up, old_ups, mode):
    up = up.detach().numpy()
    terms = []
    for old in old_ups.numpy():
        if mode == "released":
            terms.append(np.abs(up @ old.T).mean())
        else:
            inner = [float(a @ b) for a in old.T for b in up.T]
            terms.append(
                sum(abs(x) for x in inner) if mode == "subspace" else sum(x * x for x in inner)
            )
    return np.mean(terms) if mode == "released" else np.sum(terms)


MODES = ("subspace", "energy", "released")


@pytest.mark.parametrize("mode", MODES)
def test_r1_equals_the_loops(mode):
    up, old = draw(9, 3), draw(4, 9, 3, seed=1)
    assert float(consolidation.orthogonality(up, old, mode)) == pytest.approx(
        reference_r1(up, old, mode)
    )


def test_r1_by_hand():
    up = torch.tensor([[1.0], [2.0]], dtype=DOUBLE)
    old = torch.tensor([[[3.0], [-1.0]], [[-2.0], [0.0]]], dtype=DOUBLE)
    found = {mode: float(consolidation.orthogonality(up, old, mode)) for mode in MODES}
    assert found["subspace"] == pytest.approx(abs(3 - 2) + abs(-2))
    assert found["energy"] == pytest.approx(1 + 4)
    # |[[3, -1], [6, -2]]| has mean 3, |[[-2, 0], [-4, 0]]| has 1.5
    assert found["released"] == pytest.approx((3 + 1.5) / 2)


@pytest.mark.parametrize("mode", MODES)
def test_r1_layers_are_batched(mode):
    up, old = draw(3, 9, 2), draw(3, 4, 9, 2, seed=1)
    single = [consolidation.orthogonality(a, o, mode) for a, o in zip(up, old, strict=True)]
    assert_close(consolidation.orthogonality(up, old, mode), torch.stack(single))


@pytest.mark.parametrize("mode", MODES)
def test_r1_gradient_equals_finite_differences(mode):
    up, old = draw(6, 2).requires_grad_(), draw(3, 6, 2, seed=1)
    assert torch.autograd.gradcheck(lambda a: consolidation.orthogonality(a, old, mode), up)


def test_r1_released_in_chunks_is_exact(monkeypatch):
    """Value and gradient do not depend on how many rows are held at a time."""
    monkeypatch.setattr(consolidation, "_CHUNK", 25)  # 2 of 9 rows
    up, old = draw(9, 3).requires_grad_(), draw(4, 9, 3, seed=1)
    (consolidation.orthogonality(up, old, "released") * 5).backward()
    naive = up.detach().clone().requires_grad_()
    value = torch.stack([(naive @ o.T).abs().mean() for o in old]).mean()
    (value * 5).backward()
    assert_close(consolidation.orthogonality(up, old, "released"), value)
    assert_close(up.grad, naive.grad)


def test_r1_subspace_is_zero_exactly_for_orthogonal_columns_and_released_is_not():
    up = torch.zeros(6, 2, dtype=DOUBLE)
    up[:2] = draw(2, 2)
    old = torch.zeros(1, 6, 2, dtype=DOUBLE)
    old[0, 2:] = draw(4, 2, seed=1)
    assert consolidation.orthogonality(up, old, "subspace") == 0
    assert consolidation.orthogonality(up, old, "energy") == 0
    assert consolidation.orthogonality(up, old, "released") > 0.01


def test_r1_order_of_concepts_is_irrelevant_and_old_ranks_may_differ():
    up, old = draw(9, 2), draw(3, 9, 5, seed=1)
    one = consolidation.orthogonality(up, old)
    assert_close(one, consolidation.orthogonality(up, old[[2, 0, 1]]))


def test_r1_no_gradient_reaches_earlier_concepts():
    up, old = draw(9, 2).requires_grad_(), draw(3, 9, 2, seed=1).requires_grad_()
    for mode in MODES:
        consolidation.orthogonality(up, old, mode).backward()
    assert old.grad is None
    assert up.grad is not None


def test_r1_unknown_mode_and_unequal_ranks_are_explained():
    with pytest.raises(CidmError, match="'subspace', 'released' or 'energy'"):
        consolidation.orthogonality(draw(4, 2), draw(1, 4, 2), "cosine")
    with pytest.raises(CidmError, match="has 2, earlier ones 3"):
        consolidation.orthogonality(draw(4, 2), draw(1, 4, 3), "released")


@pytest.mark.parametrize("tasks", [1, 3, 5])  # 2, 6 and 10 columns in 9 rows
def test_basis_is_orthonormal_and_spans_the_earlier_columns(tasks):
    old = draw(tasks, 9, 2)
    basis = consolidation.orthonormal_basis(old)
    assert basis.shape == (9, min(9, 2 * tasks))
    assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=DOUBLE))
    assert_close(basis @ (basis.T @ old), old)


def test_basis_drops_repeated_and_empty_directions():
    old = torch.cat([draw(1, 9, 2)] * 2 + [torch.zeros(1, 9, 2, dtype=DOUBLE)])
    assert consolidation.orthonormal_basis(old).shape == (9, 2)
    assert consolidation.orthonormal_basis(old * 0).shape == (9, 0)


@pytest.mark.parametrize("tasks", [3, 6])
def test_basis_keeps_the_strongest_directions(tasks):
    """The kept ones hold as much energy as the best subspace of that size (Eckart-Young)."""
    old = draw(tasks, 9, 2)
    columns = old.movedim(0, 1).flatten(1)
    basis = consolidation.orthonormal_basis(old, keep=4)
    best = np.linalg.svd(columns.numpy(), compute_uv=False)[:4]
    assert float((basis.T @ columns).square().sum()) == pytest.approx((best**2).sum())


@pytest.mark.parametrize("tasks", [1, 4])
def test_r1_is_zero_after_projection(tasks):
    up, old = draw(9, 2), draw(tasks, 9, 2, seed=1)
    projected = consolidation.project_out(up, consolidation.orthonormal_basis(old))
    assert float(consolidation.orthogonality(projected, old)) < 1e-12
    assert projected.abs().max() > 0.1
    again = consolidation.project_out(projected, consolidation.orthonormal_basis(old))
    assert_close(again, projected)


def test_projection_in_a_full_layer_is_soft_but_leaves_room():
    up, old = draw(9, 2), draw(6, 9, 2, seed=1)
    projected = consolidation.project_out(up, consolidation.orthonormal_basis(old, keep=9 - 2))
    before, after = (consolidation.orthogonality(a, old, "energy") for a in (up, projected))
    assert after < before / 4
    assert np.linalg.matrix_rank(projected.numpy()) == 2


@pytest.mark.parametrize(("count", "k"), [(1, 1), (3, 2), (3, 5), (6, 4)])
def test_r2_subspace_is_the_best_of_its_rank(count, k):
    """Its loss equals the tail of the stacked deltas' singular values (Eckart-Young)."""
    factors = deltas(count)
    basis = consolidation.common_subspace(factors, k)
    strengths = np.linalg.svd(np.vstack(full(factors)), compute_uv=False)
    loss = sum(float(consolidation.shared_loss(up, down, basis)) for up, down in factors)
    assert loss == pytest.approx((strengths[basis.shape[0] :] ** 2).sum(), abs=1e-9)
    assert_close(basis @ basis.T, torch.eye(len(basis), dtype=DOUBLE))


@pytest.mark.parametrize("count", [1, 2, 3, 6])  # ranks 2, 4, 6, 7 (full)
def test_r2_is_zero_once_k_reaches_the_rank_of_the_stack(count):
    factors = deltas(count)
    basis = consolidation.common_subspace(factors, k=7)
    assert len(basis) == min(2 * count, 7)
    for up, down in factors:
        assert float(consolidation.shared_loss(up, down, basis)) < 1e-12


def test_r2_order_of_concepts_is_irrelevant():
    factors = deltas(3)
    one, other = (consolidation.common_subspace(f, 2) for f in (factors, factors[::-1]))
    assert_close(one.T @ one, other.T @ other)  # the subspace; signs of rows are free


def test_r2_needs_a_concept():
    with pytest.raises(CidmError, match="at least one earlier concept"):
        consolidation.common_subspace([], 2)


def test_r2_closed_form_loss_equals_the_full_matrices():
    ((up, down),) = deltas(1)
    basis = torch.linalg.qr(draw(7, 3, seed=9)).Q.T
    delta, w = full([(up, down)])[0], basis.numpy()
    expected = np.linalg.norm(delta - delta @ w.T @ w) ** 2
    assert float(consolidation.shared_loss(up, down, basis)) == pytest.approx(expected)


def test_r2_closed_form_has_the_best_h():
    """No other H does better: the residual at H = delta W^T is the closed form, elsewhere more."""
    ((up, down),) = deltas(1)
    basis = torch.linalg.qr(draw(7, 3, seed=9)).Q.T
    best = up @ down @ basis.T
    at_best = consolidation.shared_residual(up, down, best, basis)
    assert_close(at_best, consolidation.shared_loss(up, down, basis))
    moved = consolidation.shared_residual(up, down, best + 0.1 * draw(9, 3, seed=4), basis)
    assert moved > at_best


def test_r2_by_hand():
    up, down = torch.tensor([[2.0], [0.0]]), torch.tensor([[3.0, 4.0]])  # delta [[6, 8], [0, 0]]
    basis = torch.tensor([[1.0, 0.0]])
    assert float(consolidation.shared_loss(up, down, basis)) == 64
    h = torch.tensor([[5.0], [1.0]])  # delta - H W = [[1, 8], [-1, 0]]
    assert float(consolidation.shared_residual(up, down, h, basis)) == 66


def test_r2_residual_equals_the_full_matrices():
    ((up, down),) = deltas(1)
    h, w = draw(9, 3, seed=5), draw(3, 7, seed=6)
    expected = np.linalg.norm(full([(up, down)])[0] - h.numpy() @ w.numpy()) ** 2
    assert float(consolidation.shared_residual(up, down, h, w)) == pytest.approx(expected)


def test_r2_gradients_by_the_new_factors_equal_finite_differences():
    ((up, down),) = deltas(1)
    up, down = up.requires_grad_(), down.requires_grad_()
    basis = torch.linalg.qr(draw(7, 3, seed=9)).Q.T
    h, w = draw(9, 3, seed=5), draw(3, 7, seed=6)
    assert torch.autograd.gradcheck(consolidation.shared_loss, (up, down, basis))
    assert torch.autograd.gradcheck(
        lambda a, b: consolidation.shared_residual(a, b, h, w), (up, down)
    )


def test_eq6_eq7_gradients_equal_the_formulas_with_full_matrices():
    ((up, down),) = deltas(1)
    h, w = draw(9, 3, seed=5), draw(3, 7, seed=6)
    grad_h, grad_w = consolidation.shared_gradients(up, down, h, w)
    rest = h.numpy() @ w.numpy() - full([(up, down)])[0]
    assert_close(grad_h, torch.tensor(2 * rest @ w.numpy().T))
    assert_close(grad_w, torch.tensor(2 * h.numpy().T @ rest))


def test_eq6_eq7_gradients_equal_autograd():
    ((up, down),) = deltas(1)
    h, w = draw(9, 3, seed=5).requires_grad_(), draw(3, 7, seed=6).requires_grad_()
    expected = torch.autograd.grad(consolidation.shared_residual(up, down, h, w), (h, w))
    for found, wanted in zip(
        consolidation.shared_gradients(up, down, h.detach(), w.detach()), expected, strict=True
    ):
        assert_close(found, wanted)


def test_eq7_descends_where_the_printed_sign_climbs():
    ((up, down),) = deltas(1)
    h, w = draw(9, 3, seed=5), draw(3, 7, seed=6)
    grad_h, grad_w = consolidation.shared_gradients(up, down, h, w)
    now, down_hill, up_hill = (
        consolidation.shared_residual(up, down, h + s * grad_h, w + s * grad_w)
        for s in (0, -1e-4, 1e-4)
    )
    assert down_hill < now < up_hill


def test_eq6_eq7_compact_rows_give_the_same_descent():
    """||A B - H W|| = ||R B - H' W|| for H = Q H': loss, W's gradient and H's agree."""
    ((up, down),) = deltas(1)
    q = torch.linalg.qr(up).Q
    rows = consolidation.compact(up, down)
    small, w = draw(2, 3, seed=5), draw(3, 7, seed=6)
    h = q @ small if torch.allclose(q @ rows, up @ down) else -q @ small
    grad_h, grad_w = consolidation.shared_gradients(up, down, h, w)
    grad_small, grad_w_small = consolidation.stacked_gradients(rows, small, w)
    assert_close(q.T @ grad_h, grad_small)
    assert_close(grad_w, grad_w_small)
    assert_close(q @ q.T @ grad_h, grad_h)  # never leaves the span of Q


def test_compact_keeps_the_singular_values_of_the_delta():
    ((up, down),) = deltas(1)
    rows = consolidation.compact(up.half(), down.half())  # half precision files are welcome
    assert rows.dtype == torch.float32
    rows = consolidation.compact(up, down)
    expected = np.linalg.svd(full([(up, down)])[0], compute_uv=False)[:2]
    assert_close(torch.linalg.svdvals(rows), torch.tensor(expected))
