"""Eq. 4 and 5 (region noise estimation) against references written from the formulas."""

import pytest
import torch
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from cidm_core.errors import RegionError
from cidm_core.ops import guidance
from cidm_core.regions import Region, masks_at

DOUBLE = torch.float64
MODES = ("partition", "literal")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def boxes(*edges, size=8):
    """Hard masks of spans of columns."""
    masks = torch.zeros(len(edges), size, size, dtype=DOUBLE)
    for mask, (start, stop) in zip(masks, edges, strict=True):
        mask[:, start:stop] = 1
    return masks


def reference(e, regions, masks, alpha, mode):
    """Pixel by pixel: alpha * E + sum_u (1 - alpha) * E_u * m_u, or its partition of unity."""
    out = torch.zeros_like(e)
    for y in range(e.shape[2]):
        for x in range(e.shape[3]):
            m = [float(mask[y, x]) for mask in masks]
            if mode == "literal":
                share, shares = alpha, [(1 - alpha) * value for value in m]
            else:
                cover = sum(m)
                share = 1 - (1 - alpha) * min(1.0, cover)
                shares = [(1 - alpha) * value / max(1.0, cover) for value in m]
            out[:, :, y, x] = share * e[:, :, y, x]
            for weight, estimate in zip(shares, regions, strict=True):
                out[:, :, y, x] += weight * estimate[:, :, y, x]
    return out


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_eq5_combine_equals_the_loops(mode, alpha):
    e, regions = draw(2, 4, 8, 8), draw(3, 2, 4, 8, 8, seed=1)
    masks = draw(3, 8, 8, seed=2).sigmoid()  # soft, overlapping
    found = guidance.combine(e, regions, masks, alpha, mode)
    assert_close(found, reference(e, regions, masks, alpha, mode))


def test_eq4_classifier_free_by_hand():
    cond, uncond = torch.tensor([3.0]), torch.tensor([1.0])
    assert guidance.classifier_free(cond, uncond, 7.5).item() == 1 + 7.5 * 2
    assert guidance.classifier_free(cond, uncond, 1).item() == 3
    assert guidance.classifier_free(cond, uncond, 0).item() == 1


def test_eq4_regions_share_one_unconditional_row():
    cond, uncond = draw(3, 1, 4, 8, 8), draw(1, 4, 8, 8, seed=1)
    together = guidance.classifier_free(cond, uncond[None], 7.5)
    for row, one in zip(cond, together, strict=True):
        assert_close(guidance.classifier_free(row, uncond, 7.5), one)


def test_eq5_by_hand():
    """Columns: outside | in A only | in A and B | in B only, alpha 0.1."""
    e = torch.full((1, 1, 1, 4), 100.0, dtype=DOUBLE)
    regions = torch.stack([torch.full_like(e, 10.0), torch.full_like(e, 20.0)])
    masks = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 1, 1]]], dtype=DOUBLE)
    partition = guidance.combine(e, regions, masks, 0.1, "partition").flatten().tolist()
    assert partition == pytest.approx([100, 10 + 9, 10 + 4.5 + 9, 10 + 18])
    literal = guidance.combine(e, regions, masks, 0.1, "literal").flatten().tolist()
    assert literal == pytest.approx([10, 10 + 9, 10 + 9 + 18, 10 + 18])


def test_eq5_literal_leaves_a_tenth_outside_and_partition_leaves_all():
    e, regions = draw(1, 4, 8, 8), draw(1, 1, 4, 8, 8, seed=1)
    masks = boxes((0, 4))
    outside = (..., slice(4, 8))
    assert_close(guidance.combine(e, regions, masks, 0.1, "literal")[outside], 0.1 * e[outside])
    assert torch.equal(guidance.combine(e, regions, masks, 0.1, "partition")[outside], e[outside])


@given(st.integers(1, 4), st.floats(0, 1), st.integers(0, 99))
@few
def test_eq5_partition_weights_sum_to_one(count, alpha, seed):
    masks = torch.rand(count, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    masks[masks < 0.3] = 0  # some pixels in no region
    share, shares = guidance.pixel_weights(masks, alpha)
    assert_close(share + shares.sum(0), torch.ones(4, 4, dtype=DOUBLE))
    assert (share >= 0).all()
    assert (shares >= 0).all()


def test_eq5_partition_serves_noise_and_denoised_alike():
    """Affine with weights that sum to 1: combining commutes with x - sigma * eps."""
    x, sigma = draw(1, 4, 8, 8, seed=3), 2.3
    eps, regions = draw(1, 4, 8, 8), draw(2, 1, 4, 8, 8, seed=1)
    masks = draw(2, 8, 8, seed=2).sigmoid()
    of_noise = x - sigma * guidance.combine(eps, regions, masks, 0.1)
    of_denoised = guidance.combine(x - sigma * eps, x - sigma * regions, masks, 0.1)
    assert_close(of_noise, of_denoised)


@pytest.mark.parametrize("mode", MODES)
def test_eq5_without_regions_nothing_changes(mode):
    e = draw(1, 4, 8, 8)
    found = guidance.combine(e, draw(0, 1, 4, 8, 8), torch.zeros(0, 8, 8), 0.1, mode)
    assert torch.equal(found, e)


@pytest.mark.parametrize("feather", [0.0, 0.3])
@pytest.mark.parametrize("mode", MODES)
def test_eq5_one_full_frame_region_with_the_same_prompt_is_plain_guidance(mode, feather):
    e = draw(1, 4, 8, 8)
    masks = masks_at([Region("a dog", box=(0, 0, 1, 1))], 8, 8, feather)
    assert_close(guidance.combine(e, e[None], masks, 0.1, mode), e)


@pytest.mark.parametrize("mode", MODES)
def test_eq5_order_of_regions_is_irrelevant(mode):
    e, regions = draw(1, 4, 8, 8), draw(3, 1, 4, 8, 8, seed=1)
    masks, order = boxes((0, 5), (3, 8), (2, 4)), [2, 0, 1]
    one = guidance.combine(e, regions, masks, 0.1, mode)
    assert_close(one, guidance.combine(e, regions[order], masks[order], 0.1, mode))


def test_eq5_a_region_twice_counts_once():
    e, regions = draw(1, 4, 8, 8), draw(1, 1, 4, 8, 8, seed=1)
    masks = boxes((1, 6))
    twice = guidance.combine(e, regions.repeat(2, 1, 1, 1, 1), masks.repeat(2, 1, 1), 0.1)
    assert_close(twice, guidance.combine(e, regions, masks, 0.1))


@pytest.mark.parametrize("mode", MODES)
def test_eq5_alpha_one_is_the_global_estimate_when_nothing_else_weighs(mode):
    e, regions = draw(1, 4, 8, 8), draw(2, 1, 4, 8, 8, seed=1)
    assert_close(guidance.combine(e, regions, boxes((0, 5), (3, 8)), 1.0, mode), e)


def test_bad_settings_name_what_is_allowed():
    with pytest.raises(RegionError, match=r"alpha is 1\.5"):
        guidance.pixel_weights(boxes((0, 4)), 1.5)
    with pytest.raises(RegionError, match="'partition' or 'literal'"):
        guidance.pixel_weights(boxes((0, 4)), 0.1, "mean")
