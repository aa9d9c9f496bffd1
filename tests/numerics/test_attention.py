"""Regional cross-attention (RCA, section 4.3) against references written from the formulas."""

import math

import pytest
import torch
from torch.testing import assert_close

from cidm_core.ops import attention

DOUBLE = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def reference_attention(query, key, value, heads):
    """softmax(q k^T / sqrt(d)) v by plain loops over batch, heads, queries and keys."""
    out = torch.zeros_like(query)
    d = query.shape[-1] // heads
    for b in range(query.shape[0]):
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            for i, q in enumerate(query[b, :, part]):
                logits = [float(q @ k) / math.sqrt(d) for k in key[b, :, part]]
                weights = [math.exp(x - max(logits)) for x in logits]
                for w, v in zip(weights, value[b, :, part], strict=True):
                    out[b, i, part] += w / sum(weights) * v
    return out


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_rca_attention_equals_the_loops(heads):
    query, key, value = draw(2, 5, 8), draw(2, 3, 8, seed=1), draw(2, 3, 8, seed=2)
    found = attention.scaled_dot_product(query, key, value, heads)
    assert_close(found, reference_attention(query, key, value, heads))


def test_rca_is_a_softmax_not_a_sigmoid():
    """Weights over the words sum to 1 (the paper's text says sigmoid, methods note 7)."""
    found = attention.scaled_dot_product(
        draw(1, 4, 6), draw(1, 5, 6, seed=1), torch.ones(1, 5, 6).double(), 2
    )
    assert_close(found, torch.ones(1, 4, 6, dtype=DOUBLE))


def test_rca_accepts_projections_that_are_not_contiguous():
    query, key, value = (draw(2, 8, n, seed=n).mT for n in (5, 3, 4))
    value = value[:, :3]
    found = attention.scaled_dot_product(query, key, value, 2)
    assert_close(found, reference_attention(query, key, value, 2))


def test_rca_shapes_are_checked_while_tests_run():
    """The annotations are executed: three keys cannot go with four values."""
    with pytest.raises(Exception, match="value"):
        attention.scaled_dot_product(draw(1, 2, 4), draw(1, 3, 4), draw(1, 4, 4), 2)


def reference_regions(base, branches, masks):
    out = torch.zeros_like(base)
    for q in range(base.shape[-2]):
        m = [float(mask[q]) for mask in masks]
        cover = sum(m)
        out[..., q, :] = base[..., q, :] * (1 - min(1.0, cover))
        for value, branch in zip(m, branches, strict=True):
            out[..., q, :] += branch[..., q, :] * value / max(1.0, cover)
    return out


@pytest.mark.parametrize("batch", [(), (3,)])
def test_rca_blend_equals_the_loops(batch):
    base, branches = draw(*batch, 6, 4), draw(3, *batch, 6, 4, seed=1)
    masks = draw(3, 6, seed=2).sigmoid()
    found = attention.blend_regions(base, branches, masks)
    assert_close(found, reference_regions(base, branches, masks))


def test_rca_by_hand():
    """Queries: outside | in A | in both | half in A."""
    base = torch.tensor([[8.0]] * 4)
    branches = torch.tensor([[[2.0]] * 4, [[4.0]] * 4])
    masks = torch.tensor([[0, 1, 1, 0.5], [0, 0, 1, 0]])
    assert attention.blend_regions(base, branches, masks).flatten().tolist() == [8, 2, 3, 5]


def test_rca_hard_masks_replace_inside_and_keep_outside_exactly():
    base, branches = draw(2, 6, 4), draw(1, 2, 6, 4, seed=1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 0]], dtype=DOUBLE)
    found = attention.blend_regions(base, branches, mask)
    assert torch.equal(found[:, [0, 1, 5]], base[:, [0, 1, 5]])
    assert torch.equal(found[:, 2:5], branches[0, :, 2:5])


def test_rca_one_region_is_mixed_in_by_its_mask():
    base, branch = draw(2, 6, 4), draw(2, 6, 4, seed=1)
    mask = draw(6, seed=2).sigmoid()
    expected = base * (1 - mask[:, None]) + branch * mask[:, None]
    assert_close(attention.blend_regions(base, branch[None], mask[None]), expected)


def test_rca_full_frame_region_is_that_regions_attention():
    base, branches = draw(2, 6, 4), draw(1, 2, 6, 4, seed=1)
    found = attention.blend_regions(base, branches, torch.ones(1, 6, dtype=DOUBLE))
    assert torch.equal(found, branches[0])


def test_rca_order_of_regions_is_irrelevant():
    base, branches = draw(6, 4), draw(3, 6, 4, seed=1)
    masks, order = draw(3, 6, seed=2).sigmoid(), [2, 0, 1]
    one = attention.blend_regions(base, branches, masks)
    assert_close(one, attention.blend_regions(base, branches[order], masks[order]))


def test_rca_without_regions_nothing_changes():
    base = draw(2, 6, 4)
    found = attention.blend_regions(base, draw(0, 2, 6, 4), torch.zeros(0, 6, dtype=DOUBLE))
    assert torch.equal(found, base)


def test_resize_by_hand():
    mask = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]])
    assert attention.resize_mask(mask, 1, 2).tolist() == [[[0.75, 0.0]]]


@pytest.mark.parametrize("size", [(4, 4), (2, 4), (3, 5), (8, 8), (13, 11)])
def test_resize_keeps_a_partition_of_the_picture(size):
    masks = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = masks / masks.sum(0)
    resized = attention.resize_mask(masks, *size)
    assert resized.shape == (3, *size)
    assert_close(resized.sum(0), torch.ones(size))
    assert (resized >= 0).all()


def test_resize_to_the_same_size_changes_nothing_and_knows_no_regions():
    masks = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(attention.resize_mask(masks, 8, 8), masks)
    assert attention.resize_mask(masks[:0], 4, 4).shape == (0, 4, 4)
