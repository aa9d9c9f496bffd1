"""Custom Diffusion at SD 1.5's size, from real photos to files that other programs draw with.

    python -m lab.speed.custom_diffusion_full_size --model FILE --photos DIR DIR
        --class-words NAME NAME [--comfyui] [--out FILE]

FILE: `python tests/tools/make_checkpoint.py FILE --preset full` (random weights, 2 GB). Learns two
steps of each of two concepts at 128 px from prior pictures that the model draws itself, merges,
compresses and exports them by `cidm`. Then draws each export by the programs it is for, and says
how far the picture is from ours: by diffusers' own loaders, and with --comfyui by its stock nodes
beside Apply Concept Bank, in a ComfyUI that is started for it.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image, ImageChops
from torch import Tensor

from cidm_core.bank import Bank
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.pipeline import make_plan

from .measure import parse, write

SUMMARY = __doc__.splitlines()[0]
PX, STEPS, PRIOR = 128, 2, 1
RATE = 3e-3  # so high that two steps are seen in a picture
NAMES = ("first", "second")
DIFFUSERS, WEBUI = "diffusers-custom-diffusion", "webui"
WEIGHTS = "pytorch_custom_diffusion_weights.safetensors"


class Work:
    """The two concepts in a folder of banks and exports, all by `cidm`."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._model, self._folder = ["--model", model], folder
        self._cpu = ["--device", "cpu", "--dtype", "fp32"]
        self.banks = {n: folder / n for n in ("bank", "merged", "compressed")}

    def learn(self, name: str, photos: Path, word: str, class_words: str) -> None:
        what = ["--photos", photos, "--words", word, "--class-words", class_words, "--name", name]
        size = ["--resolution-px", PX, "--variants", 1, "--accumulation", 1, "--steps", STEPS]
        size += ["--lr", RATE]
        given = ["--method", "custom_diffusion", "--prior-images", PRIOR, *what, *size]
        cidm("train", "--bank", self.banks["bank"], *given, *self._model, *self._cpu)

    def reduce(self) -> None:
        """One concept of both, and the first one compressed."""
        bank = ["--bank", self.banks["bank"], "--into"]
        merged = [self.banks["merged"], "--as", "both", *self._model, *self._cpu]
        cidm("bank", "merge", *NAMES, *bank, *merged)
        cidm("bank", "compress", NAMES[0], *bank, self.banks["compressed"])

    def export(self, bank: str, name: str, layout: str) -> Path:
        out = self._folder / "exported" / f"{bank}-{layout}"
        model = self._model if layout == DIFFUSERS else []
        cidm(
            "bank", "export", name, "--bank", self.banks[bank], "--as", layout, "--out", out, *model
        )
        return out


def cidm(*words: object) -> None:
    """A `cidm` command, as a process of its own."""
    command = [sys.executable, "-m", "cidm_core", *map(str, words)]
    print("cidm", *map(str, words), flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def by_diffusers(base: Base, bank: Path, name: str, files: Path) -> dict[str, float]:
    """How far latents by diffusers' own loaders are from ours, in shares of their spread."""
    concept = Bank(bank)[name]
    prompt = f"a photo of a {concept.phrase}"
    noise = torch.randn(1, 4, PX // 8, PX // 8, generator=torch.Generator().manual_seed(1))
    settings = SampleConfig(
        steps=STEPS, guidance_scale=4.0, scheduler="ddim", height_px=PX, width_px=PX
    )

    def ours(held: Mapping[str, Any], text: str) -> Tensor:
        return sampler.sample(base, make_plan(base, held, text, config=settings), noise, settings)

    drawn, plain = ours(Bank(bank), prompt), ours({}, f"a photo of a {concept.class_words}")
    pipe = diffusers.StableDiffusionPipeline(
        base.vae,
        base.text_encoders[0],
        base.tokenizers[0],
        base.unet,
        diffusers.DDIMScheduler.from_config(base.scheduler_config),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.load_attn_procs(files, weight_name=WEIGHTS, _pipeline=pipe)
    for path in sorted(files.glob("*.safetensors")):
        if path.name != WEIGHTS:
            pipe.load_textual_inversion(files, weight_name=path.name)
    given = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "latent"}
    theirs = pipe(prompt, latents=noise.clone(), height=PX, width=PX, **given).images
    spread = float(drawn.std())
    return {
        "differs": float((theirs - drawn).abs().max()) / spread,
        "concept": float((drawn - plain).abs().max()) / spread,
    }


def by_nodes(
    model: Path, folder: Path, exports: Mapping[str, Path], banks: Mapping[str, Path]
) -> dict[str, dict[str, float]]:
    """How far stock nodes' pictures are from Apply Concept Bank's, in levels of 0 to 255."""
    from tests.host.server import Server, link

    server = Server(folder)
    models = folder / "models"
    for kind in ("concept_banks", "loras", "embeddings"):
        (models / kind).mkdir(parents=True, exist_ok=True)
    link(models / "checkpoints" / model.name, model)
    found: dict[str, dict[str, float]] = {}
    for bank, files in exports.items():
        link(models / "concept_banks" / bank, banks[bank])
        for path in files.rglob("*.safetensors"):
            kind = "loras" if path.stem in Bank(banks[bank]) else "embeddings"
            link(models / kind / f"{bank}-{path.name}", path)
    server.wait()
    for bank in exports:
        prompts = ways_of(model.name, bank, Bank(banks[bank]))
        pictures = {}
        for way, prompt in prompts.items():
            result = server.run(prompt, timeout=1800)
            if result.status != "success":
                raise SystemExit(f"{way}: {result.error}\n{server.log_text()[-3000:]}")
            (told,) = result.outputs["save"]["images"]
            pictures[way] = Image.open(folder / "output" / told["filename"]).convert("RGB")
        found[bank] = {
            "differs": largest(pictures["ours"], pictures["stock"]),
            "concept": largest(pictures["ours"], pictures["plain"]),
        }
    server.stop()
    return found


def ways_of(model: str, folder: str, bank: Bank) -> dict[str, dict[str, Any]]:
    """Prompts for ComfyUI: with Apply Concept Bank, with stock nodes, with nothing learned."""
    (name,) = bank
    concept, both = bank[name], {"model": ["load", 0], "clip": ["load", 1]}
    bare, text = (f"a photo of a {phrase}" for phrase in (concept.class_words, concept.phrase))
    stock = text
    for word in concept.words:
        stock = stock.replace(word, f"embedding:{folder}-{word.strip('<>')}")
    lora = {"lora_name": f"{folder}-{name}.safetensors", "strength_clip": 1.0, **both}
    loaded = {"bank": node("CIDM_LoadConceptBank", bank=folder, new_name="")}
    applied = drawing(model, text, "CIDM_ApplyConceptBank", bank=["bank", 0], **both)
    return {
        "ours": applied | loaded,
        "stock": drawing(model, stock, "LoraLoader", strength_model=1.0, **lora),
        "plain": drawing(model, bare, "LoraLoader", strength_model=0.0, **lora),
    }


def largest(a: Image.Image, b: Image.Image) -> float:
    """The largest difference of two pictures, in levels."""
    return float(max(high for _, high in ImageChops.difference(a, b).getextrema()))  # type: ignore


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def drawing(name: str, text: str, kind: str, /, **inputs: Any) -> dict[str, Any]:
    """A prompt of stock nodes behind one node that brings the concept."""
    parts = {"model": ["concept", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    steps = {"steps": STEPS, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name=name),
        "concept": node(kind, **inputs),
        "positive": node("CLIPTextEncode", clip=["concept", 1], text=text),
        "negative": node("CLIPTextEncode", clip=["concept", 1], text=""),
        "latent": node("EmptyLatentImage", width=PX, height=PX, batch_size=1),
        "sample": node(
            "KSampler", seed=1, denoise=1.0, latent_image=["latent", 0], **parts, **steps
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="drawn"),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("custom_diffusion_full_size", description=SUMMARY)
    parser.add_argument("--model", type=Path, required=True, help="an SD 1.5 checkpoint")
    parser.add_argument("--photos", type=Path, required=True, nargs=2, help="folders of photos")
    parser.add_argument("--class-words", required=True, nargs=2, help="what they show")
    parser.add_argument("--comfyui", action="store_true", help="draw by ComfyUI's stock nodes, too")
    options, command = parse(parser, argv, rounds=False)
    model = options.model.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Work(model, Path(folder))
        words = ("<new1>", "<new2>")
        for name, photos, *what in zip(
            NAMES, options.photos, words, options.class_words, strict=True
        ):
            work.learn(name, photos, *what)
        work.reduce()
        kinds = {"merged": "both", "compressed": NAMES[0]}
        base = load_base(model, device="cpu", dtype="fp32")
        found: dict[str, Any] = {"diffusers": {}}
        for bank, name in kinds.items():
            files = work.export(bank, name, DIFFUSERS)
            found["diffusers"][bank] = by_diffusers(base, work.banks[bank], name, files)
            print("diffusers", bank, found["diffusers"][bank], flush=True)
            base = load_base(model, device="cpu", dtype="fp32")  # its loaders stay in the model
        del base
        if options.comfyui:
            exports = {bank: work.export(bank, name, WEBUI) for bank, name in kinds.items()}
            found["stock nodes"] = by_nodes(model, Path(folder) / "comfyui", exports, work.banks)
            print("stock nodes", found["stock nodes"], flush=True)
    write(
        options.out,
        "custom_diffusion_full_size",
        command,
        {"timing": "nothing is timed", "results": found},
    )


if __name__ == "__main__":
    main()
