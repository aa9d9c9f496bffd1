"""Photos and Captions among core's dataset nodes and our own, by ComfyUI's executor."""

import asyncio
import sys
from pathlib import Path
from typing import ClassVar

import execution
import folder_paths
import numpy as np
import torch
from inside import ROOT, report
from PIL import Image

import nodes  # the host's

torch.set_num_threads(1)
base = Path(sys.argv[1])
photos = base / "input" / "dogs"
photos.mkdir(parents=True)
folder_paths.models_dir = str(base / "models")
folder_paths.set_output_directory(str(base / "output"))
folder_paths.set_input_directory(str(base / "input"))
extras = Path(nodes.__file__).parent / "comfy_extras"
for part in (ROOT, *(extras / f"nodes_{name}.py" for name in ("preview_any", "dataset", "mask"))):
    assert asyncio.run(nodes.load_custom_node(str(part)))
found = {}


class NoBrowser:
    client_id = last_node_id = None
    sockets_metadata: ClassVar[dict] = {}

    def send_sync(self, *told):
        pass


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def run(**prompt):
    """What the nodes of a prompt show, or the error that ended it."""
    valid, error, outputs, wrong = asyncio.run(execution.validate_prompt("1", prompt, None))
    assert valid, (error, wrong)
    executor = execution.PromptExecutor(NoBrowser(), cache_args={"ram": 0, "ram_inactive": 0})
    executor.execute(prompt, "1", execute_outputs=outputs)
    if not executor.success:
        return executor.status_messages[-1][1]["exception_message"].strip()
    return executor.history_result["outputs"]


def look(**inputs):
    """The node, and its texts."""
    given = {"words": "<dog1> <dog2>", "class_words": "dog", "kind": "object", "resolution": 32}
    return {
        "look": node("CIDM_PhotosAndCaptions", **given | inputs),
        "captions": node("PreviewAny", source=["look", 1]),
        "report": node("PreviewAny", source=["look", 4]),
    }


def learn(bank, **inputs):
    given = {"words": "<dog1> <dog2>", "class_words": "dog", "kind": "object"}
    given |= {"preset": "Balanced", "steps": 2, "seed": 0, "again": "refuse"}
    return {
        "mini": node("CIDM_LoadMiniModel"),
        "bank": node("CIDM_LoadConceptBank", **bank),
        "train": node(
            "CIDM_TrainConcept",
            **{"model": ["mini", 0], "clip": ["mini", 1], "vae": ["mini", 2]},
            **{"bank": ["bank", 0], **given, **inputs},
        ),
    }


def texts(shown):
    return {name: shown[name]["text"][0] for name in ("captions", "report")}


def files():
    return {path.name: path.read_bytes().hex() for path in photos.iterdir()}


draws = np.random.default_rng(0)
for number, size in enumerate([(64, 64), (96, 64), (64, 80)], 1):
    pixels = draws.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / f"{number}.png")
for number, text in ((1, "a brown dog: sitting"), (2, "a dog outside")):
    (photos / f"{number}.txt").write_text(text)
Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), 12)).save(photos / "1_mask.png")

# Seen, and handed on exactly.
before = files()
shown = run(
    **look(photo_folder="dogs"),
    sheet=node("SaveImage", images=["look", 3], filename_prefix="sheet"),
    first=node("SaveImage", images=["look", 0], filename_prefix="photo"),
    masks=node("MaskToImage", mask=["look", 2]),
    white=node("SaveImage", images=["masks", 0], filename_prefix="mask"),
)
found["folder"] = texts(shown)
found["on the node"] = [shown["look"]["text"][0], len(shown["look"]["images"])]
saved = [base / "output" / each["filename"] for each in shown["first"]["images"]]
originals = [Image.open(photos / f"{number}.png") for number in (1, 2, 3)]
found["photos"] = [
    Image.open(path).convert("RGB").tobytes() == image.tobytes()
    for path, image in zip(saved, originals, strict=True)
]
found["masks"] = len(shown["white"]["images"])
found["sheet"] = Image.open(base / "output" / shown["sheet"]["images"][0]["filename"]).size
links = {"images": ["look", 0], "captions": ["look", 1], "masks": ["look", 2]}


def both_ways(name):
    """What learning says of the folder, of the node's outputs, and of these in the same bank."""
    new = {"bank": "(new bank)", "new_name": name}
    first = run(**learn(new, photo_folder="dogs"))["train"]["text"][0]
    new["new_name"] += " by node"
    second = run(**look(photo_folder="dogs"), **learn(new, **links))["train"]["text"][0]
    kept = {"bank": name, "new_name": ""}
    third = run(**look(photo_folder="dogs"), **learn(kept, **links))
    return first, second, third if isinstance(third, str) else third["train"]["text"][0]


mask = Image.open(photos / "1_mask.png")
(photos / "1_mask.png").unlink()
found["no mask"] = both_ways("none")
for number, image in enumerate(originals, 1):
    mask.resize(image.size).save(photos / f"{number}_mask.png")
found["masks of all"] = both_ways("all")
for number in (1, 2, 3):
    (photos / f"{number}_mask.png").unlink()
mask.save(photos / "1_mask.png")
before = files()

# Core's loader, a list of captions, edited by name and by order, stripped.
loader = node("LoadImageTextDataSetFromFolder", folder="dogs_only")
only = base / "input" / "dogs_only"
only.mkdir()
for path in photos.iterdir():
    if "mask" not in path.name:
        (only / path.name).write_bytes(path.read_bytes())
shown = run(load=loader, **look(images=["load", 0], captions=["load", 1], strip=True))
found["loader"] = texts(shown)
core = learn({"bank": "(new bank)", "new_name": "core"}, images=["load", 0], captions=["load", 1])
run(load=loader, **core)
core = {"bank": "core", "new_name": ""}
given = look(images=["load", 0], captions=["load", 1])
found["learned from lists"] = run(load=loader, **given, **learn(core, **links))["train"]["text"][0]
named = "# mine\n3.png: a dog at last\n1: a dog"
found["by name"] = texts(run(**look(photo_folder="dogs", captions=named)))
found["by order"] = texts(run(**look(photo_folder="dogs", captions="a dog 1\na dog 2\na dog 3")))
long = look(photo_folder="dogs", captions="1: a dog " + "a b " * 24, clip=["mini", 1])
found["by the clip"] = texts(run(mini=node("CIDM_LoadMiniModel"), **long))["report"]
subject = node("CIDM_Subject", **links, words="<new2>", class_words="dog", kind="object")
sheet = node("SaveImage", images=["subject", 1], filename_prefix="subject")
found["subject"] = "sheet" in run(**look(photo_folder="dogs"), subject=subject, sheet=sheet)

# Written back, where that was asked for.
found["unchanged"] = files() == before
batch = node("EmptyImage", width=64, height=64, batch_size=3, color=0)
wrong = {
    "no folder": {"images": ["batch", 0], "write_back": True},
    "both": {"images": ["batch", 0], "photo_folder": "dogs"},
    "no photos": {},
    "number": {"photo_folder": "dogs", "captions": "a dog\na dog"},
    "unknown": {"photo_folder": "dogs", "captions": "1.png: a dog\n4.png: a dog"},
    "nameless": {"photo_folder": "dogs", "class_words": "teapot", "write_back": True},
    "resolution": {"photo_folder": "dogs", "resolution": 9999},
}
for name, inputs in wrong.items():
    try:
        found[name] = run(batch=batch, **look(**inputs))
    except AssertionError as error:
        found[name] = str(error)
found["unchanged by errors"] = files() == before
written = {"photo_folder": "dogs", "captions": named, "strip": True, "write_back": True}
found["written"] = texts(run(**look(**written)))["report"]
found["texts"] = {p.name: p.read_text() for p in sorted(photos.iterdir()) if p.suffix == ".txt"}
found["again"] = texts(run(**look(**written)))["report"]
report(found)
