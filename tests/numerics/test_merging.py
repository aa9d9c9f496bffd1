"""Merging in closed form against the optimality conditions, solved whole by NumPy in float64."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cidm_core.errors import CidmError
from cidm_core.ops import merging

DOUBLE = torch.float64
OUT, WIDE, REGULAR, ROWS = 9, 24, 90, 5


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def problem(rows=ROWS):
    """W0, C_reg, C, V."""
    return (
        *(draw(OUT, WIDE), draw(REGULAR, WIDE, seed=1)),
        *(draw(rows, WIDE, seed=2), draw(rows, OUT, seed=3)),
    )


def reference(base, context_reg, targets, values):
    """Each row w of W: min 1/2 ||C_reg (w - w0)||^2 with C w = v, as one linear system.

    [C_reg^T C_reg, C^T; C, 0] [w; l] = [C_reg^T C_reg w0; v].
    """
    w0, c_reg, c, v = (part.numpy() for part in (base, context_reg, targets, values))
    gram = c_reg.T @ c_reg
    system = np.block([[gram, c.T], [c, np.zeros((len(c), len(c)))]])
    right = np.concatenate([gram @ w0.T, v])
    return torch.from_numpy(np.linalg.solve(system, right)[: w0.shape[1]].T.copy())


def test_merge_equals_the_optimality_conditions():
    parts = problem()
    found = merging.constrained(*parts)
    assert_close(found, reference(*parts), rtol=1e-9, atol=1e-9)


def test_merge_with_slack_equals_its_normal_equations():
    """Each row w: min ||C_reg (w - w0)||^2 + sum_j (c_j w - v_j)^2 / l_j."""
    base, regular, targets, values = parts = problem()
    w0, c_reg, c, v = (part.numpy() for part in parts)
    gram = c_reg.T @ c_reg
    lengths = 0.3 * np.diag(c @ np.linalg.inv(gram) @ c.T)
    system, right = gram + c.T / lengths @ c, gram @ w0.T + c.T / lengths @ v
    found = merging.constrained(*parts, slack=0.3)
    assert_close(found, torch.from_numpy(np.linalg.solve(system, right).T.copy()))
    alone = merging.constrained(base, regular, targets[:1], values[:1], slack=0.3)
    wanted = (targets[:1] @ base.T + (values[:1] - targets[:1] @ base.T) / 1.3).squeeze(0)
    assert_close(alone @ targets[0], wanted)


def test_merge_with_slack_takes_more_rows_than_text_is_wide():
    base, regular, *_ = problem()
    targets, values = draw(WIDE + 3, WIDE, seed=5), draw(WIDE + 3, OUT)
    found = merging.constrained(base, regular, targets, values, slack=0.1)
    assert torch.isfinite(found).all()


def test_merge_meets_the_targets():
    base, regular, targets, values = problem()
    found = merging.constrained(base, regular, targets, values)
    assert merging.missed(targets @ found.T, values) < 1e-12


def test_merge_of_what_the_base_gives_is_the_base():
    base, regular, targets, _ = problem()
    assert_close(merging.constrained(base, regular, targets, targets @ base.T), base)


def test_merge_is_free_of_order_but_for_rows_that_repeat():
    base, regular, targets, values = problem()
    order = torch.tensor([3, 0, 4, 2, 1])
    found = merging.constrained(base, regular, targets, values)
    assert_close(merging.constrained(base, regular, targets[order], values[order]), found)
    doubled, more = torch.cat([targets, targets[:2]]), torch.cat([values, draw(2, OUT, seed=9)])
    assert_close(merging.constrained(base, regular, doubled, more), found)
    swapped = merging.constrained(base, regular, doubled.flip(0), more.flip(0))
    assert_close(targets[1] @ swapped.T, more[-1])  # the first of its kind counts


def test_merge_takes_rows_that_differ_by_rounding_for_the_same():
    _, _, targets, _ = problem()
    near = torch.cat([targets, targets[:1] * (1 + 1e-7), targets[1:2] * 1.001])
    assert merging.first_of_its_kind(near).tolist() == [0, 1, 2, 3, 4, 6]


@pytest.mark.parametrize("rows", [WIDE - 4, REGULAR])
def test_merge_with_too_few_or_alike_captions_gets_a_ridge_and_meets_the_targets(rows):
    base, regular, targets, values = problem()
    regular = regular[: WIDE - 4].repeat(9, 1)[:rows]
    assert merging.ordinary_text(regular.T @ regular).ridge > 0
    found = merging.constrained(base, regular, targets, values)
    assert merging.missed(targets @ found.T, values) < 1e-11
    assert torch.isfinite(found).all()


def test_merge_factors_are_the_change():
    base, regular, targets, values = problem()
    text = merging.ordinary_text(regular.T @ regular)
    assert text.ridge == 0
    found = merging.prepare(text, targets)
    down, up = merging.factors(found, values - targets @ base.T)
    assert down.shape == (ROWS, WIDE)
    assert_close(down @ down.T, torch.eye(ROWS, dtype=DOUBLE))
    assert_close(base + up @ down, merging.constrained(base, regular, targets, values))


def test_merge_counts_in_float64_and_returns_the_weight_as_it_came():
    parts = problem()
    found = merging.constrained(*(part.float() for part in parts))
    assert found.dtype == torch.float32
    rounded = [part.float().double() for part in parts]
    assert_close(found, merging.constrained(*rounded).float(), rtol=0, atol=0)


def test_merge_residual_by_hand():
    values = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert merging.missed(values + torch.tensor([[0.0, 3.0], [4.0, 0.0]]), values) == 1
    assert merging.missed(torch.zeros(1, 2), torch.zeros(1, 2)) == 0


def test_merge_refuses_what_cannot_be_met():
    base, regular, targets, _ = problem()
    mixed = torch.cat([targets, targets[:1] + targets[1:2]])
    with pytest.raises(CidmError, match="depend on each other"):
        merging.constrained(base, regular, mixed, draw(ROWS + 1, OUT))
    many = draw(WIDE + 1, WIDE, seed=5)
    with pytest.raises(CidmError, match="Merge with slack"):
        merging.constrained(base, regular, many, draw(WIDE + 1, OUT))


def test_merge_refuses_states_that_are_no_numbers():
    base, regular, targets, values = problem()
    for wrong in (torch.full_like(regular, torch.nan), torch.zeros_like(regular)):
        with pytest.raises(CidmError, match="ordinary text are missing, zero or not finite"):
            merging.constrained(base, wrong, targets, values)
    with pytest.raises(CidmError, match="target text are not finite"):
        merging.constrained(base, regular, targets * torch.inf, values)
