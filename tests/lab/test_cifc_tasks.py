"""The benchmark's suites: what is asked, and a user's folder."""

import itertools
import json
import random

import numpy as np
import pytest
from PIL import Image

from cidm_core.diffusers_host.clip import load_clip
from cidm_core.errors import CidmError
from cidm_core.regions import Region
from cidm_core.training.data import Photo, TrainingSubject
from lab.cifc.scoring import Judge
from lab.cifc.tasks import (
    ScenePart,
    Suite,
    SuiteScene,
    SuiteTask,
    folder_suite,
    long_suite,
    mini_suite,
)
from lab.cifc.tasks.folder import guess_class_words
from lab.cifc.tasks.long import alike
from lab.cifc.tasks.mini_perfect import perfect_picture
from lab.mini.looks import CONCEPTS
from lab.mini.tokenizer import _ENGLISH, _words


@pytest.fixture(scope="module")
def mini():
    return mini_suite()


def pixels(task):
    return [np.asarray(photo.image) for photo in task.photos]


def photo(caption="a dog"):
    return Photo.from_image(Image.new("RGB", (32, 32)), caption)


def task(name="dog", words="<dog1> <dog2>", **more):
    fields = {"kind": "object", "class_words": "dog", "photos": (photo(),)}
    return SuiteTask(name=name, words=words, **{**fields, "prompts": ("a <TOK>",), **more})


# --- the mini suite ------------------------------------------------------------------------------


def test_mini_suite_mirrors_the_paper(mini):
    kinds = [each.kind for each in mini.tasks]
    assert [k + 1 for k, kind in enumerate(kinds) if kind == "style"] == [6, 8, 10]
    assert mini.task("V7-dog").class_words == mini.task("V1-dog").class_words == "dog"
    assert mini.task("V9-cat").class_words == mini.task("V3-cat").class_words == "cat"
    for each in mini.tasks:
        assert 3 <= len(each.photos) <= 5
        assert len(set(each.prompts)) == 20
        assert all(p.image.size == (32, 32) for p in each.photos)


def test_captions_bind_and_prompts_read_back(mini):
    for each in mini.tasks:
        assert all(each.class_words in p.caption for p in each.photos)
        bound = TrainingSubject(each.photos, each.words, each.class_words).bound()
        assert all(each.trigger in p.caption for p in bound)
        assert all(each.trigger in prompt for prompt in each.filled)
        expected = tuple(p.replace("<TOK>", each.class_words) for p in each.prompts)
        assert each.plain == expected


def test_mini_sd_knows_every_word(mini):
    known = {*_words(), *_ENGLISH.split()}
    said = [text for each in mini.tasks for text in each.plain]
    said += [mini.plain(scene.prompt) for scene in mini.scenes]
    said += [mini.plain(r.prompt) for scene in mini.scenes for r in scene.regions]
    assert {w for text in said for w in text.replace(",", " ").split()} <= known


def test_the_company_in_prompts_is_no_class_that_a_task_teaches(mini):
    classes = {CONCEPTS[name].kind for name in CONCEPTS}
    for each in mini.tasks:
        if each.kind == "object":
            words = {w for p in each.prompts for w in p.replace(",", " ").split()}
            assert not words & (classes - {"painting"})


def test_orders(mini):
    assert mini.orders[0] == tuple(range(10))
    assert len(set(mini.orders)) == 3

    def apart(order, a, b):
        return abs(order.index(a) - order.index(b))

    near, far = mini.orders[1:]
    assert apart(near, 0, 6) == apart(near, 2, 8) == 1
    assert min(apart(far, 0, 6), apart(far, 2, 8)) >= 7


def test_scenes_of_two_to_four_with_look_alikes(mini):
    sizes = [len(scene.parts) for scene in mini.scenes]
    assert all(sizes.count(n) >= 4 for n in (2, 3, 4))
    for n in (2, 3, 4):
        asked = [{p.task for p in s.parts} for s in mini.scenes if len(s.parts) == n]
        twins = ({"V1-dog", "V7-dog"}, {"V3-cat", "V9-cat"})
        assert any(pair <= names for pair in twins for names in asked)
    assert len({tuple(tuple(r.box) for r in scene.regions) for scene in mini.scenes}) >= 6


def test_every_box_is_three_cells_wide_and_holds_its_own_words(mini):
    for scene in mini.scenes:
        assert scene.width_px % 32 == scene.height_px % 32 == 0
        for part in scene.parts:
            mask = part.region.mask_at(scene.height_px // 4, scene.width_px // 4, 0.0, 4)
            assert min(int(mask.amax(0).sum()), int(mask.amax(1).sum())) >= 3
            trigger = mini.task(part.task).trigger
            assert trigger in part.region.prompt
            assert trigger in scene.prompt


def test_the_seed_decides_the_photos(mini):
    again, other = mini_suite(), mini_suite(1)
    for a, b, c in zip(mini.tasks, again.tasks, other.tasks, strict=True):
        assert all(np.array_equal(p, q) for p, q in zip(pixels(a), pixels(b), strict=True))
        assert not all(np.array_equal(p, q) for p, q in zip(pixels(a), pixels(c), strict=True))


def test_perfect_pictures_show_what_is_asked(mini):
    look = CONCEPTS["teal-cat"]

    def drawn(prompt, seed=0):
        picture = perfect_picture(look, prompt, random.Random(seed))
        return np.asarray(picture, dtype=float) / 255

    def share(pixels, color):
        return (np.abs(pixels - np.array(color)).max(-1) < 0.08).mean()

    teal = look.thing.color
    left = drawn("a <TOK> on the left, green background")
    assert share(left[:, :16], teal) > 0.1
    assert share(left[:, 16:], teal) < 0.02
    large = drawn("a large <TOK> in the middle, blue background")
    small = drawn("a small <TOK> at the top, white background")
    assert share(large, teal) > 2 * share(small, teal)
    both = drawn("a pink heart at the top and a <TOK> at the bottom")
    assert share(both[16:], teal) > 0.05 > share(both[:16], teal)
    sepia = drawn("a sepia photo of a <TOK>")
    assert share(sepia, teal) == 0
    assert np.array_equal(sepia, drawn("a sepia photo of a <TOK>"))
    assert not np.array_equal(sepia, drawn("a sepia photo of a <TOK>", 1))


def test_every_prompt_has_a_perfect_picture_that_mini_clip_takes_for_its_concept(mini):
    judge = Judge(load_clip("mini-clip", "cpu"), None, mini)
    for index, each in enumerate(mini.tasks):
        rng = random.Random(0)
        pictures = [mini.perfect(each, prompt, rng) for prompt in each.prompts for _ in range(2)]
        scores = judge.score(each, pictures, each.plain)
        nearest = [n == index for row in scores.nearest for n in row]
        assert sum(nearest) / len(nearest) >= 0.7


# --- the long suite ------------------------------------------------------------------------------


def test_long_suite():
    suite = long_suite()
    assert len(suite.tasks) == 40
    assert sum(each.kind == "style" for each in suite.tasks) == 8
    assert len({each.trigger for each in suite.tasks}) == 40
    few = long_suite(7)
    assert [each.name for each in few.tasks] == [each.name for each in suite.tasks[:7]]
    assert np.array_equal(pixels(few.tasks[6])[0], pixels(suite.tasks[6])[0])


@pytest.mark.parametrize("count", [0, 201])
def test_long_suite_has_limits(count):
    with pytest.raises(CidmError, match="1 to 200"):
        long_suite(count)


def test_looks_that_are_alike_are_told():
    cat, other = CONCEPTS["purple-cat"], CONCEPTS["teal-cat"]
    assert alike(cat, cat)
    assert not alike(cat, other)
    assert not any(alike(a, b) for a, b in itertools.combinations(CONCEPTS.values(), 2))


# --- what a suite refuses ------------------------------------------------------------------------


def test_tasks_are_checked():
    with pytest.raises(CidmError, match="none of"):
        task(kind="animal")
    with pytest.raises(CidmError, match="no photos"):
        task(photos=())
    with pytest.raises(CidmError, match="no prompts"):
        task(prompts=())
    with pytest.raises(CidmError, match="where the concept"):
        task(prompts=("a dog",))
    with pytest.raises(CidmError, match="no class words"):
        task(class_words=" ")


def test_suites_are_checked():
    dog, cat = task(), task("cat", "<cat1> <cat2>")
    with pytest.raises(CidmError, match="name is another"):
        Suite("s", (dog, task(words="<x1>")), ((0, 1),))
    with pytest.raises(CidmError, match="'<dog1>' is another"):
        Suite("s", (dog, task("b", "<dog1>")), ((0, 1),))
    with pytest.raises(CidmError, match="each of the 2 tasks once"):
        Suite("s", (dog, cat), ((0, 0),))
    with pytest.raises(CidmError, match="no order"):
        Suite("s", (dog,), ())
    with pytest.raises(CidmError, match="at least one task"):
        Suite("s", (), ((),))
    scene = SuiteScene("a fish", (ScenePart("fish", Region("a fish", box=(0, 0, 1, 1))),))
    with pytest.raises(CidmError, match="'fish', which is no task"):
        Suite("s", (dog,), ((0,),), (scene,))
    with pytest.raises(CidmError, match="no task 'fish'"):
        Suite("s", (dog,), ((0,),)).task("fish")


# --- a user's folder -----------------------------------------------------------------------------


def write(root, name, captions):
    for kind in ("images", "captions"):
        (root / kind / name).mkdir(parents=True)
    for number, caption in enumerate(captions, start=1):
        Image.new("RGB", (32, 32), (9 * number, 0, 0)).save(
            root / "images" / name / f"{number:02}.jpg"
        )
        if caption:
            (root / "captions" / name / f"{number:02}.txt").write_text(caption)


@pytest.fixture
def folder(tmp_path):
    """The layout of the public data."""
    root = tmp_path / "cifc"
    write(root, "teddybear", ["teddy bear on a rock", "a Teddy bear in the sand"])
    write(root, "painting", ["painting of a tree", "painting of a lake"])
    write(root, "dog", ["dog on a wall", "dog with its tongue out"])
    prompts = root / "evaluation_prompts"
    prompts.mkdir()
    for name, text in (("pet", "A <TOK> runs\n\n"), ("plushy", "A <TOK> on a table\n")):
        (prompts / f"test_{name}.txt").write_text(text)
    (prompts / "test_style.txt").write_text("A <TOK> of a cat\nA <TOK> of a dog\n")
    return root


def test_folder_without_a_tasks_file(folder):
    (folder / "negative_prompt.txt").write_text("blurry,\nugly\n")
    suite = folder_suite(folder)
    assert [each.name for each in suite.tasks] == ["dog", "teddybear", "painting"]
    assert [each.kind for each in suite.tasks] == ["object", "object", "style"]
    assert [each.class_words for each in suite.tasks] == ["dog", "teddy bear", "painting"]
    prompts = [("A <TOK> runs",), ("A <TOK> on a table",), ("A <TOK> of a cat", "A <TOK> of a dog")]
    assert [each.prompts for each in suite.tasks] == prompts
    assert suite.task("teddybear").plain == ("a teddy bear on a table",)
    assert suite.tasks[0].photos[1].caption == "dog with its tongue out"
    assert (suite.name, suite.negative_prompt) == ("cifc", "blurry, ugly")
    assert (suite.orders, suite.scenes) == (((0, 1, 2),), ())


def test_folder_with_a_tasks_file(folder):
    (folder / "evaluation_prompts" / "mine.txt").write_text("my <TOK>\n")
    entries = [
        {"folder": "painting", "name": "V6", "kind": "style", "words": "<p1>"},
        {"folder": "dog", "class_words": "dog", "prompts": "mine.txt"},
    ]
    part = {"task": "dog", "prompt": "a {dog}, sitting", "box": [0, 0.2, 0.5, 1]}
    scene = {"prompt": "a {dog} in a {V6}", "parts": [part], "width_px": 64, "height_px": 32}
    content = {"tasks": entries, "orders": [["dog", "painting"]], "scenes": [scene]}
    (folder / "tasks.json").write_text(json.dumps({**content, "negative_prompt": "bad"}))
    suite = folder_suite(folder)
    assert [each.name for each in suite.tasks] == ["V6", "dog"]
    assert (suite.orders, suite.negative_prompt) == (((1, 0),), "bad")
    assert suite.task("V6").words == "<p1>"
    assert suite.task("dog").prompts == ("my <TOK>",)
    (found,) = suite.scenes
    assert (found.prompt, found.width_px, found.height_px) == ("a <dog1> <dog2> in a <p1>", 64, 32)
    assert found.parts[0].task == "dog"
    assert found.regions[0].prompt == "a <dog1> <dog2>, sitting"
    assert found.regions[0].box == (0, 0.2, 0.5, 1)


def scenes(**changes):
    """scenes.json with one scene of two concepts."""
    regions = [
        {"concept": "V1", "prompt": "a Dog beside a dog bed", "box": [0, 0.4, 0.4, 0.9]},
        {"concept": "V5", "prompt": "a teddy bear", "box": [0.5, 0.5, 1, 1]},
    ]
    scene = {"id": "3.1", "prompt": "a magic castle", "regions": regions, **changes}
    return {
        "about": "",
        "concepts": {"V1": "dog", "V5": "teddybear", "V9": "cat2"},
        "scenes": [scene],
    }


def test_scenes_as_in_the_figures_of_the_paper(folder, caplog):
    more = [
        scenes(id="3.2", regions=[{"concept": "V9", "prompt": "a cat", "box": [0, 0, 1, 1]}]),
        scenes(width_px=64, height_px=48),
    ]
    content = scenes()
    content["scenes"] += [each["scenes"][0] for each in more]
    (folder / "scenes.json").write_text(json.dumps(content))
    found = folder_suite(folder).scenes
    assert [each.prompt for each in found] == ["a magic castle"] * 2
    assert [(each.width_px, each.height_px) for each in found] == [(None, None), (64, 48)]
    dog, bear = found[0].parts
    assert (dog.task, dog.region.prompt) == ("dog", "a <dog1> <dog2> beside a dog bed")
    assert (bear.task, bear.region.prompt) == ("teddybear", "a <teddybear1> <teddybear2>")
    assert dog.region.box == (0, 0.4, 0.4, 0.9)
    assert "no photos of cat2; without scene 3.2" in caplog.text


def region(**changes):
    return [{"concept": "V1", "prompt": "a dog", "box": [0, 0, 1, 1], **changes}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the file is list"),
        ({"scenes": []}, "needs concepts"),
        (scenes(regions=[]), "a prompt and a list of regions"),
        (scenes(colour="red"), "colour, which is unknown"),
        (scenes(regions=region(concept="V2")), "a region is of 'V2'; there are V1, V5, V9"),
        (scenes(regions=region(prompt="a cat")), "'a cat' does not hold 'dog'"),
        (scenes(regions=region(box=[0, 1])), r"'dog' needs a box \[x0"),
        (scenes(width_px="wide"), "width_px of a scene is 'wide'"),
    ],
)
def test_a_bad_scenes_file_is_explained(folder, content, message):
    (folder / "scenes.json").write_text(json.dumps(content))
    with pytest.raises(CidmError, match=message):
        folder_suite(folder)


def test_yaml_names_folders_only(folder):
    (folder / "tasks.yaml").write_text("tasks: [dog, teddybear]\n")
    assert [each.name for each in folder_suite(folder).tasks] == ["dog", "teddybear"]


def test_photos_without_captions_go_by_the_folder_name(folder):
    write(folder, "duck_toy", ["", ""])
    (folder / "captions" / "duck_toy").rmdir()
    duck = folder_suite(folder).task("duck_toy")
    assert (duck.class_words, duck.trigger) == ("duck toy", "<duck_toy1> <duck_toy2>")
    assert [p.caption for p in duck.photos] == ["duck toy", "duck toy"]


@pytest.mark.parametrize(
    ("name", "captions", "found"),
    [
        ("teddybear", ["a Teddy bear", "teddy bear", "teddy-bear"], "teddy bear"),
        ("duck_toy", ["yellow rubber duck toy on sand"], "duck toy"),
        ("dog2", ["a dog"], "dog"),
        ("cat", ["a category"], ""),
        ("12", ["12"], ""),
    ],
)
def test_class_words_are_found_in_the_captions(name, captions, found):
    assert guess_class_words(name, captions) == found


def test_folder_errors_say_what_is_missing(folder, tmp_path):
    with pytest.raises(CidmError, match="no folder 'images'"):
        folder_suite(tmp_path / "nowhere")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    with pytest.raises(CidmError, match="holds no folder"):
        folder_suite(tmp_path / "empty")
    (folder / "evaluation_prompts" / "test_style.txt").unlink()
    with pytest.raises(CidmError, match=r"no prompts for 'painting'.*test_style\.txt"):
        folder_suite(folder)
    write(folder, "axolotl", ["a pink animal"])
    (folder / "tasks.yaml").write_text("tasks: [axolotl]\n")
    with pytest.raises(CidmError, match="do not name what it is"):
        folder_suite(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [", "cannot be read as YAML"),
        ("- dog", "the file is list"),
        ("task: [dog]", "task, which is unknown"),
        ("tasks: dog", "tasks is str; give a list"),
        ("tasks: [{name: dog}]", "a task has no folder"),
        ("tasks: [{folder: dog, color: red}]", "color, which is unknown"),
        ("tasks: [{folder: dog, words: 3}]", "words of a task is 3"),
        ("tasks: [horse]", "asks for 'horse'"),
        ("orders: [dog]", "every order must be a list"),
        ("orders: [[horse]]", "an order names 'horse'"),
        ("orders: [[dog]]", "each of the 3 tasks once"),
        ("scenes: [{prompt: a}]", "a prompt and a list of parts"),
        ("tasks: [dog]\nscenes: [{prompt: a, parts: [{task: cat}]}]", "needs a task"),
        ("scenes: [{prompt: a, parts: [], width_px: big}]", "a list of parts"),
        (
            "tasks: [dog]\nscenes:\n"
            "- {prompt: a, parts: [{task: dog, prompt: a, box: [a, 0, 1, 1]}]}",
            "is not of numbers",
        ),
    ],
)
def test_a_bad_tasks_file_is_explained(folder, text, message):
    (folder / "tasks.yaml").write_text(text)
    with pytest.raises(CidmError, match=message):
        folder_suite(folder)
