"""CLIF beside CIDM and Custom Diffusion: every way learns, draws look-alikes, and is told."""

import json
from dataclasses import replace
from functools import cache

import pytest
from learning_samples import photos

from cidm_core.composite_options import CompositeOptions
from cidm_core.diffusers_host.clip import load_clip
from cidm_core.diffusers_host.composites import Contrast
from cidm_core.diffusers_host.contrast import load_contrast_clip
from cidm_core.diffusers_host.load import load_base
from cidm_core.errors import CidmError
from cidm_core.mini.common_things import drawn_things
from cidm_core.training.data import Photo
from lab.cifc.clif import run as run_module
from lab.cifc.clif.command import build_parser, sizes_of
from lab.cifc.clif.report import outcome
from lab.cifc.clif.scenes import by_color, perfect_pictures, with_look_alikes
from lab.cifc.clif.ways import IN_BOXES, VARIANTS, WAYS
from lab.cifc.custom_diffusion import ways as custom_ways
from lab.cifc.sizes import QUICK_RUN, restricted
from lab.cifc.tasks import mini_suite

LEARNS_LITTLE = {"steps": 1, "batch_size": 1, "variants": 1, "save_every": 0, "contrast_steps": 1}
LITTLE = {"prompts": 1, "images": 1, "training": LEARNS_LITTLE}
LITTLE |= {"sampling": {"steps": 1, "guidance_scale": 1.0}}


@cache
def models():
    contrast = Contrast(load_contrast_clip("mini-clip", "cpu"), drawn_things())
    return load_base("mini-sdxl", device="cpu"), load_clip("mini-clip", "cpu"), contrast


def run(folder, tasks=(2, 8), ways=tuple(WAYS), pictures=1, **given):
    sizes, amounts = replace(QUICK_RUN, tasks=tasks, scenes=30, **given), (0, 1, 1, pictures)
    about = {"command": "test", "model": "mini-sdxl", "clip": "mini-clip"}
    suite, amounts = mini_suite(masks=True), run_module.Amounts(*amounts)
    return run_module.run(*models(), suite, sizes, folder, amounts, about, ways)


@pytest.fixture
def few_priors(monkeypatch):
    """Two pictures of noise, where 32 would be drawn."""
    drawn = [Photo.from_image(photo.image, "photo of a dog") for photo in photos(2, seed=9)]
    monkeypatch.setattr(custom_ways, "draw_prior", lambda *_, **__: drawn)


@pytest.fixture
def few_composites(monkeypatch):
    """Ten composites of a whole, of which the last is held out, and two of a part."""
    counts, most = CompositeOptions.counts, {"global": 10, "region": 2}

    def few(self):
        return {kind: min(most.get(kind, n), n) for kind, n in counts(self).items()}

    monkeypatch.setattr(CompositeOptions, "counts", few)


@pytest.mark.usefixtures("few_priors", "few_composites")
def test_a_run_measures_every_way(tmp_path):
    results, page = run(tmp_path, **LITTLE)
    held = json.loads((tmp_path / "clif.json").read_text())
    assert list(held["ways"]) == list(WAYS)
    for name, row in held["ways"].items():
        assert row["ia"]["low"] <= row["ia"]["mean"] <= row["ia"]["high"], name
        assert row["label"] in page, name
        wanted = {"none", "both"} if name in IN_BOXES else {"none"}
        assert set(row["scenes"]) == (set() if name == "none" else wanted), name
        contrasted = name in VARIANTS or name.endswith("contrast")
        assert ("words" in row) == (contrasted and name != "no_contrast"), name
    kept = {path.name for path in (tmp_path / "work/banks/0").iterdir()}
    assert kept == set(WAYS) - {"none"}
    composites = {
        name: {path.name.split("-")[0] for path in _composites(tmp_path, name)}
        for name in (*VARIANTS, "ours_contrast")
    }
    everything = {"single", "global", "region", "meeting"}
    assert composites["clif"] == composites["released_loss"] == everything
    assert composites["no_global"] == everything - {"global"}
    assert composites["no_region"] == everything - {"region"}
    assert composites["no_meeting"] == composites["ours_contrast"] == everything - {"meeting"}
    assert composites["no_contrast"] == set()
    assert (tmp_path / "clif.png").exists()
    # Asked again it does nothing anew; asked for something else it refuses the folder.
    assert run(tmp_path, **LITTLE)[0]["ways"] == results["ways"]
    with pytest.raises(CidmError, match="another run: its"):
        run(tmp_path, **{**LITTLE, "prompts": 3})


def _composites(folder, way):
    return [path for path in (folder / "work/banks/0" / way).glob(".composites/*/*.png")]


def test_perfect_pictures_are_told_apart_by_colour():
    suite = restricted(with_look_alikes(mini_suite()), sizes_of(build_parser().parse_args([])))
    names = [task.name for task in suite.tasks]
    assert names == ["V1-dog", "V7-dog", "V3-cat", "V9-cat"]
    assert [len(scene.parts) for scene in suite.scenes] == [2, 2, 2, 2, 3, 3]
    for scene in suite.scenes:
        own = [names.index(part.task) for part in scene.parts]
        found = by_color(perfect_pictures(scene, 4, seed=0), scene, names)
        assert [outcome(boxes, own)["right"] for boxes in found] == [1.0] * 4, scene.prompt


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ((0, 1), {"right": 1, "swapped": 0, "twice": 0, "own": 1}),
        ((1, 0), {"right": 0, "swapped": 1, "twice": 0, "own": 0}),
        ((0, 0), {"right": 0, "swapped": 0, "twice": 1, "own": 0.5}),
        ((0, 2), {"right": 0, "swapped": 0, "twice": 0, "own": 0.5}),
    ],
)
def test_what_became_of_a_pair(seen, found):
    boxes = [[float(k == wanted) for k in range(3)] for wanted in seen]
    assert outcome(boxes, (0, 1)) == found


def test_an_unknown_way_is_told(tmp_path):
    with pytest.raises(CidmError, match="no way 'sideways'"):
        run(tmp_path, ways=("sideways",), **LITTLE)


@pytest.mark.lab
def test_the_contrast_tells_words_apart(tmp_path):
    """Spec of stage A: words grow less alike, and held-out composites find their captions."""
    training = {**LEARNS_LITTLE, "contrast_steps": 60}
    results, _ = run(tmp_path, ways=("clif",), **{**LITTLE, "training": training})
    words = results["ways"]["clif"]["words"]
    before, after = zip(*(words[m] for m in ("cosine", "right_name", "retrieval")), strict=True)
    assert after[0] < before[0] - 0.05
    assert after[1] > before[1] + 0.2
    assert after[2] > before[2]
