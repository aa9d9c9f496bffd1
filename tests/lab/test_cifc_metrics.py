"""Intervals, forgetting matrix, confusion and similarities against references in plain loops."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from cidm_core.errors import CidmError
from lab.cifc.intervals import Interval, bootstrap, bootstrap_difference
from lab.cifc.measures import confusion, correlations, cosines, forgetting_matrix, pixels

NAN = float("nan")


# --- bootstrap -----------------------------------------------------------------------------------


def reference_interval(rows, draws, shared):
    """Percentile bootstrap in plain Python; its draws are its own."""
    rng = random.Random(1)
    means = []
    for _ in range(draws):
        picks = [rng.randrange(len(rows[0])) for _ in rows[0]]
        parts = []
        for row in rows:
            if not shared:
                picks = [rng.randrange(len(row)) for _ in row]
            parts.append(sum(row[i] for i in picks) / len(row))
        means.append(sum(parts) / len(parts))
    means.sort()
    return means[round(0.025 * (draws - 1))], means[round(0.975 * (draws - 1))]


@pytest.mark.parametrize("shared", [False, True])
def test_bootstrap_matches_the_reference(shared):
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 20)  # prompts differ in the same way for both concepts
    rows = [(hard + rng.normal(0, 0.3, 20) + shift).tolist() for shift in (0.0, 5.0)]
    found = bootstrap(rows, ["pet", "pet"] if shared else None, draws=4000)
    low, high = reference_interval(rows, 4000, shared)
    assert found.mean == pytest.approx((sum(rows[0]) + sum(rows[1])) / 40, abs=1e-12)
    width = high - low
    assert found.low == pytest.approx(low, abs=0.06 * width)
    assert found.high == pytest.approx(high, abs=0.06 * width)


def test_shared_prompts_count_once():
    row = np.random.default_rng(3).normal(size=20).tolist()
    own, shared = bootstrap([row] * 4), bootstrap([row] * 4, ["pet"] * 4)
    # four independent draws average out, one draw does not
    assert shared.high - shared.low == pytest.approx(2 * (own.high - own.low), rel=0.15)
    assert (shared.low, shared.high) == (bootstrap([row]).low, bootstrap([row]).high)


def test_every_concept_weighs_the_same_however_many_prompts():
    assert bootstrap([[1.0] * 3, [3.0] * 30]).mean == pytest.approx(2.0)


def test_bootstrap_is_seeded_and_constant_scores_have_no_width():
    rows = [[1.0, 2.0, 4.0], [0.0, 1.0, 5.0]]
    assert bootstrap(rows) == bootstrap(rows)
    assert bootstrap(rows, draws=50) != bootstrap(rows, draws=50, seed=1)
    assert bootstrap([[0.5] * 5]) == Interval(0.5, 0.5, 0.5)


def test_a_paired_difference_is_sharper_than_two_intervals():
    rng = np.random.default_rng(1)
    prompts = rng.normal(0, 10, 20)
    a = [(prompts + 1 + rng.normal(0, 0.1, 20)).tolist()]
    b = [prompts.tolist()]
    gap = bootstrap_difference(a, b)
    assert bootstrap(a).low < bootstrap(b).high  # the two overlap
    assert 0.9 < gap.low < gap.mean < gap.high < 1.1
    assert gap.mean == pytest.approx(np.mean(np.subtract(a, b)))
    back = bootstrap_difference(b, a)
    assert (back.mean, back.low) == (pytest.approx(-gap.mean), pytest.approx(-gap.high))


@pytest.mark.parametrize(
    ("rows", "categories", "message"),
    [
        ([], None, "at least one concept"),
        ([[1.0], []], None, "one prompt of each"),
        ([[1.0, NAN]], None, "NaN"),
        ([[1.0]], ["a", "b"], "2 categories for 1"),
        ([[1.0], [1.0, 2.0]], ["a", "a"], "1 and 2 prompts"),
    ],
)
def test_bootstrap_refuses(rows, categories, message):
    with pytest.raises(CidmError, match=message):
        bootstrap(rows, categories)


def test_pairs_must_fit():
    with pytest.raises(CidmError, match="differ in shape"):
        bootstrap_difference([[1.0, 2.0]], [[1.0]])


# --- forgetting matrix ---------------------------------------------------------------------------

CELLS = {(0, 0): 0.8, (1, 0): 0.7, (1, 1): 0.9, (2, 0): 0.6, (2, 1): 0.9, (2, 2): 0.5}


def test_forgetting_matrix_by_hand():
    found = forgetting_matrix("abc", CELLS)
    assert found["concepts"] == ["a", "b", "c"]
    assert found["values"] == [[0.8, None, None], [0.7, 0.9, None], [0.6, 0.9, 0.5]]
    assert found["average_final"] == pytest.approx(2 / 3)
    assert found["average_own"] == pytest.approx(2.2 / 3)
    assert found["mean_drop"] == pytest.approx(0.1)  # the last concept has nothing after it
    assert found["worst_drop"] == pytest.approx(0.2)
    assert found["retention"] == pytest.approx(0.875)
    assert found["lowest_retention"] == pytest.approx(0.75)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_forgetting_matrix_matches_plain_loops(count):
    rng = np.random.default_rng(count)
    cells = {(j, i): float(rng.uniform(0.3, 1)) for j in range(count) for i in range(j + 1)}
    last = count - 1
    drops = [cells[i, i] - cells[last, i] for i in range(last)]
    shares = [cells[last, i] / cells[i, i] for i in range(last)] or [1.0]
    found = forgetting_matrix([f"c{i}" for i in range(count)], cells)
    assert found["mean_drop"] == pytest.approx(sum(drops) / len(drops) if drops else 0, abs=1e-12)
    assert found["worst_drop"] == pytest.approx(max([*drops, 0.0]), abs=1e-12)
    assert found["retention"] == pytest.approx(sum(shares) / len(shares), abs=1e-12)
    assert found["lowest_retention"] == pytest.approx(min(shares), abs=1e-12)
    assert found["average_final"] == pytest.approx(
        sum(cells[last, i] for i in range(count)) / count, abs=1e-12
    )


def test_rows_may_be_skipped_and_nothing_may_be_kept():
    found = forgetting_matrix("abc", {k: v for k, v in CELLS.items() if k != (1, 0)})
    assert found["values"][1] == [None, 0.9, None]
    assert found["mean_drop"] == pytest.approx(0.1)
    assert forgetting_matrix("a", {(0, 0): -0.1})["retention"] is None


# --- confusion -----------------------------------------------------------------------------------


def test_confusion_by_hand():
    found = confusion("abc", [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 2, 1])  # nobody asked for c
    assert found["counts"] == [[3, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert found["accuracy"] == pytest.approx(0.625)
    assert found["worst"] == [("b", "c", 0.5), ("a", "b", 0.25)]
    assert confusion("a", [], []) == {
        "concepts": ["a"],
        "counts": [[0]],
        "accuracy": None,
        "worst": [],
    }


# --- similarities --------------------------------------------------------------------------------


def noise(seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def test_similarities_match_plain_loops():
    first, second = pixels([noise(0), noise(1)], 4), pixels([noise(2), noise(3), noise(0)], 4)
    assert first.dtype == np.float64
    for i, a in enumerate(first.tolist()):
        for j, b in enumerate(second.tolist()):
            mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
            pearson = cosine([x - mean_a for x in a], [y - mean_b for y in b])
            assert correlations(first, second)[i, j] == pytest.approx(pearson, abs=1e-12)
    a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert cosines(a, b).tolist() == [[pytest.approx(0.6)], [0.0]]


def test_flat_pictures_correlate_with_nothing():
    flat = pixels([Image.new("RGB", (8, 8), (77, 77, 77))])
    assert correlations(flat, flat).tolist() == [[0.0]]


def test_pictures_of_any_size_are_compared():
    assert pixels([noise(5, (64, 64)), noise(6)]).shape == (2, 32 * 32 * 3)
