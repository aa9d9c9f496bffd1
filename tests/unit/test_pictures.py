"""Drawings say what the numbers say, and no text leaves its place or covers another."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cidm_core.pictures import canvas as canvas_module
from cidm_core.pictures.axes import linear_ticks, log_ticks, tick_label
from cidm_core.pictures.canvas import PALETTE, Canvas, fit, text_width, wrap
from cidm_core.pictures.layout import layout_picture
from cidm_core.pictures.likeness import Point, likeness_picture
from cidm_core.pictures.losses import loss_picture, losses_picture, smooth
from cidm_core.pictures.masks import MaskedPhoto, masks_picture
from cidm_core.pictures.sheets import Row, beside, contact_sheet, grid, stack
from cidm_core.pictures.weights import weights_picture

LAYERS = [
    *(
        f"down_blocks.{i}.attentions.{j}.transformer_blocks.0.attn2"
        for i in range(3)
        for j in range(2)
    ),
    "mid_block.attentions.0.transformer_blocks.0.attn2",
    *(
        f"up_blocks.{i}.attentions.{j}.transformer_blocks.0.attn2"
        for i in (1, 2, 3)
        for j in range(3)
    ),
]
LONG = "a <dog1> <dog2> sleeping on an unmade bed in a small bedroom, early light, wide angle " * 3


@pytest.fixture
def text_boxes(monkeypatch):
    """Collect the pixel box of every text; check each lies on its sheet and covers no other."""
    seen = []
    finish = Canvas.finish

    def checked(self):
        draw = ImageDraw.Draw(Image.new("RGB", (self.width, self.height)))
        boxes = []
        for x, y, text, size, _, anchor, _ in self._texts:
            if not text:
                continue
            box = draw.textbbox((x, y), text, canvas_module.font(size), anchor=anchor)
            assert min(box[0], box[1]) >= 0, text
            assert max(box[2] - 1 - self.width, box[3] - self.height) <= 0, text
            for other, said in boxes:
                apart = box[2] <= other[0] or other[2] <= box[0]
                assert apart or box[3] <= other[1] or other[3] <= box[1], (text, said)
            boxes.append((box, text))
        seen.append(boxes)
        return finish(self)

    monkeypatch.setattr(Canvas, "finish", checked)
    return seen


def count(picture, color, tolerance=3):
    gap = np.abs(np.asarray(picture, int) - np.array(color)).max(-1)
    return gap <= tolerance


def test_text_is_cut_to_its_width():
    for width in (0, 5, 40, 100, 300):
        assert text_width(fit(LONG, 14, width), 14) <= max(width, 0)
        assert all(text_width(line, 14) <= width for line in wrap(LONG, 14, width, 3))
    assert fit("short", 14, 300) == "short"
    assert fit(LONG, 14, 120).endswith("...")
    assert wrap("one two", 14, 300) == ["one two"]
    assert len(wrap(LONG, 14, 120, 3)) == 3
    assert fit("Pérou \u2013 “x”\n y", 14, 300) == 'Perou - "x" y'


def test_ticks_are_round_and_inside():
    assert linear_ticks(0, 1.04) == pytest.approx([0, 0.5, 1.0]) or len(linear_ticks(0, 1.04)) <= 7
    assert linear_ticks(0, 800, 8) == [0, 100, 200, 300, 400, 500, 600, 700, 800]
    assert linear_ticks(3, 3) == [3]
    assert log_ticks(1e-3, 1e0) == pytest.approx([1e-3, 1e-2, 1e-1, 1])
    assert len(log_ticks(1e-8, 1e2)) <= 6
    assert (tick_label(0.05), tick_label(1e-7), tick_label(200)) == ("0.05", "1e-7", "200")


def test_smooth_is_a_mean_that_skips_gaps():
    values = np.array([1.0, math.nan, 3.0, 5.0])
    np.testing.assert_allclose(smooth(values, 1), [1.0, 2.0, 4.0, 4.0])
    assert np.isnan(smooth(np.array([math.nan]), 3)).all()


def test_loss_curve_falls_from_left_to_right(text_boxes):
    others = {"lr_tokens.text_encoder": 1e-3, "grad_norm": 3.0, "seconds": 1.0, "skipped": False}
    rows = [
        {"step": i, "loss": 9, "denoise": 1 / (1 + i / 50), "r1": 1e-3, **others}
        for i in range(400)
    ]
    picture = loss_picture(rows, LONG)
    curve = count(picture.crop((76, 80, 740, 332)), PALETTE[0])
    heights = [np.nonzero(curve[:, x])[0].mean() for x in (5, 300, 640)]
    assert heights[0] < heights[1] < heights[2]
    assert count(picture, PALETTE[1]).sum() > 400, "R1 has its own line"
    texts = [text for _, text in text_boxes[0]]
    assert "step" in texts
    assert "denoising loss" in texts
    assert "R1 orthogonality" in texts
    assert not any(text.startswith(("lr", "grad", "sec", "skip")) for text in texts)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "loss": 0.3}],
        [{"step": 1, "loss": math.nan}],
        [{"step": i, "loss": 0.0, "r1": 0.0} for i in range(3)],
        [
            {"step": i, "loss": 10.0**i, "r1": 10.0**-i, "r2": 1.0, "a long name " * 4: 3.0}
            for i in range(9)
        ],
        [{"step": 1, "denoise": 1.0, "R1": 0.1, "R2": 0.2, "x": 0.3, "y": 0.4}],
        [{"loss": 1.0}, {}, {"loss": math.inf}, {"loss": 0.5, "phase": "x"}],
    ],
)
def test_loss_picture_of_odd_rows(rows, text_boxes):
    assert loss_picture(rows).width == 760


def test_a_spike_does_not_flatten_the_curve():
    rows = [{"step": i, "denoise": 0.2 + 0.1 * (i % 2)} for i in range(300)]
    rows[150]["denoise"] = 500.0
    curve = np.nonzero(count(loss_picture(rows), PALETTE[0])[80:332].any(1))[0]
    assert 80 < 252 - np.median(curve) < 170, "the curve uses the middle of the panel"


@pytest.mark.parametrize("width", [480, 760])
def test_several_runs_share_one_frame(width, text_boxes):
    runs = {
        LONG: [{"step": i, "denoise": 0.9} for i in range(1, 101)],
        "short": [{"step": i, "denoise": 0.3} for i in range(1, 51)],
        "none": [],
    }
    picture = losses_picture(runs, LONG, width)
    assert picture.width == width
    panel = picture.crop((76, 90, width - 24, 328))
    high, low = (np.nonzero(count(panel, PALETTE[i])) for i in (0, 1))
    assert high[0].mean() < low[0].mean()
    assert high[1].max() > 1.9 * low[1].max(), "the shorter run ends half way"
    assert losses_picture({}).width == 760


def bar_length(picture, index):
    row = count(picture, PALETTE[index % len(PALETTE)])
    return int(row[:, 180:350].sum(1).max())


def test_weight_bars_are_the_means(text_boxes):
    weights = np.zeros((16, 3))
    weights[:, 0], weights[:, 1] = 0.8, 0.2
    picture = weights_picture(["dog", LONG, "cat"], LAYERS, weights, LONG)
    lengths = [bar_length(picture, i) for i in range(3)]
    assert lengths[0] == pytest.approx(168, abs=2)
    assert lengths[1] == pytest.approx(168 / 4, abs=2)
    assert lengths[2] == 0
    texts = [text for _, text in text_boxes[0]]
    assert {"dog", "0.80", "0.20", "0.00", "d0", "m", "u3"} <= set(texts)


def test_heat_strip_shows_the_layer():
    weights = np.zeros((16, 1))
    weights[4] = 1.0
    picture = np.asarray(weights_picture(["dog"], LAYERS, weights), int)
    strip = 428
    dark = picture[88, strip:736].sum(-1) < 400
    left, right = np.nonzero(dark)[0][[0, -1]]
    cell = (736 - strip) / 16
    assert left == pytest.approx(4 * cell, abs=1)
    assert right == pytest.approx(5 * cell - 1, abs=1)


@pytest.mark.parametrize(("layers", "concepts"), [(16, 0), (16, 1), (70, 3), (5, 100), (0, 2)])
def test_weights_of_any_size(layers, concepts, text_boxes):
    rng = np.random.default_rng(0)
    names = [f"concept {i}" for i in range(concepts)]
    paths = (LAYERS * 5)[:layers]
    picture = weights_picture(names, paths, rng.random((layers, concepts)))
    assert picture.height < 1200
    if concepts == 100:
        assert any("76" in text for _, text in text_boxes[0])


def region(prompt, box=None, mask=None):
    return SimpleNamespace(prompt=prompt, box=box, mask=mask)


def test_layout_tints_the_box_and_nothing_else(text_boxes):
    boxes = [region(LONG, (0.5, 0.0, 1.0, 0.5)), region("b", (0.5, 0.0, 1.0, 0.5))]
    picture = np.asarray(layout_picture(boxes, 64, 32), int)
    field = picture[16 : 16 + 240, 16 : 16 + 480]
    inside, outside = field[60, 360], field[180, 100]
    assert np.abs(inside - outside).max() > 40
    assert outside.min() > 240
    texts = [text for _, text in text_boxes[0]]
    assert texts.count("1") == 2, "one number on the box, one in the key"


def test_layout_draws_masks_and_pictures():
    mask = np.zeros((8, 8))
    mask[4:, :4] = 1
    photo = Image.new("RGB", (32, 32), (250, 250, 0))
    picture = np.asarray(layout_picture([region("m", mask=mask)], 32, 32, photo), int)
    assert tuple(picture[16 + 60, 16 + 400]) == (250, 250, 0)
    assert tuple(picture[16 + 400, 16 + 60]) != (250, 250, 0)
    assert layout_picture([], 8, 4000).height < 700


def test_likeness_stands_against_every_measure(text_boxes):
    names = ("cat", "another cat with a very long name indeed", "teal cat", "dog", "harbour")
    points = [
        Point(
            name,
            "cidm" if k % 2 else "custom_diffusion",
            (0.4, 0.5 + 0.002 * k, 0.6),
            {"distance": (0.9, 1 + 0.01 * k, 1.2), "divergence": (0, 0.1 * k, 0.1 * k + 0.2)},
        )
        for k, name in enumerate(names)
    ]
    picture = likeness_picture(points)
    texts = [text for _, text in text_boxes[0]]
    assert {"cat", "dog", "distance", "divergence", "cidm", "custom_diffusion"} <= set(texts)
    assert count(picture, PALETTE[0]).sum() > 2 * 3 * 50  # dots of one method, in both frames
    assert count(picture, PALETTE[1]).sum() > 2 * 2 * 50
    likeness_picture([Point("x", "cidm", (0, 0, 0), {"distance": (0, 0, 0)})])


def test_masks_stand_beside_their_photos(text_boxes):
    red = Image.new("RGB", (300, 200), PALETTE[1])
    half = np.zeros((200, 300), np.float32)
    half[:, :150] = 1
    picture = masks_picture([MaskedPhoto("a.png", red, half), MaskedPhoto("b.png", red, None)])
    texts = [text for _, text in text_boxes[0]]
    assert {"a.png", "50 % of it counts.", "No mask: all of it counts."} <= set(texts)
    # Once whole and once half; then twice whole.
    assert count(picture, PALETTE[1]).sum() == pytest.approx(3.5 * 150 * 100, rel=0.02)
    assert count(picture, (0, 0, 0)).sum() == pytest.approx(0.5 * 150 * 100, rel=0.1)


def test_grid_keeps_order():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    images = [Image.new("RGB", (32, 16), c) for c in colors]
    picture = grid(images, 2, 128)
    assert picture.getpixel((12 + 64, 12 + 64)) == colors[0]
    assert picture.getpixel((12 + 140 + 64, 12 + 64)) == colors[1]
    assert picture.getpixel((12 + 64, 12 + 140 + 64)) == colors[2]
    assert picture.size == (2 * 140 + 12, 2 * 140 + 12)


def test_contact_sheet_puts_groups_in_columns(text_boxes):
    red, blue = Image.new("RGB", (32, 32), (200, 0, 0)), Image.new("RGB", (32, 32), (0, 0, 200))
    rows = [Row("dog", LONG, [[red] * 3, [blue] * 2]), Row(LONG, "note", [[red], []])]
    sheet = contact_sheet(rows, ["photos", LONG], "A title", LONG, tile_px=100)
    left = np.nonzero(count(sheet, (200, 0, 0)))[1].max()
    right = np.nonzero(count(sheet, (0, 0, 200)))[1].min()
    assert right - left > 20
    assert count(sheet, (200, 0, 0)).sum() == 4 * 100 * 100
    assert sheet.width < 1100
    assert contact_sheet([]).width > 0


def test_pictures_stand_beside_one_another_under_their_titles(text_boxes):
    green = Image.new("RGB", (300, 100), (0, 200, 0))
    sheet = beside([("Regions", green), (LONG, green), ("", green)])
    assert count(sheet, (0, 200, 0)).sum() == 3 * 300 * 100
    assert sheet.width < 1100


def test_stack_keeps_every_pixel():
    a, b = Image.new("RGB", (30, 10), (9, 9, 9)), Image.new("L", (10, 20), 7)
    sheet = stack([a, b], gap=5)
    assert sheet.size == (30, 35)
    assert sheet.getpixel((0, 15)) == (7, 7, 7)


def test_pictures_are_deterministic():
    rows = [{"step": i, "loss": 0.1 * (i % 3)} for i in range(20)]
    assert loss_picture(rows).tobytes() == loss_picture(rows).tobytes()
