"""Intervals, forgetting matrix, confusion and the copy check against references in plain loops."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from cidm_core.errors import CidmError
from cidm_core.evaluation.confusion import Confusion, nearest_concepts
from cidm_core.evaluation.copies import closeness, copy_check, correlations, cosines, pixels
from cidm_core.evaluation.forgetting_matrix import ForgettingMatrix, oracle_gap
from cidm_core.evaluation.intervals import Interval, bootstrap, bootstrap_difference
from cidm_core.evaluation.presence import confused, present

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
    assert bootstrap(a).overlaps(bootstrap(b))
    assert 0.9 < gap.low < gap.mean < gap.high < 1.1
    assert gap.mean == pytest.approx(np.mean(np.subtract(a, b)))
    back = bootstrap_difference(b, a)
    assert (back.mean, back.low) == (pytest.approx(-gap.mean), pytest.approx(-gap.high))


def test_intervals_speak():
    interval = Interval(0.5, 0.25, 0.75)
    assert str(interval.scaled(100)) == "50.00 [25.00, 75.00]"
    assert interval.to_dict() == {"mean": 0.5, "low": 0.25, "high": 0.75}
    assert interval.overlaps(Interval(0.8, 0.75, 0.9))
    assert not interval.overlaps(Interval(0.8, 0.76, 0.9))


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

TABLE = [[0.8, NAN, NAN], [0.7, 0.9, NAN], [0.6, 0.9, 0.5]]


def test_forgetting_matrix_by_hand():
    matrix = ForgettingMatrix(("a", "b", "c"), np.array(TABLE))
    assert matrix.average_final == pytest.approx(2 / 3)
    assert matrix.own.tolist() == [0.8, 0.9, 0.5]
    assert matrix.averages.tolist() == pytest.approx([0.8, 0.8, 2 / 3])
    assert matrix.drops.tolist() == pytest.approx([0.2, 0.0, 0.0])
    assert matrix.mean_drop == pytest.approx(0.1)  # the last concept has nothing after it
    assert matrix.worst_drop == pytest.approx(0.2)
    assert matrix.retention.tolist() == pytest.approx([0.75, 1.0, 1.0])
    summary = matrix.summary()
    assert summary["retention"] == pytest.approx(0.875)
    assert summary["lowest_retention"] == pytest.approx(0.75)
    assert summary["average_own"] == pytest.approx(2.2 / 3)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_forgetting_matrix_matches_plain_loops(count):
    rng = np.random.default_rng(count)
    cells = {(j, i): float(rng.uniform(0.3, 1)) for j in range(count) for i in range(j + 1)}
    matrix = ForgettingMatrix.from_cells([f"c{i}" for i in range(count)], cells)
    last = count - 1
    drops = [cells[i, i] - cells[last, i] for i in range(last)]
    shares = [cells[last, i] / cells[i, i] for i in range(last)] or [1.0]
    summary = matrix.summary()
    assert summary["mean_drop"] == pytest.approx(sum(drops) / len(drops) if drops else 0, abs=1e-12)
    assert summary["worst_drop"] == pytest.approx(max([*drops, 0.0]), abs=1e-12)
    assert summary["retention"] == pytest.approx(sum(shares) / len(shares), abs=1e-12)
    assert summary["lowest_retention"] == pytest.approx(min(shares), abs=1e-12)
    assert summary["average_final"] == pytest.approx(
        sum(cells[last, i] for i in range(count)) / count, abs=1e-12
    )


def test_cells_above_the_diagonal_do_not_exist_and_rows_may_be_skipped():
    full = np.array([[0.8, 0.1, 0.1], [NAN, 0.9, 0.1], [0.6, 0.9, 0.5]])
    matrix = ForgettingMatrix(("a", "b", "c"), full)
    assert np.isnan(matrix.values[0, 1:]).all()
    assert full[0, 1] == 0.1  # the caller's own table is left alone
    data = matrix.to_dict()
    assert data["values"] == [[0.8, None, None], [None, 0.9, None], [0.6, 0.9, 0.5]]
    assert data["mean_drop"] == pytest.approx(0.1)


def test_forgetting_matrix_refuses():
    with pytest.raises(CidmError, match=r"shape \(1, 2\)"):
        ForgettingMatrix(("a", "b"), np.ones((1, 2)))
    with pytest.raises(CidmError, match="the diagonal"):
        ForgettingMatrix.from_cells(["a", "b"], {(1, 0): 1.0, (1, 1): 1.0})
    with pytest.raises(CidmError, match="nothing to keep"):
        _ = ForgettingMatrix(("a",), np.array([[-0.1]])).retention
    assert ForgettingMatrix(("a",), np.array([[-0.1]])).to_dict()["retention"] is None


def test_oracle_gap():
    assert oracle_gap({"a": 0.5, "b": 0.7}, {"b": 0.8, "a": 0.5}) == pytest.approx(0.05)
    with pytest.raises(CidmError, match="missing: b"):
        oracle_gap({"a": 0.5}, {"a": 0.5, "b": 0.8})
    with pytest.raises(CidmError, match="both scores"):
        oracle_gap({}, {})


# --- confusion -----------------------------------------------------------------------------------


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def test_nearest_concepts_match_plain_loops():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    photos = [torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (3, 5, 4)]
    expected = []
    for one in pictures.tolist():
        means = [sum(cosine(one, p) for p in each.tolist()) / len(each) for each in photos]
        expected.append(means.index(max(means)))
    assert nearest_concepts(pictures, photos).tolist() == expected


def test_confusion_by_hand():
    found = Confusion.from_pairs("abc", [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 2, 1])
    assert found.counts.tolist() == [[3, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert found.shares[:2].tolist() == [[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]]
    assert np.isnan(found.shares[2]).all()  # nobody asked for it
    assert found.accuracy == pytest.approx(0.625)
    assert found.worst() == [("b", "c", 0.5), ("a", "b", 0.25)]
    assert found.to_dict()["counts"][0] == [3, 1, 0]
    assert Confusion.from_pairs("a", [], []).to_dict()["accuracy"] is None


def test_confusion_refuses():
    with pytest.raises(CidmError, match="1 pictures were asked and 2 judged"):
        Confusion.from_pairs("ab", [0], [0, 1])
    with pytest.raises(CidmError, match="none of 0 to 1"):
        Confusion.from_pairs("ab", [0], [2])


def test_attribute_confusion_is_being_nearest_to_another_of_the_scene():
    # one picture each: right, swapped, like a stranger, a tie of both
    rows = [[0.9, 0.1, 0.2], [0.1, 0.9, 0.2], [0.1, 0.2, 0.9], [0.9, 0.9, 0.1]]
    table = torch.tensor([[row, [0.0, 1.0, 0.0]] for row in rows], dtype=torch.float64)
    assert present(table)[:, 0].tolist() == [True, False, False, True]
    assert confused(table)[:, 0].tolist() == [False, True, False, False]
    assert not confused(table)[:, 1].any()


def test_regions_may_belong_to_any_concepts():
    generator = torch.Generator().manual_seed(4)
    table = torch.rand(50, 2, 5, generator=generator, dtype=torch.float64)
    own = [3, 1]
    for k, name in enumerate(own):
        nearest = [row.index(max(row)) for row in table[:, k].tolist()]
        assert present(table, own)[:, k].tolist() == [n == name for n in nearest]
        assert confused(table, own)[:, k].tolist() == [n in own and n != name for n in nearest]
    with pytest.raises(CidmError, match="one concept for each region"):
        present(table, [0])
    with pytest.raises(CidmError, match="one concept for each region"):
        confused(table, [0, 5])


# --- copies --------------------------------------------------------------------------------------


def noise(seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_similarities_match_plain_loops():
    first, second = pixels([noise(0), noise(1)], 4), pixels([noise(2), noise(3), noise(0)], 4)
    assert first.dtype == np.float64
    for i, a in enumerate(first.tolist()):
        for j, b in enumerate(second.tolist()):
            mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
            pearson = cosine([x - mean_a for x in a], [y - mean_b for y in b])
            close = 1 - sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)
            assert correlations(first, second)[i, j] == pytest.approx(pearson, abs=1e-12)
            assert closeness(first, second)[i, j] == pytest.approx(close, abs=1e-12)
    a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert cosines(a, b).tolist() == [[pytest.approx(0.6)], [0.0]]


def test_flat_pictures_correlate_with_nothing():
    flat = pixels([Image.new("RGB", (8, 8), (77, 77, 77))])
    assert correlations(flat, flat).tolist() == [[0.0]]
    assert closeness(flat, flat).tolist() == [[1.0]]


def test_pictures_of_any_size_are_compared():
    big = noise(5, (64, 64))
    assert pixels([big, noise(6)]).shape == (2, 32 * 32 * 3)
    assert pixels([]).shape == (0, 32 * 32 * 3)


def test_copies_are_found_and_others_are_not():
    # as photos of one thing are: all have something in common
    photos = 0.6 * pixels([noise(99)]) + 0.4 * pixels([noise(n) for n in range(4)])
    jitter = np.random.default_rng(9).normal(0, 0.05, photos[:2].shape)
    drawn = np.concatenate([photos[:2] + jitter, pixels([noise(n) for n in range(10, 16)])])
    for measure in (correlations, closeness):
        found = copy_check(measure(drawn, photos), measure(photos, photos), measure(drawn, drawn))
        assert found.share == pytest.approx(2 / 8)
        copies = copy_check(measure(drawn[:2], photos), measure(photos, photos))
        assert (copies.share, copies.nearest > found.photos) == (1.0, True)
        assert found.threshold >= found.photos
        assert found.seeds is not None
    assert copy_check(measure(drawn, photos), measure(photos, photos)).seeds is None


def test_copy_check_by_hand():
    to_photos = np.array([[0.9, 0.1], [0.3, 0.4], [0.5, 0.2]])
    among = np.array([[1.0, 0.5], [0.5, 1.0]])
    seeds = np.array([[1.0, 0.2, 0.3], [0.2, 1.0, 0.1], [0.3, 0.1, 1.0]])
    found = copy_check(to_photos, among, seeds)
    assert found.nearest == pytest.approx(1.8 / 3)
    assert (found.photos, found.threshold) == (0.5, 0.5)
    assert found.seeds == pytest.approx(0.8 / 3)
    assert found.share == pytest.approx(1 / 3)  # as near as two photos is not nearer
    assert set(found.to_dict()) == {"nearest", "photos", "seeds", "threshold", "share"}
    assert among[0, 0] == 1.0  # the caller's own table is left alone


def test_copy_check_refuses():
    with pytest.raises(CidmError, match="two photos or more"):
        copy_check(np.ones((3, 1)), np.ones((1, 1)))
    with pytest.raises(CidmError, match="two photos or more"):
        copy_check(np.ones((3, 2)), np.ones((3, 3)))
    with pytest.raises(CidmError, match="not of two or more"):
        copy_check(np.ones((3, 2)), np.ones((2, 2)), np.ones((3, 2)))
