"""Workflows made small enough for a test: mini-sd, few steps, few pixels; and their photos."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DOG_AND_CAT = "0,0,0.5,1: a <dog1> <dog2>\n0.5,0,1,1: a <cat1> <cat2>"
STEPS = 2
# New values by class and input; inputs that are linked stay.
_VALUES: dict[str, dict[str, Any]] = {
    "EmptyLatentImage": {"width": 32, "height": 32},
    "KSampler": {"steps": STEPS},
    "BasicScheduler": {"steps": STEPS},
    "ImageScaleToTotalPixels": {"megapixels": 0.01},
    "CIDM_TrainConcept": {"steps": STEPS},
}
_METHOD = {"batch_size": 1, "variants": 1, "save_every": 0, "preview_every": 0}
_VALUES["CIDM_MethodCustomDiffusion"] = {**_METHOD, "batch_size": 4, "prior_images": 2}
_VALUES["CIDM_MethodClif"] = {**_METHOD, "contrast_steps": 2, "word_steps": 2, "global_pairs": 4}
_VALUES["CIDM_MethodClif"] |= {"region_pairs": 2, "meeting_pairs": 2, "accumulation": 1}
_VALUES["CIDM_MethodInfusion"] = {**_METHOD, "accumulation": 1}


def on_mini(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with a mini model instead of a checkpoint."""
    made = copy.deepcopy(prompt)
    for node in made.values():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "CheckpointLoaderSimple":
            chosen = {"model": _mini_for(inputs["ckpt_name"])}
            node |= {"class_type": "CIDM_LoadMiniModel", "inputs": chosen}
        elif kind == "CLIPVisionLoader":
            node |= {"class_type": "TestTinyVision", "inputs": {}}
        elif kind == "CreateBoundingBoxes":
            _shrink(inputs, 8)
        for name, value in _VALUES.get(kind, {}).items():
            if not isinstance(inputs.get(name), list):
                inputs[name] = value
        if kind == "CIDM_TrainConcept":
            inputs.setdefault("method", ["small method", 0])
    made["small method"] = {"class_type": "CIDM_MethodCidm", "inputs": dict(_METHOD)}
    return made


def mini_instead(workflow: dict[str, Any]) -> dict[str, Any]:
    """A workflow in UI format with a mini model instead of a checkpoint."""
    made = copy.deepcopy(workflow)
    for node in made["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            chosen = [_mini_for(node["widgets_values"][0])]
            node |= {"type": "CIDM_LoadMiniModel", "inputs": [], "widgets_values": chosen}
            node |= {"properties": {}, "widgets_values_named": {}}
    return made


def _mini_for(checkpoint: str) -> str:
    return "mini-sdxl" if "xl" in checkpoint else "mini-sd"


def _shrink(inputs: dict[str, Any], times: int) -> None:
    """An editor and its boxes, all in pixels."""
    for name in ("width", "height"):
        inputs[name] //= times
    state = inputs["editor_state"]
    for box in state["__value__"] if isinstance(state, dict) else state:
        for name in ("x", "y", "width", "height"):
            box[name] = round(box[name] / times)


def photos_for(base: Path) -> None:
    """The photos that the workflows name: two folders with captions and masks, and a photo."""
    rng = np.random.default_rng(0)
    for name in ("dog", "cat"):
        folder = base / "input" / f"my_{name}"
        folder.mkdir(exist_ok=True)
        for i in range(3):
            pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
            size = (160 + 32 * i, 128)
            Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
            (folder / f"{i}.txt").write_text(f"a {name} on a wall")
            mask = Image.new("L", size)
            mask.paste(255, (40, 30, 120, 100))
            mask.save(folder / f"{i}_mask.png")
    pixels = rng.integers(0, 255, (6, 6, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    picture = Image.fromarray(pixels, "RGBA").resize((128, 128), Image.Resampling.BICUBIC)
    picture.putalpha(255)
    picture.paste((90, 90, 90, 0), (80, 64, 128, 128))  # the mask is where alpha is 0
    picture.save(base / "input" / "example.png")


def kept_part(base: Path, drawn: Image.Image) -> tuple[float, float]:
    """Mean change (0..255) of the photo's left half, and of its masked corner."""
    photo = Image.open(base / "input" / "example.png").convert("RGB")
    photo = photo.resize(drawn.size, Image.Resampling.LANCZOS)
    change = np.abs(np.asarray(photo, float) - np.asarray(drawn.convert("RGB"), float)).mean(-1)
    height, width = change.shape
    return change[:, : width // 2].mean(), change[height * 5 // 8 :, width * 3 // 4 :].mean()
