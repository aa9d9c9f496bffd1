"""Concept files of format 1 load, list and draw as they did when they were written.

Version 0.1.0 wrote `data/format1`: a bank of two concepts learned on mini-sd, and the latents it
drew with them. Such banks are in use, so the files stay as they are and are never renewed.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from cidm_core import Bank, Region, SampleConfig, generate, load_base

FOLDER = Path(__file__).parents[1] / "data" / "format1"
SAME = 1e-4  # of latents about 3 large; CPUs round differently

MINI_SD = "96x128:1338,-301,-427,-281,-1962,-860,-1233,892,97,-64,-1503,1493,-341,156,-203,-463"
# What a listing shows, from the headers alone.
SHOWN = (
    "name",
    "words",
    "class_words",
    "kind",
    "method",
    "family",
    "base",
    "rank",
    "alpha",
    "index",
)
LISTED = [
    ("pip", ("<pip1>", "<pip2>"), "cat", "object", "cidm", "MINI", MINI_SD, 4, 6.0, 0),
    ("harbour", ("<harbour>",), "painting", "style", "cidm", "MINI", MINI_SD, 2, 2.0, 1),
]
CREATED = {"pip": "2026-11-29T13:44:55+00:00", "harbour": "2026-11-29T13:45:00+00:00"}
RECORDED = ("name", "class_words", "kind", "method", "family", "base", "index", "created")
LEFT = Region("a <pip1> <pip2> on the left", box=(0.0, 0.1, 0.6, 0.9))
RIGHT = Region("a <harbour> of a boat", box=(0.4, 0.0, 1.0, 1.0))
DRAWINGS = {
    "one concept": ("a photo of a <pip1> <pip2> on grass", (), {}),
    "regions": ("a <pip1> <pip2> and a boat", (LEFT, RIGHT), {"feather": 0.2}),
    "image to image": ("a <harbour> of a house", (), {"denoise": 0.6}),
}


@pytest.fixture(scope="module")
def bank():
    return Bank(FOLDER / "bank")


@pytest.fixture(scope="module")
def base():
    return load_base("mini-sd", device="cpu", dtype="fp32")


def ramp():
    """A picture to start from: colours that change from edge to edge."""
    across = np.linspace(0, 255, 32).astype(np.uint8)
    blue = np.full((32, 32), 90, np.uint8)
    return Image.fromarray(np.stack([*np.meshgrid(across, across), blue], -1))


def latents(base, bank, name):
    """Latents after the last step of one of DRAWINGS."""
    prompt, regions, given = DRAWINGS[name]
    config = SampleConfig(steps=4, guidance_scale=2.0, seed=7, **given)
    image = ramp() if "denoise" in given else None
    seen = []
    generate(base, bank, prompt, regions, config, image, on_step=lambda *step: seen.append(step[2]))
    return seen[-1]


def stored(name):
    """The record in a file's header and its tensors, read without the package."""
    with safe_open(FOLDER / "bank" / f"{name}.safetensors", "pt") as file:
        record = json.loads(file.metadata()["cidm"])
        return record, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_the_listing(bank):
    entries = bank.entries()
    assert bank.broken() == ()
    assert [tuple(getattr(entry, key) for key in SHOWN) for entry in entries] == LISTED
    assert {entry.name: entry.created for entry in entries} == CREATED
    assert [entry.facts["photos"] for entry in entries] == [3, 3]
    assert [entry.config["steps"] for entry in entries] == [40, 40]


@pytest.mark.parametrize("name", CREATED)
def test_every_field(bank, name):
    concept, (record, _) = bank[name], stored(name)
    assert record["version"] == 1
    for key in RECORDED:
        assert getattr(concept, key) == record[key], key
    assert concept.words == tuple(record["words"])
    assert concept.layers == tuple(record["layers"])
    assert dict(concept.config) == record["config"]
    assert dict(concept.facts) == record["facts"]


@pytest.mark.parametrize("name", CREATED)
def test_every_tensor(bank, name):
    concept, (_, tensors) = bank[name], stored(name)
    assert len(concept.low_rank) == 4 * len(concept.layers)
    for path, pair in concept.low_rank.items():
        key = "lora_unet_" + path.replace(".", "_")
        assert torch.equal(pair.down, tensors.pop(f"{key}.lora_down.weight"))
        assert torch.equal(pair.up, tensors.pop(f"{key}.lora_up.weight"))
        assert pair.alpha == tensors.pop(f"{key}.alpha").item()
    (tokens,) = concept.rows.values()
    key = f"lora_unet_cidm_tokens_{next(iter(concept.rows))}"
    assert tokens.shape[:2] == (len(concept.words), len(concept.layers))
    assert torch.equal(tokens.flatten(0, 1), tensors.pop(f"{key}.lora_down.weight"))
    assert not tensors.pop(f"{key}.lora_up.weight").any()
    assert tensors == {}


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings(base, bank, name):
    expected = load_file(FOLDER / "latents.safetensors")[name]
    torch.testing.assert_close(latents(base, bank, name), expected, rtol=0, atol=SAME)
