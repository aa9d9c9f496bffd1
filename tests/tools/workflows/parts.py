"""The parts of workflows.

A workflow is nodes by key, in stacks of titled groups, each of which has columns of node keys.
Links are ["key", slot], as in the host's API format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_HUB = "https://huggingface.co"
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
SDXL = "sd_xl_base_1.0.safetensors"
CHECKPOINTS = {
    SD15: f"{_HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/{SD15}",
    SDXL: f"{_HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/{SDXL}",
}
BLUE, GREEN, PURPLE, GREY = "#3f789e", "#4a7a4a", "#7a4a8a", "#666"
DOG, CAT, STYLE = "<dog1> <dog2>", "<cat1> <cat2>", "<paint1> <paint2>"
NEGATIVE = "blurry, low quality, deformed, watermark, text"
BANK, BANK_XL = "my_bank", "my_sdxl_bank"
JUDGE = "clip-vit-large-patch14.safetensors"
NOTE = "note"
Group = tuple[str, str, list[list[str]]]
START: Group = ("", GREY, [[NOTE]])


@dataclass
class Workflow:
    """One file.

    Attributes:
        title: File name without its ending; the title in the template browser.
        nodes: Node key -> {"class_type", "inputs", "title", "look"}.
        stacks: From left to right, groups one below the other: (title, colour, columns of keys).
        note: What to do and what to change, as Markdown.
        note_size: Width and height of the note.
        subgraphs: Key -> {"title", "inside": node keys, "shown": names of widgets, "width", "height"}.
        extra: For the file's "extra".
    """

    title: str
    note: str
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    stacks: list[list[Group]] = field(default_factory=list[list["Group"]])
    note_size: tuple[int, int] = (270, 330)
    subgraphs: dict[str, dict[str, Any]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        key: str,
        node: str,
        title: str = "",
        /,
        *,
        size: tuple[int, int] = (260, 0),
        collapsed: bool = False,
        widgets: dict[str, Any] | None = None,
        labels: dict[str, str] | None = None,
        models: list[dict[str, str]] | None = None,
        **inputs: Any,
    ) -> str:
        """Add a node.

        Args:
            key: For links and stacks.
            node: Its class.
            title: What stands over it; default: its own name.
            size: Width, and height if it shall be larger than it must.
            collapsed: Only its title is seen: it joins others, and nobody needs to change it.
            widgets: Values that have no plain form in the API format.
            labels: What its widgets are called in place of their names.
            models: Files it needs, as the frontend offers them for download.
            inputs: Values and links.
        """
        look = {"width": size[0], "height": size[1], "widgets": widgets or {}}
        look |= {"models": models, "collapsed": collapsed, "labels": labels or {}}
        self.nodes[key] = {"class_type": node, "inputs": inputs, "title": title, "look": look}
        return key

    def ids(self) -> dict[str, str]:
        """Node key -> its number, as text."""
        return {key: str(number) for number, key in enumerate(self.nodes, start=1)}

    def spec(self) -> dict[str, Any]:
        """As `canvas.build` takes it: nodes by number, in the order they were added."""
        ids = self.ids()

        def linked(value: Any) -> Any:
            if isinstance(value, list) and len(value) == 2 and value[0] in ids:
                return [ids[value[0]], value[1]]
            return value

        api = {
            ids[key]: {
                "class_type": node["class_type"],
                "inputs": {name: linked(value) for name, value in node["inputs"].items()},
                "_meta": {"title": node["title"]} if node["title"] else {},
                "_look": node["look"],
            }
            for key, node in self.nodes.items()
        }
        stacks = [
            [
                {
                    "title": title,
                    "color": colour,
                    "columns": [[ids.get(key, key) for key in column] for column in columns],
                }
                for title, colour, columns in stack
            ]
            for stack in self.stacks
        ]
        notes = (
            {}
            if not self.note
            else {NOTE: {"title": "How to use", "text": self.note, "size": self.note_size}}
        )
        extra = linear(self.extra, ids)
        subgraphs = {
            key: {**each, "inside": [ids[inner] for inner in each["inside"]]}
            for key, each in self.subgraphs.items()
        }
        found = {"api": api, "stacks": stacks, "notes": notes, "subgraphs": subgraphs}
        return found | {"extra": extra, "name": self.title}


def linear(extra: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """The app mode's inputs and outputs, by number."""
    if "linearData" not in extra:
        return extra
    data = extra["linearData"]
    inputs = [[ids[key], widget] for key, widget in data["inputs"]]
    return {**extra, "linearData": {"inputs": inputs, "outputs": [ids[k] for k in data["outputs"]]}}


def load(w: Workflow, checkpoint: str = SD15) -> None:
    """A checkpoint; its three outputs are those of Load Mini Model too."""
    file = {"name": checkpoint, "url": CHECKPOINTS[checkpoint], "directory": "checkpoints"}
    w.add("model", "CheckpointLoaderSimple", models=[file], ckpt_name=checkpoint)


def bank(w: Workflow, title: str = "", name: str = BANK, **look: Any) -> None:
    look = {"size": (260, 120), **look}
    w.add("bank", "CIDM_LoadConceptBank", title, bank="(new bank)", new_name=name, **look)


def apply(w: Workflow, source: str = "bank", **look: Any) -> None:
    w.add(
        "apply",
        "CIDM_ApplyConceptBank",
        **look,
        model=["model", 0],
        clip=["model", 1],
        bank=[source, 0],
    )


def text(
    w: Workflow, key: str, title: str, words: str, clip: Any = None, height: int = 100, **look: Any
) -> str:
    clip = clip or ["apply", 1]
    return w.add(key, "CLIPTextEncode", title, size=(270, height), clip=clip, text=words, **look)


def draw(
    w: Workflow,
    key: str = "sampler",
    *,
    positive: str = "positive",
    latent: Any = None,
    seed: int = 1,
    steps: int = 30,
    cfg: float = 7.5,
    denoise: float = 1.0,
    title: str = "",
    scheduler: str = "karras",
    sampler: str = "dpmpp_2m",
    model: Any = None,
    **look: Any,
) -> str:
    return w.add(
        key,
        "KSampler",
        title,
        **look,
        model=model or ["apply", 0],
        positive=[positive, 0],
        negative=["negative", 0],
        latent_image=latent or ["latent", 0],
        widgets={"control_after_generate": "fixed"},
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name=sampler,
        scheduler=scheduler,
        denoise=denoise,
    )


def decode(w: Workflow, key: str = "decode", samples: str = "sampler") -> None:
    w.add(key, "VAEDecode", collapsed=True, samples=[samples, 0], vae=["model", 2])


def finish(
    w: Workflow,
    prefix: str,
    samples: str = "sampler",
    name: str = "",
    title: str = "",
    size: tuple[int, int] = (320, 360),
) -> None:
    decode(w, f"decode{name}", samples)
    w.add(
        f"save{name}",
        "SaveImage",
        title,
        size=size,
        images=[f"decode{name}", 0],
        filename_prefix=prefix,
    )


def learning(
    w: Workflow, folder: str, words: str, thing: str, name: str, preset: str = "Balanced"
) -> None:
    """Photos of a folder, and the node that learns from them."""
    w.add("photos", "LoadImageTextDataSetFromFolder", "Your photos (input folder)", folder=folder)
    w.add("look", "PreviewImage", "What it learns from", size=(260, 220), images=["photos", 0])
    w.add(
        "train",
        "CIDM_TrainConcept",
        size=(320, 600),
        model=["model", 0],
        clip=["model", 1],
        vae=["model", 2],
        bank=["bank", 0],
        images=["photos", 0],
        captions=["photos", 1],
        words=words,
        class_words=thing,
        kind="object",
        name=name,
        preset=preset,
    )


def empty(w: Workflow, width: int = 512, height: int = 512, batch: int = 1, **look: Any) -> None:
    w.add("latent", "EmptyLatentImage", width=width, height=height, batch_size=batch, **look)


def photo(w: Workflow, title: str = "Your photo") -> None:
    """A photo at the model's size, as a latent."""
    w.add("photo", "LoadImage", title, size=(280, 320), image="example.png")
    w.add(
        "scale",
        "ImageScaleToTotalPixels",
        "To the model's size",
        image=["photo", 0],
        upscale_method="lanczos",
        megapixels=0.3,
        resolution_steps=8,
    )
    w.add("encode", "VAEEncode", collapsed=True, pixels=["scale", 0], vae=["model", 2])


def sampling(w: Workflow, seed: int, steps: int = 30, scheduler: str = "karras") -> None:
    """SamplerCustomAdvanced and what it needs beside the guider and the latent."""
    w.add("noise", "RandomNoise", noise_seed=seed, widgets={"control_after_generate": "fixed"})
    w.add("method", "KSamplerSelect", collapsed=True, sampler_name="dpmpp_2m")
    w.add(
        "sigmas",
        "BasicScheduler",
        collapsed=True,
        model=["apply", 0],
        scheduler=scheduler,
        steps=steps,
        denoise=1.0,
    )
    w.add(
        "sampler",
        "SamplerCustomAdvanced",
        noise=["noise", 0],
        guider=["guider", 0],
        sampler=["method", 0],
        sigmas=["sigmas", 0],
        latent_image=["latent", 0],
    )
