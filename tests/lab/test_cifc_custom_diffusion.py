"""Custom Diffusion beside CIDM: what the ways share, and how prompts name what they taught."""

import json
from dataclasses import replace
from functools import cache

import pytest
from learning_samples import photos

from cidm_core.diffusers_host.clip import load_clip
from cidm_core.diffusers_host.load import load_base
from cidm_core.errors import CidmError
from cidm_core.training.data import Photo
from cidm_core.updates import LowRank
from lab.cifc.custom_diffusion import run as run_module
from lab.cifc.custom_diffusion import ways as ways_module
from lab.cifc.custom_diffusion.command import build_parser, sizes_of
from lab.cifc.custom_diffusion.drawn import Drawing
from lab.cifc.custom_diffusion.run import Amounts
from lab.cifc.custom_diffusion.ways import METHOD, WAYS, Taught
from lab.cifc.sizes import QUICK_RUN, restricted
from lab.cifc.tasks import SuiteTask, mini_suite

PROMPTS = ("a <TOK> in the snow", "a small <TOK>")
TASKS = [
    SuiteTask(f"v{n}", "object", f"<v{n}a> <v{n}b>", "dog", tuple(photos(seed=n)), PROMPTS)
    for n in (1, 2)
]
LEARNS_LITTLE = {"steps": 2, "batch_size": 1, "variants": 1, "save_every": 0}


@cache
def mini_sd():
    return load_base("mini-sd", device="cpu")


@pytest.fixture
def few_priors(monkeypatch):
    """Two pictures of noise, where 32 would be drawn."""
    drawn = [Photo.from_image(photo.image, "photo of a dog") for photo in photos(2, seed=9)]
    monkeypatch.setattr(ways_module, "draw_prior", lambda *_, **__: drawn)


@pytest.fixture
def taught(tmp_path, few_priors):
    steps = []
    return Taught(mini_sd(), TASKS, tmp_path / "0", LEARNS_LITTLE, steps.append), steps


def test_single_merged_and_compressed_share_what_is_learned(taught):
    taught, steps = taught
    for task in TASKS:
        taught.single(task)
    learned = len(steps)
    assert learned > 0
    merged, exact = taught.merged(), taught.exact()
    small = [taught.compressed(task) for task in TASKS]
    assert len(steps) == learned
    assert [subject.words for subject in merged.subjects] == [("<v1a>",), ("<v2a>",)]
    assert exact.facts["residual"] < 1e-3 < merged.facts["residual"]
    for task, concept in zip(TASKS, small, strict=True):
        assert all(isinstance(update, LowRank) for update in concept.updates.values())
        assert concept.subjects == taught.single(task).subjects


def test_without_prior_pictures_none_are_drawn(taught, monkeypatch):
    monkeypatch.setattr(ways_module, "draw_prior", pytest.fail)
    concept = taught[0].no_prior(TASKS[0])
    assert concept.config["prior_images"] == 0
    assert concept.subjects[0].words == ("<v1a>",)


def test_all_at_once_takes_as_many_steps_as_one_after_another(taught):
    taught, _ = taught
    joint = taught.joint()
    assert joint.facts["steps"] == 2 * LEARNS_LITTLE["steps"]
    assert joint.method == METHOD
    assert [subject.phrase for subject in joint.subjects] == ["<v1a> dog", "<v2a> dog"]


def test_ours_merged_has_the_words_of_both(taught):
    taught, _ = taught
    merged = taught.ours_merged()
    assert merged.words == ("<v1a>", "<v1b>", "<v2a>", "<v2b>")
    assert all(path.endswith(("to_k", "to_v")) for path in merged.updates)


@pytest.mark.parametrize(
    ("way", "phrase"), [("none", "dog"), ("ours", "<v1a> <v1b>"), ("joint", "<v1a> dog")]
)
def test_prompts_name_a_task_as_the_way_taught_it(way, phrase):
    subject = WAYS[way].subject(TASKS[0])
    assert (subject.phrase, subject.class_words) == (phrase, "dog")


TAUGHT = ["V1-dog", "V3-cat", "V6-painting", "V7-dog", "V9-cat"]


def test_two_pairs_of_look_alikes_are_taught_and_asked_for_together(tmp_path):
    suite = restricted(mini_suite(), sizes_of(build_parser().parse_args([])))
    assert [task.name for task in suite.tasks] == TAUGHT
    drawing = Drawing(_Bench(suite), Taught(mini_sd(), suite.tasks, tmp_path, {}), 2)
    pairs = [{part.task for part in scene.parts} for scene in drawing.pairs]
    assert pairs == [{"V1-dog", "V7-dog"}, {"V3-cat", "V9-cat"}]
    found = {task.name: drawing.twin(task) for task in suite.tasks}
    twins = {name: suite.tasks[k].name for name, k in found.items() if k is not None}
    assert twins == {
        **{"V1-dog": "V7-dog", "V7-dog": "V1-dog"},
        **{"V3-cat": "V9-cat", "V9-cat": "V3-cat"},
    }


class _Bench:
    def __init__(self, suite):
        self.suite = suite


LITTLE = {"prompts": 2, "images": 1, "training": LEARNS_LITTLE, "sampling": {"steps": 1}}


def run(folder, seed=0, seeds=1, ways=tuple(WAYS), drift=0, **given):
    sizes = replace(QUICK_RUN, **{"tasks": (2, 8), "scenes": 30, **given})  # the two cats
    clip, amounts = load_clip("mini-clip", "cpu"), Amounts(seed, seeds, 2, drift)
    about = {"command": "test", "model": "mini-sd", "clip": "mini-clip"}
    return run_module.run(
        *(mini_sd(), clip, mini_suite(), sizes, folder, amounts), about=about, ways=ways
    )


@pytest.mark.usefixtures("few_priors")
def test_a_run_says_what_each_way_draws_and_what_becomes_of_look_alikes(tmp_path):
    results, page = run(tmp_path, drift=2, **LITTLE)
    held = json.loads((tmp_path / "custom_diffusion.json").read_text())
    assert list(held["ways"]) == list(WAYS)
    assert held["model"] == "mini-sd"
    for name, row in held["ways"].items():
        assert row["ia"]["low"] <= row["ia"]["mean"] <= row["ia"]["high"], name
        assert 0 <= row["twin"]["mean"] <= 1, name
        assert set(row["pairs"]) == (set() if name == "none" else {"none", "both"}), name
        assert set(row["drift"]) == (set() if name == "none" else {"cat"}), name
        assert row["label"] in page, name
    sizes = {name: row["bytes"] for name, row in held["ways"].items()}
    assert sizes["none"] == 0 < sizes["compressed"] < sizes["single"]
    ours = held["ways"]["ours"]["change"]
    assert all(value == {"mean": 0, "low": 0, "high": 0} for value in ours.values())
    assert (tmp_path / "custom_diffusion.png").exists()
    # Asked again it does nothing anew; asked for something else it refuses the folder.
    assert run(tmp_path, drift=2, **LITTLE)[0]["ways"] == results["ways"]
    with pytest.raises(CidmError, match="another run: its"):
        run(tmp_path, drift=2, **{**LITTLE, "prompts": 3})


@pytest.mark.usefixtures("few_priors")
def test_a_second_seed_adds_pictures_to_every_prompt(tmp_path):
    given = {"ways": ("none", "merged"), **LITTLE}
    one, other = run(tmp_path, **given)[0], run(tmp_path, seed=100, **given)[0]
    both = run(tmp_path, seeds=2, **given)[0]
    assert both["seeds"] == [0, 100]
    for name, row in both["ways"].items():
        means = [each["ways"][name]["ia"]["mean"] for each in (one, other)]
        assert row["ia"]["mean"] == pytest.approx(sum(means) / 2), name
        assert means[0] != means[1], name


def test_an_unknown_way_is_told(tmp_path):
    with pytest.raises(CidmError, match="no way 'sideways'"):
        run(tmp_path, ways=("sideways",), **LITTLE)


def test_all_at_once_more_words_than_the_recipe_has_initialisers(taught):
    four = [replace(TASKS[0], name=f"v{n}", words=f"<v{n}a> <v{n}b>") for n in range(1, 5)]
    joint = replace(taught[0], tasks=four).joint()
    assert joint.words == ("<v1a>", "<v2a>", "<v3a>", "<v4a>")


@pytest.mark.lab
def test_learned_at_the_quick_size_a_concept_is_seen_whole_and_compressed(tmp_path):
    quick = {"training": QUICK_RUN.training, "sampling": QUICK_RUN.sampling}
    ways = ("none", "single", "compressed")
    found = run(tmp_path, ways=ways, tasks=(2,), prompts=8, **quick)[0]["ways"]
    for name in ("ours", "single", "compressed"):
        assert found[name]["ia"]["low"] > found["none"]["ia"]["high"], name
