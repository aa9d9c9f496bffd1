"""R1 and R2 over whole models: the batched forms against one layer at a time."""

import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cidm_core.errors import CidmError
from cidm_core.families import FAMILIES, PROJECTIONS
from cidm_core.ops import consolidation
from cidm_core.ops.consolidation_model import CommonSubspace, Orthogonality, Projection
from cidm_core.updates import LowRank

DOUBLE = torch.float64
# (out, in): two layers of one shape, one with the same `out`, one of its own
SHAPES = {"a": (12, 7), "b": (12, 7), "c": (12, 12), "d": (9, 7)}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def concept(seed, rank=2, shapes=SHAPES, alpha=3.0):
    seeds = itertools.count(1000 * seed)
    return {
        key: LowRank(draw(rank, n, seed=next(seeds)), draw(out, rank, seed=next(seeds)), alpha)
        for key, (out, n) in shapes.items()
    }


def concepts(count, **options):
    return [concept(i + 1, **options) for i in range(count)]


def ups(new):
    return {key: pair.up.clone().requires_grad_() for key, pair in new.items()}


def pairs(new):
    return {key: (pair.scale * pair.up, pair.down) for key, pair in new.items()}


def old_ups(old, key):
    return torch.stack([c[key].up for c in old if key in c])


@pytest.mark.parametrize("count", [1, 3, 20])  # 20: more columns than rows in every layer
@pytest.mark.parametrize("mode", ["subspace", "energy", "released"])
def test_r1_of_a_model_is_that_of_its_layers(mode, count):
    old, new = concepts(count), ups(concept(99))
    layers = [consolidation.orthogonality(new[k], old_ups(old, k), mode) for k in SHAPES]
    expected = torch.stack(layers).mean() if mode == "released" else torch.stack(layers).sum()
    found = Orthogonality.prepare(old, mode, dtype=DOUBLE).loss(new)
    assert_close(found, expected)
    wanted = torch.autograd.grad(expected, list(new.values()))
    for one, other in zip(torch.autograd.grad(found, list(new.values())), wanted, strict=True):
        assert_close(one, other)


def test_r1_layers_of_one_shape_share_one_product():
    """64 layers of SD 1.5 are three stacks, whatever the number of earlier concepts."""
    shapes = {
        f"{layer.path}.{p}": layer.shape(p)
        for layer in FAMILIES["SD15"].layers
        for p in PROJECTIONS
    }
    small = {key: (out // 40, n // 32) for key, (out, n) in shapes.items()}
    held = Orthogonality.prepare(concepts(3, shapes=small))
    assert len(shapes) == 64
    assert sorted(len(stack.keys) for stack in held.stacks) == [20, 20, 24]


def test_r1_earlier_concepts_may_have_other_ranks_and_fewer_layers():
    old = [concept(1, rank=3), concept(2), {k: v for k, v in concept(3).items() if k != "a"}]
    new = ups(concept(99))
    expected = sum(
        consolidation.orthogonality(new[key], c[key].up[None])
        for c in old
        for key in SHAPES
        if key in c
    )
    assert_close(Orthogonality.prepare(old, dtype=DOUBLE).loss(new), expected)


def test_r1_energy_of_few_directions_is_a_part_of_the_whole():
    old, new = concepts(20), ups(concept(99))
    parts = [
        float(Orthogonality.prepare(old, "energy", dtype=DOUBLE, directions=n).loss(new).detach())
        for n in (2, 6, 12)
    ]
    whole = float(Orthogonality.prepare(old, "energy", dtype=DOUBLE).loss(new).detach())
    assert 0 < parts[0] < parts[1] < parts[2]
    assert parts[2] == pytest.approx(whole)
    stacks = Orthogonality.prepare(old, "energy", directions=2).stacks
    assert all(stack.old.shape[-1] == 2 for stack in stacks)


@pytest.mark.parametrize("count", [20, 200])
def test_the_bounded_forms_do_not_grow_with_the_bank(count):
    """What a step touches has a size that depends on the layers alone."""
    shapes = {"a": (12, 7)}
    old = concepts(count, shapes=shapes)
    assert Orthogonality.prepare(old, "energy").stacks[0].old.shape == (1, 1, 12, 12)
    assert Projection.prepare(old, rank=2).stacks[0].old.shape == (1, 12, 10)
    assert CommonSubspace.prepare(old, k=3).stacks[0].old.shape == (1, 3, 7)
    assert CommonSubspace.prepare(old, k=3, mode="gradient").memories[0].rows.shape == (1, 7, 7)


def test_r1_starts_at_zero_for_a_first_concept():
    for held in (Orthogonality.prepare([]), CommonSubspace.prepare([], k=3)):
        assert held.loss({}) == 0
    Projection.prepare([], rank=2).apply({})


def test_r1_bad_settings_are_explained():
    with pytest.raises(CidmError, match="'subspace', 'energy' or 'released'"):
        Orthogonality.prepare([], "cosine")
    with pytest.raises(CidmError, match=r"earlier concepts have \[2, 3\] in a"):
        Orthogonality.prepare([concept(1), concept(2, rank=3)], "released")
    with pytest.raises(CidmError, match="'closed_form' or 'gradient'"):
        CommonSubspace.prepare([], 3, "admm")


def test_r1_is_zero_after_projecting_a_model():
    old, new = concepts(4), ups(concept(99))  # 8 columns: room in 9 and 12 rows
    before = {key: up.detach().clone() for key, up in new.items()}
    measure = Orthogonality.prepare(old, dtype=DOUBLE)
    held = Projection.prepare(old, rank=1, dtype=DOUBLE)
    held.apply(new)
    assert float(measure.loss(new).detach()) < 1e-11
    for key, up in new.items():
        basis = consolidation.orthonormal_basis(old_ups(old, key))
        assert_close(up.detach(), consolidation.project_out(before[key], basis))


def test_projection_of_few_directions_takes_the_strongest():
    old, new = concepts(4), ups(concept(99))
    before = {key: up.detach().clone() for key, up in new.items()}
    Projection.prepare(old, rank=2, dtype=DOUBLE, directions=3).apply(new)
    for key, up in new.items():
        basis = consolidation.orthonormal_basis(old_ups(old, key), keep=3)
        assert_close(up.detach(), consolidation.project_out(before[key], basis))


@pytest.mark.parametrize("count", [1, 3, 20])
def test_r2_closed_form_of_a_model_is_that_of_its_layers(count):
    old, new = concepts(count), concept(99)
    expected = torch.zeros((), dtype=DOUBLE)
    for key, pair in new.items():
        basis = consolidation.common_subspace([pairs(c)[key] for c in old], 3)
        expected += consolidation.shared_loss(pair.scale * pair.up, pair.down, basis)
    assert_close(CommonSubspace.prepare(old, 3, dtype=DOUBLE).loss(pairs(new)), expected)


def test_r2_closed_form_is_zero_for_what_the_bank_already_spans():
    """A new delta whose rows lie in the earlier rows shares everything."""
    old = concepts(3)
    new = {k: LowRank(old[0][k].down + old[1][k].down, draw(SHAPES[k][0], 2), 2.0) for k in SHAPES}
    held = CommonSubspace.prepare(old, k=7, dtype=DOUBLE)
    assert float(held.loss(pairs(new))) < 1e-10
    assert float(held.loss(pairs(concept(99)))) > 1


class TwoSteps:
    """Eq. 6 and 7 by the book, with full matrices in numpy: every H_i (out, k) and W (k, in)."""

    def __init__(self, old, key, w):
        self.deltas = [c[key].delta.numpy() for c in old]
        self.w = w.numpy()
        self.h = [d @ self.w.T for d in self.deltas]
        self.h_new = np.zeros_like(self.h[0])

    def terms(self, new):
        return [*zip([*self.deltas, new], [*self.h, self.h_new], strict=True)]

    def r2(self, new):
        return sum(np.linalg.norm(d - h @ self.w) ** 2 for d, h in self.terms(new))

    def new_term(self, new):
        return np.linalg.norm(new - self.h_new @ self.w) ** 2

    def step(self, lr, new):
        grads = [-2 * (d - h @ self.w) @ self.w.T for d, h in self.terms(new)]
        grad_w = sum(-2 * h.T @ (d - h @ self.w) for d, h in self.terms(new))
        *self.h, self.h_new = [h - lr * g for (_, h), g in zip(self.terms(new), grads, strict=True)]
        self.w = self.w - lr * grad_w


def start(held):
    """A copy of W_* of each layer."""
    return {k: w.clone() for s in held.stacks for k, w in zip(s.keys, s.old, strict=True)}


@pytest.mark.parametrize("count", [1, 3, 20])
def test_eq6_eq7_start_at_the_best_subspace_with_k_rows(count):
    """One concept of rank 2 leaves a third row free; it is filled, for a zero row never learns."""
    old = concepts(count)
    for key, w in start(CommonSubspace.prepare(old, 3, "gradient", dtype=DOUBLE)).items():
        assert_close(w @ w.T, torch.eye(3, dtype=DOUBLE))
        best = consolidation.common_subspace([pairs(c)[key] for c in old], 3)
        assert_close(best @ w.T @ w, best)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_eq6_eq7_two_steps_equal_full_matrices_by_the_book(count):
    old, lr = concepts(count), 1e-3 / count
    held = CommonSubspace.prepare(old, 3, "gradient", dtype=DOUBLE)
    books = {key: TwoSteps(old, key, w) for key, w in start(held).items()}
    for step in range(4):
        new = concept(100 + step)  # step 1 of the two has moved the new delta
        expected = sum(book.new_term(new[key].delta.numpy()) for key, book in books.items())
        assert float(held.loss(pairs(new))) == pytest.approx(expected, rel=1e-9)
        held.step(lr, pairs(new))
        for key, book in books.items():
            book.step(lr, new[key].delta.numpy())


def test_eq6_eq7_each_second_step_lowers_r2():
    old, new = concepts(3), concept(99)
    held = CommonSubspace.prepare(old, 3, "gradient", dtype=DOUBLE)
    book = TwoSteps(old, "a", start(held)["a"])
    ours, theirs = [], []
    for _ in range(20):
        ours.append(float(held.loss(pairs(new))))
        theirs.append(book.r2(new["a"].delta.numpy()))
        held.step(1e-4, pairs(new))
        book.step(1e-4, new["a"].delta.numpy())
    assert ours == sorted(ours, reverse=True)
    assert ours[-1] < ours[0]
    assert theirs == sorted(theirs, reverse=True)


def test_eq6_eq7_state_can_be_saved_and_put_back():
    old, new = concepts(3), concept(99)
    held, resumed = (CommonSubspace.prepare(old, 3, "gradient", dtype=DOUBLE) for _ in range(2))
    held.step(1e-3, pairs(new))
    saved = {name: tensor.clone() for name, tensor in held.state_dict().items()}
    held.step(1e-3, pairs(new))
    resumed.load_state_dict(saved)
    resumed.step(1e-3, pairs(new))
    assert torch.equal(held.loss(pairs(new)), resumed.loss(pairs(new)))
    assert CommonSubspace.prepare(old, 3).state_dict() == {}


def test_the_closed_form_never_moves():
    old, new = concepts(3), concept(99)
    held = CommonSubspace.prepare(old, 3)
    before = held.loss(pairs(new))
    held.step(1.0, pairs(new))
    assert torch.equal(before, held.loss(pairs(new)))


def test_half_precision_concepts_are_welcome():
    old = [
        {k: LowRank(p.down.half(), p.up.half(), p.alpha) for k, p in c.items()} for c in concepts(3)
    ]
    new = {k: (u.float(), d.float()) for k, (u, d) in pairs(concept(99)).items()}
    for mode in ("subspace", "energy"):
        assert Orthogonality.prepare(old, mode).loss({k: u for k, (u, _) in new.items()}) > 0
    for mode in ("closed_form", "gradient"):
        assert CommonSubspace.prepare(old, 3, mode).loss(new) > 0
