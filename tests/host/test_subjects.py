"""Custom Diffusion in ComfyUI: two subjects at once by nodes, drawn by stock nodes."""

import json
from pathlib import Path

import server as host
from PIL import Image

from cidm_core.bank import Bank
from cidm_core.pictures.masks import MaskedPhoto, masks_picture

SCRIPT = Path(__file__).parent / "inside" / "execute.py"


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def photos(colour):
    return node("EmptyImage", width=48, height=48, batch_size=2, color=colour)


def drawn(prompt, name):
    """Nodes that draw a prompt with the applied bank."""
    return {
        f"{name} text": node("CLIPTextEncode", clip=["apply", 1], text=prompt),
        f"{name} sampler": node(
            "KSampler",
            model=["apply", 0],
            positive=[f"{name} text", 0],
            negative=["no", 0],
            latent_image=["latent", 0],
            **{"seed": 1, "steps": 3, "cfg": 4.0, "sampler_name": "euler"},
            **{"scheduler": "normal", "denoise": 1.0},
        ),
        f"{name} picture": node("VAEDecode", samples=[f"{name} sampler", 0], vae=["load", 2]),
        name: node("SaveImage", images=[f"{name} picture", 0], filename_prefix=name),
    }


def test_two_subjects_are_learned_at_once_and_drawn_each_by_its_words(in_host, tmp_path):
    prompt = {
        "load": node("CIDM_LoadMiniModel"),
        "bank": node("CIDM_LoadConceptBank", bank="(new bank)", new_name="pair"),
        "red": photos(0xCC2200),
        "blue": photos(0x0022CC),
        "other": photos(0x888888),
        "method": node(
            "CIDM_MethodCustomDiffusion", recipe="joint", prior_images=4, save_every=0,
            preview_every=0, batch_size=2,
        ),
        "subject": node(
            "CIDM_Subject", images=["blue", 0], words="<new2>", class_words="dog", kind="object",
            prior=["other", 0],
        ),
        "sheet": node("SaveImage", images=["subject", 1], filename_prefix="masks"),
        "train": node(
            "CIDM_TrainConcept",
            **{"model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2]},
            **{"bank": ["bank", 0], "images": ["red", 0], "method": ["method", 0]},
            **{"subjects": ["subject", 0], "words": "<new1>", "class_words": "cat"},
            **{"kind": "object", "preset": "Balanced", "steps": 6, "seed": 0},
        ),
        "apply": node(
            "CIDM_ApplyConceptBank", model=["load", 0], clip=["load", 1], bank=["train", 0]
        ),
        "no": node("CLIPTextEncode", clip=["apply", 1], text=""),
        "latent": node("EmptyLatentImage", width=32, height=32, batch_size=1),
    }  # fmt: skip
    for name, text in (("first", "a <new1> cat"), ("second", "a <new2> cat"), ("bare", "a cat")):
        prompt |= drawn(text, name)
    shown = in_host(SCRIPT, host.ROOT, tmp_path, json.dumps(prompt))
    bank = Bank(tmp_path / "models" / "concept_banks" / "pair")
    (concept,) = bank.values()
    assert concept.method == "custom_diffusion"
    assert concept.phrase == "<new1> cat and <new2> dog"
    assert concept.config["initializers"] == "1259+1235+1132"
    # Four of a cat were drawn; the dog's were given.
    (made,) = (bank.path / ".prior").iterdir()
    assert made.name.startswith("cat-")
    assert len(list(made.glob("*.png"))) == 4
    pictures = {
        Image.open(tmp_path / "output" / shown[name]["images"][0]["filename"]).tobytes()
        for name in ("first", "second", "bare")
    }
    assert len(pictures) == 3
    # The subject's photos with their masks, of which it has none.
    sheet = Image.open(tmp_path / "output" / shown["sheet"]["images"][0]["filename"])
    blue = Image.new("RGB", (48, 48), (0, 0x22, 0xCC))
    photos_seen = [MaskedPhoto(f"photo {k}", blue, None) for k in (1, 2)]
    assert sheet.convert("RGB").tobytes() == masks_picture(photos_seen).tobytes()
