"""Eq. 3 (elastic weight aggregation) against references written from the formulas."""

import math

import numpy as np
import pytest
import torch
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from cidm_core.errors import ConceptError, RelevanceError
from cidm_core.ops import aggregation
from cidm_core.updates import LowRank

DOUBLE = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def factors(ranks, out=5, n_in=7, alpha=3.0):
    return [
        LowRank(draw(r, n_in, seed=10 + i), draw(out, r, seed=20 + i), alpha)
        for i, r in enumerate(ranks)
    ]


def reference_relevance(prompt, concepts, mode):
    """Plain loops over numpy vectors; `concepts` is a list of lists of word vectors."""
    found = []
    for words in concepts:
        if not words:
            found.append(0.0)
        elif mode == "paper":
            mean = sum(words) / len(words)
            found.append(max(float(np.dot(c, mean)) for c in prompt))
        else:
            cosines = [
                max(float(np.dot(c, e) / np.linalg.norm(c) / np.linalg.norm(e)) for c in prompt)
                for e in words
            ]
            found.append(sum(cosines) / len(cosines))
    return torch.tensor(found, dtype=DOUBLE)


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_eq3_relevance_equals_the_loops(mode):
    prompt, tokens = draw(6, 4), draw(4, 3, 4, seed=1)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]]).bool()
    tokens[~mask] = math.nan  # padding may hold anything
    words = [[t.numpy() for t, m in zip(row, keep, strict=True) if m]
             for row, keep in zip(tokens, mask, strict=True)]  # fmt: skip
    expected = reference_relevance(prompt.numpy(), words, mode)
    assert_close(aggregation.relevance(prompt, tokens, mask, mode), expected)


def test_eq3_relevance_by_hand():
    prompt = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=DOUBLE)
    tokens = torch.tensor([[[3.0, 0.0], [1.0, 4.0]]], dtype=DOUBLE)  # mean (2, 2)
    mask = torch.ones(1, 2, dtype=torch.bool)
    # paper: max(1*2, 2*2) = 4
    assert_close(
        aggregation.relevance(prompt, tokens, mask, "paper"), torch.tensor([4.0], dtype=DOUBLE)
    )
    # released: word 1 has cosine 1; word 2 has max(1, 4) / sqrt(17); their mean
    expected = (1 + 4 / math.sqrt(17)) / 2
    found = aggregation.relevance(prompt, tokens, mask, "released")
    assert_close(found, torch.tensor([expected], dtype=DOUBLE))


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_eq3_layers_are_batched(mode):
    prompt, tokens = draw(3, 6, 4), draw(3, 2, 2, 4, seed=1)
    mask = torch.tensor([[1, 1], [1, 0]]).bool()
    together = aggregation.relevance(prompt, tokens, mask, mode)
    single = [aggregation.relevance(p, t, mask, mode) for p, t in zip(prompt, tokens, strict=True)]
    assert_close(together, torch.stack(single))
    weights = aggregation.normalise(together, mode, top_k=1)
    assert_close(weights, torch.stack([aggregation.normalise(m, mode, top_k=1) for m in single]))


def test_eq3_released_ignores_length_and_paper_does_not():
    prompt, tokens = draw(6, 4), draw(2, 2, 4, seed=1)
    mask = torch.ones(2, 2, dtype=torch.bool)
    longer = tokens * torch.tensor([1.0, 5.0], dtype=DOUBLE)[:, None, None]
    released = [aggregation.relevance(prompt, t, mask, "released") for t in (tokens, longer)]
    paper = [aggregation.relevance(prompt, t, mask, "paper") for t in (tokens, longer)]
    assert_close(released[0], released[1])
    assert_close(paper[0] * torch.tensor([1.0, 5.0], dtype=DOUBLE), paper[1])


def test_eq3_a_prompt_without_tokens_is_refused():
    with pytest.raises(RelevanceError, match="no token"):
        aggregation.relevance(draw(0, 4), draw(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))


def test_eq3_psi_by_hand():
    m = torch.tensor([3.0, 4.0], dtype=DOUBLE)
    paper = torch.tensor([9.0, 16.0], dtype=DOUBLE) / math.sqrt(9**2 + 16**2)
    released = torch.tensor([81.0, 256.0], dtype=DOUBLE) / (81 + 256)
    assert_close(aggregation.normalise(m, "paper"), paper)
    assert_close(aggregation.normalise(m, "released"), released)


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=8).filter(
        lambda xs: max(abs(x) for x in xs) > 1e-3
    ),
    st.sampled_from([1e-6, 1.0, 1e6]),
)
@few
def test_eq3_psi_equals_the_formula_at_any_scale(values, scale):
    m = np.array(values)
    paper = m**2 / np.sqrt((m**4).sum())
    released = m**4 / (m**4).sum()
    given_m = torch.tensor(values, dtype=DOUBLE) * scale  # psi does not depend on M's scale
    for mode, expected in (("paper", paper), ("released", released)):
        found = aggregation.normalise(given_m, mode)
        assert_close(found, torch.tensor(expected), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("mode", "total"), [("paper", math.sqrt(10)), ("released", 1.0)])
def test_eq3_ten_equal_concepts(mode, total):
    """The paper's weights sum to more than 1; the released ones to 1."""
    weights = aggregation.normalise(torch.full((10,), 0.7, dtype=DOUBLE), mode)
    assert_close(weights.sum(), torch.tensor(total, dtype=DOUBLE))


@pytest.mark.parametrize(
    ("mode", "small", "large"), [("released", 0.32, 0.004), ("paper", 0.56, 0.064)]
)
def test_eq3_dense_weights_fade_in_large_banks(mode, small, large):
    """The right concept's share with a background similarity of 0.7 (methods, section 8)."""
    for size, expected in ((10, small), (1000, large)):
        m = torch.full((size,), 0.7, dtype=DOUBLE)
        m[0] = 1.0
        found = float(aggregation.normalise(m, mode)[0])
        assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, DOUBLE])
@pytest.mark.parametrize("value", [1e-3, 0.7, 250.0])
@pytest.mark.parametrize("mode", ["paper", "released", "gate"])
def test_eq3_a_lone_concept_weighs_exactly_one(mode, value, dtype):
    m = torch.tensor([value], dtype=dtype)
    assert aggregation.normalise(m, mode, present=torch.tensor([True])).item() == 1.0


def test_gate_weighs_only_what_the_prompt_names():
    m = torch.tensor([0.9, 0.8, 0.7], dtype=DOUBLE)
    present = torch.tensor([True, False, True])
    expected = torch.tensor([0.81, 0.0, 0.49], dtype=DOUBLE) / math.hypot(0.81, 0.49)
    assert_close(aggregation.normalise(m, "gate", present), expected)


def test_gate_one_present_weighs_exactly_one_in_any_bank():
    m = draw(3, 1000).abs()
    present = torch.zeros(1000, dtype=torch.bool)
    present[123] = True
    weights = aggregation.normalise(m, "gate", present)
    assert (weights[:, 123] == 1).all()
    assert (weights.sum(-1) == 1).all()


def test_gate_none_present_gives_the_base_model():
    weights = aggregation.normalise(draw(2, 4), "gate", torch.zeros(4, dtype=torch.bool))
    assert (weights == 0).all()


def test_gate_present_concepts_without_relevance_count_alike():
    weights = aggregation.normalise(
        torch.zeros(3, dtype=DOUBLE), "gate", torch.tensor([True, True, False])
    )
    assert_close(weights, torch.tensor([1, 1, 0], dtype=DOUBLE) / math.sqrt(2))


def test_gate_without_presence_is_refused():
    with pytest.raises(RelevanceError, match="which concepts the prompt names"):
        aggregation.normalise(torch.ones(2), "gate")


@pytest.mark.parametrize("mode", ["paper", "released", "gate"])
def test_top_k_keeps_the_largest_and_normalises_them(mode):
    m = torch.tensor([0.2, 0.9, 0.5, 0.8], dtype=DOUBLE)
    present = torch.ones(4, dtype=torch.bool)
    weights = aggregation.normalise(m, mode, present, top_k=2)
    pair = aggregation.normalise(m[[1, 3]], mode, present[:2])
    assert_close(weights, torch.stack([pair[0] * 0, pair[0], pair[0] * 0, pair[1]]))
    assert_close(
        aggregation.normalise(m, mode, present, top_k=9), aggregation.normalise(m, mode, present)
    )


def test_top_k_prefers_earlier_concepts_among_equals():
    weights = aggregation.normalise(torch.full((5,), 0.5), "released", top_k=2)
    assert weights.tolist() == [0.5, 0.5, 0, 0, 0]


def test_psi_even_powers_count_opposite_as_relevant():
    """The literal formulas; kept and documented, not mended in these modes."""
    for mode in ("paper", "released"):
        plus, minus = (aggregation.normalise(torch.tensor([x, 0.5]), mode) for x in (0.8, -0.8))
        assert_close(plus, minus)


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_no_relevance_at_all_is_an_error(mode):
    with pytest.raises(RelevanceError, match="None of the 3 concepts"):
        aggregation.normalise(torch.zeros(3), mode)
    with pytest.raises(RelevanceError):  # in one of two layers
        aggregation.normalise(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), mode)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_relevance_that_is_no_number_is_an_error(bad):
    with pytest.raises(RelevanceError, match="NaN or infinite"):
        aggregation.normalise(torch.tensor([1.0, bad]), "paper")


@pytest.mark.parametrize("mode", ["paper", "released", "gate"])
def test_an_empty_bank_has_no_weights(mode):
    empty = torch.zeros(4, 0)
    present = torch.zeros(0, dtype=torch.bool)
    assert aggregation.normalise(empty, mode, present).shape == (4, 0)
    relevance = aggregation.relevance(torch.ones(2, 3), torch.ones(0, 1, 3), present[:, None])
    assert relevance.shape == (0,)


def test_unknown_modes_name_the_choices():
    with pytest.raises(RelevanceError, match="paper, released, gate"):
        aggregation.normalise(torch.ones(2), "sharp")
    with pytest.raises(RelevanceError, match="'paper' or 'released'"):
        aggregation.relevance(
            torch.ones(1, 2), torch.ones(1, 1, 2), torch.ones(1, 1).bool(), "gate"
        )


def reference_delta(weights, pairs):
    total = np.zeros((pairs[0].up.shape[0], pairs[0].down.shape[1]))
    for w, pair in zip(weights.tolist(), pairs, strict=True):
        scale = pair.alpha / pair.down.shape[0]
        total += w * scale * (pair.up.numpy() @ pair.down.numpy())
    return torch.tensor(total)


def test_eq3_delta_sums_deltas_of_any_rank():
    pairs, weights = factors([2, 4, 1]), torch.tensor([0.3, 0.5, 0.9], dtype=DOUBLE)
    assert_close(aggregation.delta(weights, pairs), reference_delta(weights, pairs))


def test_eq3_delta_by_hand():
    one = LowRank(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]), alpha=0.5)
    two = LowRank(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0], [0.0]]), alpha=2.0)
    # 2 * 0.5 * [[3, 6], [4, 8]] + 10 * 2 * [[0, 1], [0, 0]]
    expected = torch.tensor([[3.0, 26.0], [4.0, 8.0]])
    assert_close(aggregation.delta(torch.tensor([2.0, 10.0]), [one, two]), expected)


def test_eq3_one_concept_is_its_own_delta():
    (pair,) = factors([4])
    assert_close(aggregation.delta(torch.ones(1, dtype=DOUBLE), [pair]), pair.delta)


def test_eq3_order_of_the_bank_is_irrelevant():
    pairs, weights = factors([2, 3, 2]), torch.tensor([0.3, 0.5, 0.9], dtype=DOUBLE)
    order = [2, 0, 1]
    assert_close(
        aggregation.delta(weights, pairs),
        aggregation.delta(weights[order], [pairs[i] for i in order]),
    )


def test_eq3_deltas_are_averaged_never_factors():
    pairs, weights = factors([2, 2]), torch.tensor([0.5, 0.5], dtype=DOUBLE)
    of_factors = 1.5 * ((pairs[0].up + pairs[1].up) / 2) @ ((pairs[0].down + pairs[1].down) / 2)
    assert (aggregation.delta(weights, pairs) - of_factors).abs().max() > 0.1


def test_eq3_delta_keeps_the_precision_of_the_weights():
    half = [LowRank(p.down.half(), p.up.half(), p.alpha) for p in factors([4, 4])]
    assert aggregation.delta(torch.tensor([0.3, 0.7]), half).dtype == torch.float32


def test_columns_say_whose_they_are():
    columns = aggregation.concatenate(factors([2, 1, 3])).columns
    assert columns.tolist() == [0, 0, 1, 2, 2, 2]


def test_eq3_merged_equals_per_sample():
    """One branch with other weights in every row adds what each row's merged delta would."""
    pairs, weights = factors([2, 4, 1]), draw(3, 3, seed=5)
    x = draw(3, 6, 7, seed=6)
    down, up, columns = aggregation.concatenate(pairs)
    branch = aggregation.low_rank_branch(x, down, up, weights[:, columns])
    merged = torch.stack([
        row @ reference_delta(w, pairs).T for row, w in zip(x, weights, strict=True)
    ])  # fmt: skip
    assert_close(branch, merged)


def test_a_row_of_zero_weights_adds_exactly_nothing():
    down, up, columns = aggregation.concatenate(factors([2, 4]))
    weights = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=DOUBLE)
    added = aggregation.low_rank_branch(draw(2, 6, 7), down, up, weights[:, columns])
    assert (added[0] == 0).all()
    assert (added[1] != 0).any()


def test_factors_of_different_models_are_refused():
    with pytest.raises(ConceptError, match=r"\(5, 7\), \(5, 9\)"):
        aggregation.concatenate([*factors([2]), *factors([2], n_in=9)])
    with pytest.raises(ConceptError, match="No concept"):
        aggregation.concatenate([])
