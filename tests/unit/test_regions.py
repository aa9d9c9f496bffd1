"""Regions: boxes and masks on the latent grid, soft edges, and what is said about bad ones."""

import math

import numpy as np
import pytest
import torch
from examples import few
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from cidm_core.errors import RegionError
from cidm_core.regions import Region, masks_at, parse_region

CELL = 1 / 16


def box(*edges):
    return Region("a cat", box=edges)


@st.composite
def boxes(draw):
    """Boxes of at least one cell on a grid of 16 x 16."""
    x0, y0 = draw(st.floats(0, 1 - CELL)), draw(st.floats(0, 1 - CELL))
    return x0, y0, draw(st.floats(x0 + CELL, 1)), draw(st.floats(y0 + CELL, 1))


def test_hard_box_by_hand():
    expected = torch.zeros(4, 8)
    expected[1:3, 2:6] = 1
    assert torch.equal(box(0.25, 0.25, 0.75, 0.75).mask_at(4, 8), expected)


@given(boxes())
@few
def test_hard_box_holds_the_cells_whose_centre_lies_inside(edges):
    x0, y0, x1, y1 = edges
    found = box(*edges).mask_at(16, 16).tolist()
    near = 1e-5  # centres on an edge belong to either side
    for y in range(16):
        for x in range(16):
            cx, cy = (x + 0.5) / 16, (y + 0.5) / 16
            if min(abs(cx - x0), abs(cx - x1), abs(cy - y0), abs(cy - y1)) < near:
                continue
            assert found[y][x] == float(x0 < cx < x1 and y0 < cy < y1)


@given(st.floats(0.07, 0.93), st.integers(1, 3).map(lambda n: n * 7))
@few
def test_boxes_that_touch_share_no_cell_and_leave_none(edge, size):
    assume(min(edge, 1 - edge) * size >= 1)
    left, right = box(0, 0, edge, 1), box(edge, 0, 1, 1)
    assert torch.equal(left.mask_at(size, size) + right.mask_at(size, size), torch.ones(size, size))


@given(boxes(), st.sampled_from([16, 33, 64]))
@few
def test_a_box_of_a_cell_or_more_is_never_lost(edges, size):
    assert box(*edges).mask_at(size, size).sum() >= 1


@given(boxes())
@few
def test_a_tiny_feather_is_the_hard_box(edges):
    centres = (torch.arange(16) + 0.5) / 16
    distance = min(float((centres - edge).abs().min()) for edge in edges)
    assume(distance > 1e-3)  # a centre on the edge is half inside
    region = box(*edges)
    assert_close(region.mask_at(16, 16, feather=1e-5), region.mask_at(16, 16))


@pytest.mark.parametrize("feather", [0.0, 0.05, 0.3, 0.5])
def test_the_full_frame_is_one_everywhere(feather):
    assert torch.equal(box(0, 0, 1, 1).mask_at(16, 24, feather), torch.ones(16, 24))
    mask = Region("a cat", mask=torch.ones(5, 5))
    assert_close(mask.mask_at(16, 24, feather), torch.ones(16, 24))


@given(boxes(), st.floats(0, 0.5))
@few
def test_soft_edges_only_fall_outwards(edges, feather):
    found = box(*edges).mask_at(16, 16, feather)
    assert found.min() >= 0
    assert found.max() <= 1
    for line in (found.amax(0), found.amax(1)):  # rises, then falls
        steps = line.diff()
        top = int(line.argmax())
        assert (steps[:top] >= -1e-6).all()
        assert (steps[top:] <= 1e-6).all()


def test_feather_is_the_width_of_the_ramp_around_the_edge():
    line = box(0.5, 0, 1, 1).mask_at(16, 16, feather=0.25)[8]  # 4 cells, from 6 to 10
    assert (line[:6] == 0).all()
    assert (line[10:] == 1).all()
    inner = line[6:10]
    assert ((inner > 0) & (inner < 1)).all()
    assert_close(inner + inner.flip(0), torch.ones(4))  # half on the edge itself


def test_feather_is_a_share_of_the_shorter_side():
    wide = box(0.5, 0, 1, 1).mask_at(8, 32, feather=0.25)[4]  # 2 cells, from 15 to 17
    assert int(((wide > 0) & (wide < 1)).sum()) == 2


@given(st.floats(0.3, 0.7), st.floats(0.01, 0.3))
@few
def test_soft_neighbours_tile_the_picture(edge, feather):
    left, right = box(0, 0, edge, 1), box(edge, 0, 1, 1)
    total = left.mask_at(16, 16, feather) + right.mask_at(16, 16, feather)
    assert_close(total, torch.ones(16, 16))


def test_a_thin_box_keeps_its_full_strength_in_the_middle():
    found = box(0.40625, 0, 0.59375, 1).mask_at(16, 16, feather=0.5)  # 3 cells wide
    assert_close(found[8, 8], torch.tensor(found.max().item()))
    assert found.max() > 0.9  # 1 on the very axis, which lies between two cells


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ((0.5, 0.1, 0.5, 0.9), "has no width: x0 is 0.5, x1 is 0.5. Give x1 > x0"),
        ((0.1, 0.9, 0.5, 0.2), "has no height: y0 is 0.9, y1 is 0.2. Give y1 > y0"),
        ((0.1, 0.1, math.nan, 0.9), "(0.1, 0.1, nan, 0.9) of region 'a cat' must hold finite"),
        ((0.1, -math.inf, 0.5, 0.9), "must hold finite numbers"),
        ((-0.1, 0.1, 0.5, 0.9), "reaches outside the picture"),
        ((0.1, 0.1, 0.5, 1.01), "reaches outside the picture"),
        ((10, 20, 200, 300), "shares of its width and height, 0 to 1"),
        ((0.1, 0.1, 0.5), "has 3 numbers. Give four"),
    ],
)
def test_bad_boxes_are_explained(edges, message):
    with pytest.raises(RegionError) as caught:
        box(*edges)
    assert message in str(caught.value)


def test_rounding_beyond_the_border_is_forgiven():
    assert box(-1e-9, 0, 1 + 1e-9, 1).box == (0, 0, 1, 1)


def test_a_box_smaller_than_a_cell_names_the_sizes():
    region = box(0.1, 0.1, 0.11, 0.2)
    with pytest.raises(RegionError) as caught:
        region.mask_at(64, 64)
    expected = "its box is 5.1 x 51.2 px in a picture of 512 x 512 px. Make it at least 8 x 8 px."
    assert expected in str(caught.value)
    with pytest.raises(RegionError, match=r"Make it at least 4 x 4 px"):
        region.mask_at(8, 8, cell_px=4)
    assert region.mask_at(128, 128).sum() >= 1  # the same box in a larger picture


def test_exactly_one_cell_is_enough():
    for index in range(60):
        found = box(index / 60, 0, (index + 1) / 60, 1).mask_at(60, 60)
        assert found.sum() == 60


@pytest.mark.parametrize("feather", [-0.1, 0.6, math.nan])
def test_feather_out_of_range_is_explained(feather):
    with pytest.raises(RegionError, match=r"0 to 0\.5"):
        box(0, 0, 1, 1).mask_at(8, 8, feather)


def test_a_region_needs_a_prompt_and_either_a_box_or_a_mask():
    with pytest.raises(RegionError, match="no prompt"):
        Region("  ", box=(0, 0, 1, 1))
    with pytest.raises(RegionError, match="has neither"):
        Region("a cat")
    with pytest.raises(RegionError, match="has both"):
        Region("a cat", box=(0, 0, 1, 1), mask=torch.ones(2, 2))


def test_mask_is_averaged_over_cells():
    mask = torch.zeros(4, 4)
    mask[:2, :3] = 1
    assert Region("a cat", mask=mask).mask_at(2, 2).tolist() == [[1, 0.5], [0, 0]]


def half_black():
    grey = np.zeros((8, 8), dtype=np.uint8)
    grey[:, 4:] = 255
    return grey


@pytest.mark.parametrize(
    "mask",
    [
        half_black(),
        half_black() > 0,
        half_black().astype(np.float64) / 255,
        half_black().astype(np.uint16) * 257,
        torch.from_numpy(half_black()),
        torch.from_numpy(half_black() / 255.0)[None],
        Image.fromarray(half_black()),
        Image.fromarray(half_black()).convert("RGB"),
        Image.fromarray(half_black()).convert("1"),
        Image.fromarray(half_black()).convert("P"),
    ],
    ids=["uint8", "bool", "float", "uint16", "tensor", "batch", "L", "RGB", "1", "P"],
)
def test_masks_come_in_many_kinds(mask):
    found = Region("a cat", mask=mask).mask_at(4, 4)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 4))


def test_the_mask_is_a_copy():
    mask = torch.ones(4, 4)
    region = Region("a cat", mask=mask)
    mask.zero_()
    assert region.mask_at(4, 4).sum() == 16


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(4, 4), "is empty"),
        (torch.full((4, 4), math.nan), "NaN or infinite"),
        (torch.full((4, 4), 1.5), "values from 1.5 to 1.5; expected 0 to 1"),
        (torch.full((4, 4), -0.5), "Scale it"),
        (torch.ones(4), "has shape (4,)"),
        (torch.ones(2, 4, 4), "has shape (2, 4, 4)"),
        (torch.ones(0, 4), "has shape (0, 4)"),
        (np.array([["a", "b"]]), "holds no numbers"),
    ],
)
def test_bad_masks_are_explained(mask, message):
    with pytest.raises(RegionError) as caught:
        Region("a cat", mask=mask)
    assert message in str(caught.value)


def test_a_mask_smaller_than_a_cell_names_the_sizes():
    mask = torch.zeros(64, 64)
    mask[10:14, 10:14] = 1  # 16 of 4096 points: a quarter of a cell at 8 x 8
    with pytest.raises(RegionError, match=r"covers 16 px of 64 x 64. Paint at least 8 x 8 px"):
        Region("a cat", mask=mask).mask_at(8, 8)
    assert Region("a cat", mask=mask).mask_at(16, 16).sum() == 1


def test_feather_blurs_masks_inwards_and_outwards_alike():
    mask = torch.zeros(16, 16)
    mask[:, 8:] = 1
    region = Region("a cat", mask=mask)
    assert torch.equal(region.mask_at(16, 16, 0.0), mask)
    line = region.mask_at(16, 16, 0.25)[8]
    assert (line.diff() >= 0).all()
    assert_close(line + line.flip(0), torch.ones(16))
    assert 0 < line[7] < line[8] < 1
    assert line[0] == 0
    assert line[-1] == 1  # the border of the picture stays hard


def test_feather_leaves_thin_masks_their_peak():
    mask = torch.zeros(16, 16)
    mask[:, 8] = 1
    assert_close(Region("a cat", mask=mask).mask_at(16, 16, 0.25).max(), torch.tensor(1.0))


def test_masks_at_stacks_and_numbers_the_regions():
    regions = [box(0, 0, 0.5, 1), box(0.5, 0, 1, 1)]
    found = masks_at(regions, 8, 8, 0.1)
    assert found.shape == (2, 8, 8)
    assert torch.equal(found[1], regions[1].mask_at(8, 8, 0.1))
    assert masks_at([], 8, 8).shape == (0, 8, 8)
    with pytest.raises(RegionError, match=r"Region 2 of 2: Region 'a cat' is smaller"):
        masks_at([regions[0], box(0, 0, 0.01, 1)], 8, 8)


def test_parse_reads_the_command_line_form():
    region = parse_region("0.05, 0.3,.45,1:a <dog1> <dog2>: on the bed ")
    assert region.box == (0.05, 0.3, 0.45, 1.0)
    assert region.prompt == "a <dog1> <dog2>: on the bed"
    assert region.negative is None


@pytest.mark.parametrize(
    "text", ["", "a cat", "0,0,1:a cat", "0,0,1,1,1:a", "0,0,1,one:a", "0,0,1,1"]
)
def test_parse_shows_the_form_it_expects(text):
    with pytest.raises(RegionError, match=r"for example '0.05,0.3,0.45,0.95:a dog on the bed'"):
        parse_region(text)


@pytest.mark.parametrize("text", ["0,0,nan,1:a", "0,0,2,1:a", "0,0,1,1:", "0,0,0,1:a"])
def test_parse_checks_what_it_reads(text):
    with pytest.raises(RegionError):
        parse_region(text)
