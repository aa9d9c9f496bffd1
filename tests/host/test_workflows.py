"""Every shipped workflow and the blueprint, converted by the real frontend and executed."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from browser import canvas
from browser.small import DOG_AND_CAT, kept_part, on_mini, photos_for
from PIL import Image
from server import ROOT

WORKFLOWS = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
LEARN, SECOND, INPAINT, STYLE, CHECK, TRIAL, LEARN_XL, LOOK = (
    next(name for name in WORKFLOWS if word in name)
    for word in (
        "first concept",
        "second",
        "inpaint",
        "Style",
        "Check",
        "Try it",
        "concept on SDXL",
        "Learn a look",
    )
)


@pytest.fixture(scope="module")
def opened(page, server):
    """Each workflow on the classic canvas: API format, unchanged; types missed; scale; errors."""
    photos_for(server.base)
    page.open(server, **{"Comfy.VueNodes.Enabled": False})
    page.errors()
    found = {}
    for name, path in WORKFLOWS.items():
        missing = canvas.open_workflow(page, json.loads(path.read_text()), name)
        scale = page.evaluate("() => app.canvas.ds.scale")
        found[name] = canvas.to_prompt(page), missing, scale, page.errors()
    return found


@pytest.fixture(scope="module")
def prompts(opened, page, server):
    """API format of each workflow, and of the blueprint among nodes of the core."""
    found = {name: prompt for name, (prompt, *_) in opened.items()}
    widgets = {"region_prompts": DOG_AND_CAT, "steps": 2}
    for path in BLUEPRINTS:
        assert not canvas.open_workflow(page, offered(server, path.stem), path.stem)
        found[path.stem] = canvas.with_nodes_around(page, copy.deepcopy(AROUND), widgets)
    page.leave()  # a page that is open is never at rest
    return found


def offered(server, name):
    """A blueprint as the host gives it to the page."""
    keys = {each["name"]: key for key, each in server.get("/global_subgraphs").items()}
    return json.loads(server.get(f"/global_subgraphs/{keys[name]}")["data"])


@pytest.fixture(scope="module")
def learned(prompts, server):
    """Results of the workflows that learn, in their order, and of learning a style."""
    done = {name: server.run(on_mini(prompts[name])) for name in (LEARN, SECOND)}
    style = on_mini(prompts[LEARN])
    (train,) = (node for node in style.values() if node["class_type"] == "CIDM_TrainConcept")
    train["inputs"] |= {"kind": "style", "words": "<paint1> <paint2>", "name": "paint"}
    done["style"] = server.run(style)
    done[LEARN_XL] = server.run(on_mini(prompts[LEARN_XL]))
    cat = on_mini(prompts[LEARN_XL])  # for the other workflow on SDXL
    (train,) = (node for node in cat.values() if node["class_type"] == "CIDM_TrainConcept")
    train["inputs"] |= {"words": "<cat1> <cat2>", "name": "cat"}
    done["cat on SDXL"] = server.run(cat)
    done[LOOK] = server.run(on_mini(prompts[LOOK]))
    dog = on_mini(prompts[LOOK])  # for the workflow of two looks
    (train,) = (node for node in dog.values() if node["class_type"] == "CIDM_TrainConcept")
    train["inputs"] |= {"photo_folder": "my_dog", "class_words": "dog", "name": "my_dog"}
    (apply,) = (node for node in dog.values() if node["class_type"] == "CIDM_ApplyConceptBank")
    apply["inputs"]["infuse"] = "cat=my_dog"
    done["dog's look"] = server.run(dog)
    return done


def shown(server, result):
    """All pictures that the output nodes of a run saved or previewed, by node."""
    return {
        node: server.pictures(result, node)
        for node, output in result.outputs.items()
        if output.get("images")
    }


def check(server, result):
    """The run succeeded, and every picture shows something."""
    assert result.status == "success", (result.error or {}).get("exception_message", result.error)
    pictures = shown(server, result)
    assert pictures
    for node, found in pictures.items():
        for picture in found:
            assert np.asarray(picture.convert("RGB"), dtype=float).std() > 1, node
    return pictures


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_opens_on_the_classic_canvas(name, opened):
    _, missing, scale, errors = opened[name]
    assert not missing
    assert name.endswith(".app") or scale >= canvas.READABLE
    assert not errors


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_runs(name, prompts, learned, server):
    result = learned.get(name) or server.run(on_mini(prompts[name]))
    check(server, result)


def test_learning_the_second_leaves_pictures_of_the_first_as_they_were(learned, server, prompts):
    first, again = (
        next(
            found
            for node, found in shown(server, learned[name]).items()
            if prompts[name][node]["inputs"].get("filename_prefix") == prefix
        )
        for name, prefix in ((LEARN, "first concept"), (SECOND, "first concept again"))
    )
    assert np.array_equal(np.asarray(first[0]), np.asarray(again[0]))


def test_inpainting_keeps_the_rest_of_the_photo(prompts, learned, server):
    result = server.run(on_mini(prompts[INPAINT]))
    kinds = {node: each["class_type"] for node, each in prompts[INPAINT].items()}
    (saved,) = (node for node, kind in kinds.items() if kind == "SaveImage")
    kept, changed = kept_part(server.base, server.pictures(result, saved)[0])
    assert kept < 3
    assert changed > 10


def test_the_check_says_how_alike_each_concept_is(prompts, learned, server):
    result = server.run(on_mini(prompts[CHECK]))
    tables = [output["text"][0] for output in result.outputs.values() if output.get("text")]
    assert any("dog" in table for table in tables)
    assert any("cat" in table for table in tables)


@pytest.mark.parametrize("path", [*WORKFLOWS.values(), *BLUEPRINTS], ids=lambda path: path.stem)
def test_core_nodes_and_ours_only_and_none_that_is_going(path, server):
    known = server.get("/object_info")
    whole = json.loads(path.read_text())
    subgraphs = whole.get("definitions", {}).get("subgraphs", [])
    types = {node["type"] for graph in (whole, *subgraphs) for node in graph["nodes"]}
    for each in types - {"MarkdownNote"} - {graph["id"] for graph in subgraphs}:
        home = known[each]["python_module"]
        assert home.startswith(("nodes", "comfy_extras", "custom_nodes.ComfyUI-CIDM")), each
        assert not known[each].get("deprecated"), each


def test_the_first_one_is_small():
    assert len(json.loads(WORKFLOWS[TRIAL].read_text())["nodes"]) <= 10


def test_every_workflow_has_a_small_thumbnail():
    for path in WORKFLOWS.values():
        thumbnail = path.with_name(f"{path.stem}.jpg")
        assert thumbnail.stat().st_size < 60_000
        with Image.open(thumbnail) as picture:
            assert picture.format == "JPEG"


def test_the_app_shows_inputs_that_exist():
    (path,) = (path for name, path in WORKFLOWS.items() if name.endswith(".app"))
    workflow = json.loads(path.read_text())
    assert workflow["extra"]["linearMode"] is True
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    data = workflow["extra"]["linearData"]
    for number, widget in data["inputs"]:
        slots = [slot for slot in nodes[number]["inputs"] if slot.get("widget")]
        (slot,) = (slot for slot in slots if slot["widget"]["name"] == widget)
        assert slot["label"][0].isupper()  # words for people, not the name in the code
    assert [nodes[number]["type"] for number in data["outputs"]] == ["SaveImage"]


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_the_blueprint_is_offered_and_draws(path, prompts, server, learned):
    (subgraph,) = offered(server, path.stem)["definitions"]["subgraphs"]
    assert subgraph["name"] == path.stem
    pictures = check(server, server.run(prompts[path.stem]))
    # The mini model's photos, the regions' layout where it is made and outside, and the picture.
    assert len(pictures) == 4


# What a user would put around it: class, widgets, links from and to the subgraph node.
AROUND = {
    "nodes": {
        "model": ["CIDM_LoadMiniModel", {}],
        "bank": ["CIDM_LoadConceptBank", {"bank": "(new bank)", "new_name": "my_bank"}],
        "latent": ["EmptyLatentImage", {"width": 32, "height": 32}],
        "decode": ["VAEDecode", {}],
        "save": ["SaveImage", {"filename_prefix": "blueprint"}],
        "layout": ["PreviewImage", {}],
    },
    "links": [
        ["model", 0, "subgraph", "model"],
        ["model", 1, "subgraph", "clip"],
        ["bank", 0, "subgraph", "bank"],
        ["latent", 0, "subgraph", "latent_image"],
        ["subgraph", 0, "decode", "samples"],
        ["model", 2, "decode", "vae"],
        ["decode", 0, "save", "images"],
        ["subgraph", 1, "layout", "images"],
    ],
}
