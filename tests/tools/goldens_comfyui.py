"""The ComfyUI part of the goldens: one graph of stock nodes and ours, run by a real server.

Latents are written by the core's SaveLatent node. Node ids and inputs are the whole interface.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from host import server
from safetensors.torch import load_file
from torch import Tensor

PIP, TIA, HARBOUR = "<pip1> <pip2>", "<tia1> <tia2>", "<harbour1> <harbour2>"
ONE = f"a photo of a {PIP} on grass"
TWO = f"a {PIP} on the left and a {TIA} on the right, green background"
LEFT = {"text": f"a {PIP} on the left", "x": 0.0, "y": 0.1, "width": 0.6, "height": 0.8}
RIGHT = {"text": f"a {TIA} on the right", "x": 0.4, "y": 0.0, "width": 0.6, "height": 1.0}
OWN = {**RIGHT, "negative": f"a red {PIP}"}
PAINTED = {**RIGHT, "mask": True}
BOTH = (LEFT, RIGHT)
APPLY = {"weights": "gate", "top_k": 4, "strength": 1.0, "encoding": "per_task"}
GUIDE = {"alpha": 0.1, "feather": 0.2, "region_mode": "partition", "region_weights": "per_region"}
GUIDE |= {"regional_attention": True, "noise_estimation": True}
# Prompt, regions, then settings of Apply Concept Bank, of the guider, and `draw`'s own.
DRAWINGS = {
    "no concept": ("a photo of a red cat", (), {}),
    "one concept": (ONE, (), {}),
    "two concepts": (TWO, (), {}),
    "style": (f"a {HARBOUR} of a {PIP}", (), {}),
    "negative prompt": (ONE, (), {"negative": f"gray, a {TIA}"}),
    "two pictures": (ONE, (), {"pictures": 2}),
    "paper": (TWO, (), {"weights": "paper"}),
    "released": (TWO, (), {"weights": "released"}),
    "joint encoding": (TWO, (), {"encoding": "joint"}),
    "strength": (TWO, (), {"strength": 0.7}),
    "regions": (TWO, BOTH, {}),
    "regions, two pictures": (TWO, BOTH, {"pictures": 2}),
    "regions, attention": (TWO, BOTH, {"noise_estimation": False}),
    "regions, noise": (TWO, BOTH, {"regional_attention": False}),
    "regions, literal": (TWO, BOTH, {"region_mode": "literal"}),
    "regions, global weights": (TWO, BOTH, {"region_weights": "global"}),
    "regions, paper": (TWO, BOTH, {"weights": "paper"}),
    "regions, own negative": (TWO, (LEFT, OWN), {}),
    "regions, painted": (TWO, (LEFT, PAINTED), {}),
    "image to image": (f"a {HARBOUR} of a cat", (), {"denoise": 0.6, "image": True}),
    "inpainting": (f"a {TIA}", (), {"image": True, "mask": True}),
    "regions, inpainting": (TWO, BOTH, {"denoise": 0.8, "image": True, "mask": True}),
}
TRAINING = {
    "words": "<plum1> <plum2>",
    "class_words": "house",
    "kind": "object",
    "name": "plum-house",
    "preset": "Balanced",
    "photo_folder": "plum-house",
    "captions": "",
    "steps": 8,
    "seed": 3,
}
METHOD = {
    "rank": 4,
    "variants": 2,
    "save_every": 0,
    "preview_every": 0,
    "lr_lora": 1e-2,
    "lr_tokens": 3e-2,
    "orthogonality": "energy",
    "common_subspace": "closed_form",
}
PHOTO, MASK = "purple-cat/1.png", "purple-cat/1_mask.png"


class Graph:
    """A prompt in API form, built node by node; an equal node is made once."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict] = {}

    def __call__(self, kind: str, slot: int = 0, /, **inputs: object) -> list:
        """The link to an output of a node."""
        node = {"class_type": kind, "inputs": inputs}
        known = next((key for key, value in self.nodes.items() if value == node), None)
        key = known or str(len(self.nodes) + 1)
        self.nodes[key] = node
        return [key, slot]

    def model(self, slot: int) -> list:
        """MODEL, CLIP or VAE of mini-sd."""
        return self("CIDM_LoadMiniModel", slot)

    def bank(self, name: str) -> list:
        return self("CIDM_LoadConceptBank", bank=name, new_name="")

    def text(self, clip: list, text: str) -> list:
        return self("CLIPTextEncode", clip=clip, text=text)

    def start(self, given: dict) -> list:
        """The latents to start from."""
        if not given.get("image"):
            size = {"width": 32, "height": 32}
            return self("EmptyLatentImage", **size, batch_size=given.get("pictures", 1))
        image = self("LoadImage", image=PHOTO)
        scaled = {"width": 32, "height": 32, "upscale_method": "area", "crop": "center"}
        image = self("ImageScale", image=image, **scaled)
        latent = self("VAEEncode", pixels=image, vae=self.model(2))
        if not given.get("mask"):
            return latent
        return self("SetLatentNoiseMask", samples=latent, mask=self.mask())

    def mask(self) -> list:
        return self("LoadImageMask", image=MASK, channel="red")

    def draw(self, prompt: str, regions: tuple[dict, ...], given: dict) -> list:
        """Latents of one drawing."""
        chosen = {key: given.get(key, value) for key, value in APPLY.items()}
        chosen |= {"bank": self.bank("learned"), "allow_other_base": False}
        chosen |= {"model": self.model(0), "clip": self.model(1)}
        model, clip = (self("CIDM_ApplyConceptBank", slot, **chosen) for slot in (0, 1))
        common = {"positive": self.text(clip, prompt), "cfg": 4.0, "model": model}
        common |= {"negative": self.text(clip, given.get("negative", ""))}
        how = {"scheduler": "normal", "steps": 8, "denoise": given.get("denoise", 1.0)}
        start = {"latent_image": self.start(given)}
        if not regions:
            return self("KSampler", **common, **how, **start, seed=7, sampler_name="dpmpp_2m")
        guide = {key: given.get(key, value) for key, value in GUIDE.items()}
        guide["regions"] = self.regions(clip, regions)
        return self(
            "SamplerCustomAdvanced",
            noise=self("RandomNoise", noise_seed=7),
            guider=self("CIDM_RegionalNoiseGuider", **common, **guide),
            sampler=self("KSamplerSelect", sampler_name="dpmpp_2m"),
            sigmas=self("BasicScheduler", model=model, **how),
            **start,
        )

    def regions(self, clip: list, regions: tuple[dict, ...]) -> list:
        """The chain of Concept Region nodes."""
        link: dict[str, list] = {}
        for given in regions:
            inputs = {**given, **link, "positive": self.text(clip, given["text"])}
            del inputs["text"]
            if "negative" in given:
                inputs["negative"] = self.text(clip, given["negative"])
            if "mask" in given:
                inputs["mask"] = self.mask()
            link = {"regions": self("CIDM_ConceptRegion", **inputs)}
        return link["regions"]

    def train(self) -> list:
        sockets = dict(zip(("model", "clip", "vae"), map(self.model, range(3)), strict=True))
        method = self("CIDM_MethodCidm", **METHOD)
        more = {"bank": self.bank("node"), "method": method}
        return self("CIDM_TrainConcept", **sockets, **more, **TRAINING)


def run(pack: Path, photos: Path, bank: Path, taught: Path) -> tuple[dict[str, Tensor], str]:
    """Draw everything, and train once.

    Args:
        pack: The code's folder, which ComfyUI gets as a custom node.
        photos: Folders of photos; become the input directory.
        bank: The concepts to draw with, and to find when training.
        taught: Where the bank with the new concept goes.

    Returns:
        Latents by the name of the drawing, and the new concept's name.
    """
    graph = Graph()
    for number, drawing in enumerate(DRAWINGS.values()):
        graph("SaveLatent", samples=graph.draw(*drawing), filename_prefix=f"golden{number}")
    graph.train()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        shutil.copytree(photos, base / "input")
        for name in ("learned", "node"):
            shutil.copytree(bank, base / "models" / "concept_banks" / name)
        (base / "custom_nodes").mkdir()
        server.link(base / "custom_nodes" / server.PACK, pack)
        with server.running(base) as host:
            result = host.run(graph.nodes, timeout=600)
        if result.status != "success":
            raise RuntimeError(f"ComfyUI: {result.status}: {result.error}\n{host.log_text()}")
        shutil.copytree(base / "models" / "concept_banks" / "node", taught)
        files = {
            name: base / "output" / f"golden{n}_00001_.latent" for n, name in enumerate(DRAWINGS)
        }
        found = {
            f"{name}|latents": load_file(path)["latent_tensor"] for name, path in files.items()
        }
    return found, TRAINING["name"]
