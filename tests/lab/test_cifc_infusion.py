"""Infusion beside CIDM and Custom Diffusion: masks of the small world, one table, over-fitting."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from learning_samples import photos

from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.clip import load_clip
from cidm_core.diffusers_host.load import load_base
from cidm_core.errors import CidmError
from cidm_core.evaluation import divergence, intervals, over_fitting
from cidm_core.mini.draw import Background, Placed, Thing, WorldScene, draw
from cidm_core.training.data import Photo
from lab.cifc.custom_diffusion import ways as custom_ways
from lab.cifc.infusion import run as run_module
from lab.cifc.infusion.ways import WAYS, Lessons
from lab.cifc.sizes import QUICK_RUN
from lab.cifc.tasks import mini as mini_tasks
from lab.cifc.tasks import mini_suite

LEARNS_LITTLE = {"steps": 2, "batch_size": 1, "variants": 1, "save_every": 0}
LITTLE = {"prompts": 2, "images": 1, "training": LEARNS_LITTLE, "sampling": {"steps": 1}}


@cache
def mini_sd():
    return load_base("mini-sd", device="cpu")


def run(folder, tasks=(0, 8), amounts=(0, 8, 2), ways=tuple(WAYS), **given):
    sizes, clip = replace(QUICK_RUN, tasks=tasks, **given), load_clip("mini-clip", "cpu")
    about = {"command": "test", "model": "mini-sd", "clip": "mini-clip"}
    suite, amounts = mini_suite(masks=True), run_module.Amounts(*amounts)
    return run_module.run(mini_sd(), clip, suite, sizes, folder, amounts, about, ways)


def test_the_small_world_knows_where_its_things_are():
    thing = Thing("ball", (1, 1, 1), (1, 1, 1), (0, 0, 0), "striped", outline=True)
    plain = Background("plain", (1, 0, 0), (1, 0, 0))
    scene = WorldScene((Placed(thing, 0.4, 0.6, 0.5),), plain)
    mask = mini_tasks._mask(scene)
    red = np.asarray(draw(replace(scene, things=())), dtype=float)
    black = np.asarray(draw(replace(scene, background=Background("plain", *[(0, 0, 0)] * 2))))
    # What is seen is the thing, and red where it is not.
    mixed = black + (1 - mask[..., None]) * red
    assert np.abs(mixed - np.asarray(draw(scene))).max() <= 2
    assert mask.min() == 0
    assert mask.max() == 1


def test_masks_change_no_photo_and_styles_have_none():
    for plain, masked in zip(mini_suite().tasks, mini_suite(masks=True).tasks, strict=True):
        for one, other in zip(plain.photos, masked.photos, strict=True):
            assert (one.caption, one.image.tobytes()) == (other.caption, other.image.tobytes())
            assert not one.has_mask
            assert other.has_mask == (masked.kind != "style")


@pytest.mark.parametrize("name", ["paper", "released", "one_stream"])
def test_infusion_is_asked_for(tmp_path, name):
    task = mini_suite(masks=True).tasks[8]
    lessons, way = Lessons(mini_sd(), [task], tmp_path, LEARNS_LITTLE), WAYS[name]
    concept = way.concept(lessons, task)
    assert concept.on_request
    assert concept.two_streams == (name != "released")
    asked = way.asking(SampleConfig(), way.bank(lessons, task))
    assert (asked.infuse, asked.second_stream) == ("V9-cat", float(name != "one_stream"))
    assert WAYS["none"].asking(SampleConfig(), {}).infuse == ""


@pytest.fixture
def few_priors(monkeypatch):
    """Two pictures of noise, where 32 would be drawn."""
    drawn = [Photo.from_image(photo.image, "photo of a dog") for photo in photos(2, seed=9)]
    monkeypatch.setattr(custom_ways, "draw_prior", lambda *_, **__: drawn)


@pytest.fixture
def told_quickly(monkeypatch):
    """Over-fitting told from one timestep, two other prompts and 50 draws for an interval."""
    monkeypatch.setattr(divergence, "TIMESTEPS", 1)
    monkeypatch.setattr(over_fitting, "OTHERS", over_fitting.OTHERS[:2])
    monkeypatch.setattr(intervals, "_DRAWS", 50)


@pytest.mark.usefixtures("few_priors", "told_quickly")
def test_a_run_measures_every_way(tmp_path):
    results, page = run(tmp_path, amounts=(0, 4, 2), **LITTLE)
    held = json.loads((tmp_path / "infusion.json").read_text())
    assert list(held["ways"]) == list(WAYS)
    for name, row in held["ways"].items():
        assert row["label"] in page, name
        assert row["ia"]["low"] <= row["ia"]["mean"] <= row["ia"]["high"], name
        assert row["astray"]["mean"] > 0, name
        if name != "none":
            assert row["at_class"]["low"] > 0, name
            assert set(row["fits"]) == {"V1-dog", "V9-cat"}, name
    for name in ("paper", "released", "one_stream"):
        assert set(held["ways"][name]["elsewhere"].values()) == {0}, name
    sizes = {name: row["bytes"] for name, row in held["ways"].items()}
    assert sizes["none"] == 0 < sizes["paper"] < sizes["released"] < sizes["ours"]
    assert sizes["one_stream"] == sizes["paper"]
    assert held["perfect"]["astray"]["mean"] < held["ways"]["none"]["astray"]["mean"]
    for name in ("infusion", "both", "over_fitting"):
        assert (tmp_path / f"{name}.png").exists()
    # Asked again it does nothing anew; asked for something else it refuses the folder.
    assert run(tmp_path, amounts=(0, 4, 2), **LITTLE)[0]["ways"] == results["ways"]
    with pytest.raises(CidmError, match="another run: its"):
        run(tmp_path, amounts=(0, 4, 2), **{**LITTLE, "prompts": 3})


@pytest.mark.usefixtures("told_quickly")
def test_one_concept_has_no_other_beside_it(tmp_path):
    results, page = run(tmp_path, (8,), (0, 4, 2), ("paper",), **LITTLE)
    assert "both" not in results["ways"]["paper"]
    assert "Both there" not in page
    assert (tmp_path / "infusion.png").exists()
    assert not (tmp_path / "both.png").exists()


def test_an_unknown_way_is_told(tmp_path):
    with pytest.raises(CidmError, match="no way 'sideways'"):
        run(tmp_path, ways=("sideways",), **LITTLE)


@pytest.mark.lab
def test_paper_leaves_the_class_more_as_it_was_than_released_and_is_seen_less(tmp_path):
    training = {**QUICK_RUN.training, "steps": 100}
    given = {"prompts": 8, "images": 1, "training": training, "sampling": QUICK_RUN.sampling}
    results, _ = run(tmp_path, tasks=(8,), ways=("paper", "released"), **given)
    plain, paper, released = (results["ways"][name] for name in ("none", "paper", "released"))
    for row in (paper, released):
        assert row["change"]["ia"]["low"] > 0
        assert set(row["elsewhere"].values()) == {0}
        assert row["wasserstein"]["mean"] > 0
    assert plain["astray"]["mean"] > paper["astray"]["mean"]
    assert released["ia"]["mean"] > paper["ia"]["mean"]
    assert released["at_class"]["low"] > paper["at_class"]["high"] > 0
