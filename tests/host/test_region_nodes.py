"""Region nodes in the real host: numbers, the core's box editor, masks and text."""

from __future__ import annotations

import json

import numpy as np
import pytest

CLIP = {
    "class_type": "CheckpointLoaderSimple",
    "inputs": {"ckpt_name": "sd15-random.safetensors"},
}
PROMPT = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a dog"}}
LEFT, RIGHT = (
    {"x": 0.05, "y": 0.2, "w": 0.4, "h": 0.7, "type": "obj", "desc": "a dog on the left"},
    {"x": 0.55, "y": 0.1, "w": 0.4, "h": 0.8, "type": "obj", "desc": "a cat"},
)


def editor(*boxes, width=512, height=256):
    """Create Bounding Boxes with boxes as its canvas leaves them: pixels, words in metadata."""
    state = [
        {
            "x": round(b["x"] * width),
            "y": round(b["y"] * height),
            "width": round(b["w"] * width),
            "height": round(b["h"] * height),
            "metadata": {"type": b["type"], "desc": b["desc"]},
        }
        for b in boxes
    ]
    # A bare list would be read as a link.
    inputs = {"width": width, "height": height, "editor_state": {"__value__": state}}
    return {"class_type": "CreateBoundingBoxes", "inputs": inputs}


def several(**inputs):
    inputs = {"clip": ["1", 1], "prompts": "", "picture_width": 512, "picture_height": 256} | inputs
    return {"class_type": "CIDM_ConceptRegions", "inputs": inputs}


def one(**inputs):
    inputs = {"positive": ["2", 0], "x": 0.1, "y": 0.1, "width": 0.3, "height": 0.5} | inputs
    return {"class_type": "CIDM_ConceptRegion", "inputs": inputs}


def save(node, slot=1):
    return {"class_type": "PreviewImage", "inputs": {"images": [node, slot]}}


def run(server, **nodes):
    """Run nodes 3, 4 ...; the last one's picture is shown."""
    prompt = {"1": CLIP, "2": PROMPT} | {name.lstrip("n"): node for name, node in nodes.items()}
    last = max(nodes, key=lambda name: int(name.lstrip("n"))).lstrip("n")
    return server.run(prompt | {"99": save(last)})


def message(result):
    """What the user reads: of a rejected prompt or of a node's error."""
    if result.status == "rejected":
        errors = [e for node in result.error["node_errors"].values() for e in node["errors"]]
        return " ".join(f"{e['message']} {e['details']}" for e in errors)
    return result.error["exception_message"]


def coloured(picture):
    """Share of pixels that are tinted, left and right half."""
    values = np.asarray(picture.convert("RGB"), dtype=int)[:200]
    tinted = values.max(-1) - values.min(-1) > 12
    half = picture.width // 2
    return tinted[:, :half].mean(), tinted[:, half:].mean()


@pytest.mark.parametrize(
    ("slot", "prompts"), [(1, "a dog\na cat"), (2, "")], ids=["bboxes", "elements"]
)
def test_boxes_of_the_core_editor(server, slot, prompts):
    """Its pixel boxes have no descriptions, its elements do."""
    inputs = {"elements": ["3", slot], "prompts": prompts}
    result = run(server, n3=editor(LEFT, RIGHT), n4=several(**inputs))
    assert result.status == "success", result.error
    (picture,) = server.pictures(result, "99")
    left, right = coloured(picture)
    assert left > 0.3
    assert right > 0.3
    assert result.outputs["4"]["images"]  # on the node as well


def test_lines_replace_descriptions_and_chain_with_single_regions(server):
    result = run(
        server,
        n3=editor(LEFT, RIGHT),
        n4=several(elements=["3", 2], prompts="\na small cat"),
        n5=one(regions=["4", 0], label="sky"),
    )
    assert result.status == "success", result.error
    (picture,) = server.pictures(result, "99")
    assert picture.height > picture.width  # three lines of the key below 512 x 512


def test_regions_as_text_and_as_json(server):
    lines = "0,0,0.5,1: a dog\n0.5,0,1,1: a cat"
    rows = [
        {"box": [0, 0, 0.5, 1], "prompt": "a dog"},
        {"bbox": [0, 500, 1000, 1000], "desc": "a cat"},
        {"x": 0, "y": 0, "width": 256, "height": 256, "prompt": "grass"},
    ]
    for inputs in (
        {"prompts": lines},
        {"prompts": json.dumps(rows)},
        {"elements": json.dumps(rows)},
    ):
        result = run(server, n3=several(**inputs))
        assert result.status == "success", result.error


def mask(value, width=64, height=32):
    inputs = {"value": value, "width": width, "height": height}
    return {"class_type": "SolidMask", "inputs": inputs}


def test_masks_and_a_box_socket(server):
    stack = {"class_type": "MaskToImage", "inputs": {"mask": ["3", 0]}}
    result = run(
        server,
        n3=mask(1.0),
        n4=stack,
        n5=several(masks=["3", 0], prompts="everything"),
        n6=editor(LEFT, RIGHT),
        n7=one(
            regions=["5", 0],
            box=["6", 1],
            box_number=2,
            picture_width=512,
            picture_height=256,
            background=["4", 0],
        ),
    )
    assert result.status == "success", result.error


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"x": 0.9}, "Region 1: The box (0.9, 0.1, 1.2, 0.6) of region 'region 1' reaches outside"),
        ({"box": ["3", 1], "mask": ["4", 0]}, "Disconnect one of them"),
        ({"box": ["3", 1], "box_number": 5}, "Box 5 was asked for; 2 boxes came"),
        ({"box": ["3", 1], "picture_width": 64}, "outside the picture of 64 x 512 px"),
        ({"mask": ["5", 0]}, "is empty. Paint where it should apply"),
    ],
)
def test_a_region_that_cannot_be_says_why(server, inputs, expected):
    nodes = {"3": editor(LEFT, RIGHT), "4": mask(1.0), "5": mask(0.0)}
    result = server.run({"1": CLIP, "2": PROMPT, **nodes, "6": one(**inputs), "99": save("6")})
    assert result.status in ("rejected", "error")
    assert expected in message(result)


def test_a_share_out_of_range_is_refused_before_running(server):
    result = run(server, n3=one(width=0.0))
    assert result.status == "rejected"
    assert "smaller than min" in message(result)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, "There is no region. Connect boxes or masks"),
        ({"prompts": "0,0,0.5,1: a dog\n0.5,0,1.5,1: a cat"}, "Region 2 of 2: The box"),
        ({"prompts": "0,0,0.5,1: a dog\n0.5,0.5,0.5,1: a cat"}, "Region 2 of 2: The box"),
        ({"prompts": "just words"}, "Region 1 of 1: Cannot read the region 'just words'"),
        ({"prompts": "[{"}, "The regions are no JSON"),
        ({"prompts": '[{"prompt": "a"}]'}, "Region 1 of 1: it has prompt, no box"),
        ({"prompts": '[{"box": [0, 0, 1]}]'}, "Region 1 of 1: its box is [0, 0, 1]; give four"),
        ({"prompts": '[{"box": [0, 0, 1, 1]}]'}, "Region 1 of 1: it has no prompt"),
        ({"elements": ["3", 2], "prompts": "a\nb\nc"}, "3 lines of prompts, but 2 boxes"),
        ({"masks": ["4", 0], "prompts": "a\nb"}, "2 lines of prompts, but 1 mask"),
        ({"masks": ["4", 0]}, "Region 1 of 1: it has no prompt"),
        ({"elements": ["3", 1], "picture_width": 128}, "Region 1 of 2: its box reaches from"),
        ({"elements": "7"}, "The boxes are int"),
    ],
)
def test_several_regions_name_the_one_that_is_wrong(server, inputs, expected):
    nodes = {"3": editor(LEFT, RIGHT), "4": mask(1.0)}
    result = server.run({"1": CLIP, **nodes, "6": several(**inputs), "99": save("6")})
    assert result.status in ("rejected", "error")
    assert expected in message(result)
    assert server.alive
