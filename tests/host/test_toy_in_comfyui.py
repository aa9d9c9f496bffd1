"""A new method needs its file and three edits, and is then learned and drawn in ComfyUI too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import server as host
from PIL import Image

from cidm_core.bank import Bank

NODE = 'class MethodToy(MethodNode):\n    method, label = "toy", "Toy"\n\n\n'
SCRIPT = Path(__file__).parent / "inside" / "execute.py"
TOY = host.ROOT / "tests" / "toy_method.py"
EDITS = {
    "cidm_core/methods/__init__.py": [
        ("from .cidm import Cidm\n", "from .cidm import Cidm\nfrom .toy import Toy\n"),
        ('"cidm": Cidm', '"cidm": Cidm, "toy": Toy'),
    ],
    "nodes/training/methods.py": [("class MethodCidm(", f"{NODE}class MethodCidm(")],
    "nodes/extension.py": [
        ("import MethodCidm, ", "import MethodToy, MethodCidm, "),
        ("            MethodCidm,\n", "            MethodCidm,\n            MethodToy,\n"),
    ],
}


@pytest.fixture
def pack(tmp_path):
    """The pack with one more method."""
    pack = tmp_path / "pack"
    pack.mkdir()
    shutil.copy(host.ROOT / "__init__.py", pack)
    for folder in ("cidm_core", "nodes", "web", "locales"):
        shutil.copytree(host.ROOT / folder, pack / folder)
    source = TOY.read_text().replace("from cidm_core.methods.", "from .")
    (pack / "cidm_core/methods/toy.py").write_text(source.replace("from cidm_core.", "from .."))
    for file, edits in EDITS.items():
        text = (pack / file).read_text()
        for before, after in edits:
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        (pack / file).write_text(text)
    return pack


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def test_it_is_learned_and_drawn(in_host, pack, tmp_path):
    def draw(model, clip, prefix):
        drawn = {
            f"{prefix}positive": node("CLIPTextEncode", clip=clip, text="a cat on grass"),
            f"{prefix}negative": node("CLIPTextEncode", clip=clip, text=""),
            f"{prefix}sampler": node(
                "KSampler",
                model=model,
                positive=[f"{prefix}positive", 0],
                negative=[f"{prefix}negative", 0],
                latent_image=["latent", 0],
                seed=1,
                steps=4,
                cfg=4.0,
                sampler_name="euler",
                scheduler="normal",
                denoise=1.0,
            ),
        }
        picture = node("VAEDecode", samples=[f"{prefix}sampler", 0], vae=["load", 2])
        save = node("SaveImage", images=[f"{prefix}picture", 0], filename_prefix=prefix)
        return drawn | {f"{prefix}picture": picture, prefix: save}

    prompt = {
        "load": node("CIDM_LoadMiniModel"),
        "bank": node("CIDM_LoadConceptBank", bank="(new bank)", new_name="toys"),
        "photos": node("EmptyImage", width=48, height=48, batch_size=3, color=0xCC2200),
        "method": node("CIDM_MethodToy", lr=0.1, rough=0.5, preview_every=0, save_every=0),
        "train": node(
            "CIDM_TrainConcept",
            model=["load", 0],
            clip=["load", 1],
            vae=["load", 2],
            bank=["bank", 0],
            images=["photos", 0],
            method=["method", 0],
            words="",
            class_words="cat",
            kind="object",
            preset="Balanced",
            steps=20,
            seed=0,
        ),
        "apply": node(
            "CIDM_ApplyConceptBank", model=["load", 0], clip=["load", 1], bank=["train", 0]
        ),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    }
    prompt |= draw(["apply", 0], ["apply", 1], "with") | draw(["load", 0], ["load", 1], "without")
    shown = in_host(SCRIPT, pack, tmp_path, json.dumps(prompt))
    concept = Bank(tmp_path / "models" / "concept_banks" / "toys")["cat"]
    assert (concept.method, concept.words, concept.triggers) == ("toy", (), ("cat",))
    assert all(update.vector.any() for update in concept.updates.values())
    ours, bare = (
        Image.open(tmp_path / "output" / shown[name]["images"][0]["filename"])
        for name in ("with", "without")
    )
    assert ours.tobytes() != bare.tobytes()
