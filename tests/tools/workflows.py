"""What the shipped workflows are made of; `make_workflows.py` turns it into files.

A workflow is nodes by key, in rows of titled groups, each of which has columns of node keys.
Links are ["key", slot], as in the host's API format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
ARCHIVE = "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
BLUE, GREEN, PURPLE, GREY = "#3f789e", "#4a7a4a", "#7a4a8a", "#666"
DOG, CAT, STYLE = "<dog1> <dog2>", "<cat1> <cat2>", "<paint1> <paint2>"
NEGATIVE = "blurry, low quality, deformed, watermark, text"
BANK = "my_bank"
NOTE = "note"


@dataclass
class Workflow:
    """One file.

    Attributes:
        title: File name without its ending; the title in the template browser.
        nodes: Node key -> {"class_type", "inputs", "title", "look"}.
        rows: Rows of (title, colour, columns of node keys).
        note: What to do and what to change, as Markdown.
        note_size: Width and height of the note.
        extra: For the file's "extra".
    """

    title: str
    note: str
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[list[tuple[str, str, list[list[str]]]]] = field(default_factory=list)
    note_size: tuple[int, int] = (380, 330)
    extra: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        key: str,
        node: str,
        title: str = "",
        /,
        *,
        size: tuple[int, int] = (320, 0),
        widgets: dict[str, Any] | None = None,
        models: list[dict[str, str]] | None = None,
        **inputs: Any,
    ) -> str:
        """Add a node; `widgets` are values that have no plain form in the API format."""
        look = {"width": size[0], "height": size[1], "widgets": widgets or {}, "models": models}
        self.nodes[key] = {"class_type": node, "inputs": inputs, "title": title, "look": look}
        return key

    def spec(self) -> dict[str, Any]:
        """As `canvas.build` takes it: nodes by number, in the order they were added."""
        ids = {key: str(number) for number, key in enumerate(self.nodes, start=1)}

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
        rows = [
            [
                {
                    "title": title,
                    "color": colour,
                    "columns": [[ids.get(key, key) for key in column] for column in columns],
                }
                for title, colour, columns in row
            ]
            for row in self.rows
        ]
        notes = {NOTE: {"title": "How to use", "text": self.note, "size": self.note_size}}
        extra = linear(self.extra, ids)
        return {"api": api, "rows": rows, "notes": notes, "extra": extra, "name": self.title}


def linear(extra: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """The app mode's inputs and outputs, by number."""
    if "linearData" not in extra:
        return extra
    data = extra["linearData"]
    inputs = [[ids[key], widget] for key, widget in data["inputs"]]
    return {**extra, "linearData": {"inputs": inputs, "outputs": [ids[k] for k in data["outputs"]]}}


def load(w: Workflow) -> None:
    """A checkpoint; its three outputs are those of Load Mini Model too."""
    file = {"name": CHECKPOINT, "url": ARCHIVE + CHECKPOINT, "directory": "checkpoints"}
    w.add("model", "CheckpointLoaderSimple", models=[file], ckpt_name=CHECKPOINT)


def bank(w: Workflow, title: str = "") -> None:
    w.add("bank", "CIDM_LoadConceptBank", title, bank="(new bank)", new_name=BANK)


def apply(w: Workflow, source: str = "bank") -> None:
    w.add(
        "apply",
        "CIDM_ApplyConceptBank",
        model=["model", 0],
        clip=["model", 1],
        bank=[source, 0],
    )


def text(w: Workflow, key: str, title: str, words: str, clip: Any = None, height: int = 130) -> str:
    clip = clip or ["apply", 1]
    return w.add(key, "CLIPTextEncode", title, size=(360, height), clip=clip, text=words)


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
) -> str:
    return w.add(
        key,
        "KSampler",
        title,
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


def finish(
    w: Workflow, prefix: str, samples: str = "sampler", name: str = "", title: str = ""
) -> None:
    w.add(f"decode{name}", "VAEDecode", size=(200, 0), samples=[samples, 0], vae=["model", 2])
    w.add(
        f"save{name}",
        "SaveImage",
        title,
        size=(420, 460),
        images=[f"decode{name}", 0],
        filename_prefix=prefix,
    )


def learning(w: Workflow, folder: str, words: str, thing: str, name: str) -> None:
    """Photos of a folder, and the node that learns from them."""
    w.add("photos", "LoadImageTextDataSetFromFolder", "Your photos (input folder)", folder=folder)
    w.add("look", "PreviewImage", "What it learns from", size=(320, 300), images=["photos", 0])
    w.add(
        "train",
        "CIDM_TrainConcept",
        size=(400, 900),
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
        preset="Balanced",
    )


def empty(w: Workflow, width: int = 512, height: int = 512, batch: int = 1) -> None:
    w.add("latent", "EmptyLatentImage", width=width, height=height, batch_size=batch)


def first() -> Workflow:
    w = Workflow(
        "1 Learn your first concept",
        "## Teach the model your dog (or anything)\n"
        "1. Make a folder `input/my_dog` with 3 to 10 photos. Best with a caption beside each: "
        "`dog1.txt` for `dog1.jpg`, such as *a dog on a sofa*. Refresh (`R`), choose the folder.\n"
        "2. **Train Concept**: `words` are new words of your own; `class_words` is what it is.\n"
        "3. Run. The node shows loss, time left and pictures. **Cancel** keeps the state; run "
        "again to go on. A finished concept is not learned twice.\n"
        "4. Below, the new words draw it. They work in any CLIP Text Encode after **Apply "
        "Concept Bank**.\n\n"
        "Masks of the subject? Use `photo_folder` in Train Concept and put `dog1_mask.png` there.",
        note_size=(380, 440),
    )
    load(w)
    bank(w)
    learning(w, "my_dog", DOG, "dog", "dog")
    apply(w, "train")
    text(w, "positive", "Prompt with your words", f"a photo of a {DOG} on a beach, sunny day")
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w)
    draw(w, seed=1)
    finish(w, "first concept")
    w.rows = [
        [
            ("", GREY, [[NOTE]]),
            ("1  Model, bank, photos", BLUE, [["model", "bank", "photos"], ["look"]]),
            ("2  Learn", PURPLE, [["train"]]),
            (
                "3  Draw it",
                GREEN,
                [["apply", "positive", "negative"], ["latent", "sampler", "decode"], ["save"]],
            ),
        ]
    ]
    return w


def second() -> Workflow:
    w = Workflow(
        "2 Learn a second concept without losing the first",
        "## One more, and the first stays\n"
        "Do *1 Learn your first concept* before, with the same bank name.\n"
        "1. Photos of the second concept go into `input/my_cat`; choose the folder.\n"
        "2. Give **new** `words`, and run. Photos of the first concept are not needed.\n"
        "3. The upper picture is the **first** concept, drawn with the prompt and seed of "
        "workflow 1: compare it with the picture saved there. It is the same.\n"
        "4. The lower one is the new concept.\n\n"
        "Go on like this with a third, a tenth, a hundredth.",
        note_size=(380, 360),
    )
    load(w)
    bank(w, "The bank that knows the first concept")
    learning(w, "my_cat", CAT, "cat", "cat")
    apply(w, "train")
    text(w, "positive", "The FIRST concept", f"a photo of a {DOG} on a beach, sunny day")
    text(w, "positive_2", "The NEW concept", f"a photo of a {CAT} on a beach, sunny day")
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w)
    draw(w, seed=1, title="KSampler: first concept")
    draw(w, "sampler_2", positive="positive_2", seed=1, title="KSampler: new concept")
    finish(w, "first concept again", title="The first concept, as it was")
    finish(w, "second concept", "sampler_2", "_2", "The new concept")
    w.rows = [
        [
            ("", GREY, [[NOTE]]),
            ("1  Model, bank, photos", BLUE, [["model", "bank", "photos"], ["look"]]),
            ("2  Learn the second", PURPLE, [["train"]]),
            (
                "3  Draw both",
                GREEN,
                [
                    ["apply", "positive", "positive_2", "negative", "latent"],
                    ["sampler", "decode", "sampler_2", "decode_2"],
                    ["save", "save_2"],
                ],
            ),
        ]
    ]
    return w


def scenes() -> Workflow:
    w = Workflow(
        "3 One concept in new scenes",
        "## Your concept anywhere\n"
        "1. Choose your bank in **Load Concept Bank** (or type its name).\n"
        "2. Write its words into the prompt. `{a|b|c}` takes another scene each time you run.\n"
        "3. **Show Concept Weights** tells which concepts took part, layer by layer.\n\n"
        "Change `strength` of Apply Concept Bank: 0.8 follows the scene more, 1.2 the concept "
        "more. `(words:1.2)` works as always, and so do LoRA loaders and ControlNet.",
        note_size=(380, 330),
    )
    load(w)
    bank(w)
    w.add("listing", "PreviewAny", "What the bank knows", size=(320, 140), source=["bank", 1])
    apply(w)
    scene = "{on a beach at sunset|in deep snow|in a city street at night|in a field of flowers}"
    text(w, "positive", "Prompt: another scene each run", f"a photo of a {DOG} {scene}")
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w, batch=2)
    draw(w, seed=11)
    finish(w, "new scenes")
    w.add(
        "weights",
        "CIDM_ShowConceptWeights",
        size=(420, 420),
        conditioning=["positive", 0],
    )
    w.rows = [
        [
            ("", GREY, [[NOTE]]),
            ("1  Model and bank", BLUE, [["model", "bank", "listing", "apply"]]),
            ("2  Prompt", PURPLE, [["positive", "negative", "latent"]]),
            ("3  Picture", GREEN, [["sampler", "decode"], ["save"]]),
            ("Who took part?", GREY, [["weights"]]),
        ]
    ]
    return w


BOXES = [
    {"x": 32, "y": 112, "width": 320, "height": 384, "desc": f"a {DOG}, sitting"},
    {"x": 416, "y": 144, "width": 320, "height": 352, "desc": f"a {CAT}, sitting"},
]


def boxes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The editor's state: pixels, words in metadata."""
    return [
        {**{k: row[k] for k in ("x", "y", "width", "height")}, "metadata": meta(row["desc"])}
        for row in rows
    ]


def meta(desc: str) -> dict[str, Any]:
    return {"type": "obj", "text": "", "desc": desc, "palette": []}


def several() -> Workflow:
    w = Workflow(
        "4 Several concepts, each in its box",
        "## Two or more concepts in one picture, nothing mixed up\n"
        "1. Choose your bank.\n"
        "2. Drag boxes in **Create Bounding Boxes**; each box's *description* is its prompt, with "
        "the words of its concept. (Editor: Nodes 2.0. On the classic canvas write lines into "
        "**Concept Regions** instead: `0.05,0.2,0.45,0.95: a <dog1> <dog2>`, and disconnect "
        "*elements*.)\n"
        "3. The prompt on the left says what the whole picture shows.\n"
        "4. Run. `alpha`: how much the whole picture's prompt speaks inside the boxes; `feather`: "
        "how soft their edges are.\n\n"
        "Any sampler and scheduler will do. The size of the picture is that of the editor.",
        note_size=(380, 460),
    )
    load(w)
    bank(w)
    apply(w)
    text(
        w,
        "positive",
        "The whole picture",
        f"a photo of a {DOG} and a {CAT} sitting side by side in a garden, flowers, sunny day",
    )
    text(w, "negative", "Negative prompt", NEGATIVE, height=110)
    w.add(
        "editor",
        "CreateBoundingBoxes",
        size=(480, 860),
        widgets={"editor_state": boxes(BOXES)},
        width=768,
        height=512,
    )
    w.add("shape", "GetImageSize", "Size of the editor", size=(240, 0), image=["editor", 0])
    w.add(
        "regions",
        "CIDM_ConceptRegions",
        size=(400, 520),
        clip=["apply", 1],
        prompts="",
        elements=["editor", 2],
        picture_width=["shape", 0],
        picture_height=["shape", 1],
    )
    w.add(
        "guider",
        "CIDM_RegionalNoiseGuider",
        model=["apply", 0],
        positive=["positive", 0],
        negative=["negative", 0],
        regions=["regions", 0],
    )
    sampling(w, seed=4)
    w.add("latent", "EmptyLatentImage", width=["shape", 0], height=["shape", 1], batch_size=1)
    finish(w, "several concepts")
    w.rows = [
        [
            ("", GREY, [[NOTE]]),
            ("1  Model and bank", BLUE, [["model", "bank", "apply"]]),
            ("2  Whole picture", PURPLE, [["positive", "negative"]]),
            ("3  A box for each concept", PURPLE, [["editor"], ["shape", "regions"]]),
            ("4  Sample", GREEN, [["guider", "noise"], ["method", "sigmas", "latent", "sampler"]]),
            ("Picture", GREEN, [["decode", "save"]]),
        ]
    ]
    return w


def sampling(w: Workflow, seed: int, steps: int = 30, scheduler: str = "karras") -> None:
    """SamplerCustomAdvanced and what it needs beside the guider and the latent."""
    w.add(
        "noise", "RandomNoise", noise_seed=seed, widgets={"control_after_generate": "fixed"}
    )
    w.add("method", "KSamplerSelect", sampler_name="dpmpp_2m")
    w.add(
        "sigmas",
        "BasicScheduler",
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


def style() -> Workflow:
    w = Workflow(
        "5 Style transfer of a photo",
        "## Paint a photo in your style (img2img)\n"
        "Teach a style first: workflow 1 with pictures of one style, `kind` = **style**, "
        f"`words` = `{STYLE}`, `class_words` = *painting*.\n"
        "1. Choose your bank and your photo.\n"
        "2. Describe the photo in the prompt, and keep the style's words.\n"
        "3. `denoise` in KSampler decides: 0.4 keeps the photo and tints it, 0.75 repaints it.",
        note_size=(380, 320),
    )
    load(w)
    bank(w)
    apply(w)
    photo(w)
    text(w, "positive", "The photo, and the style", f"a {STYLE} of a landscape with trees")
    text(w, "negative", "Negative prompt", NEGATIVE)
    draw(w, latent=["encode", 0], seed=5, denoise=0.6)
    finish(w, "style transfer")
    w.rows = [
        [
            ("", GREY, [[NOTE]]),
            ("1  Model and bank", BLUE, [["model", "bank", "apply"]]),
            ("2  Photo", PURPLE, [["photo", "scale", "encode"]]),
            ("3  Words", PURPLE, [["positive", "negative"]]),
            ("4  Picture", GREEN, [["sampler", "decode"], ["save"]]),
        ]
    ]
    return w


def photo(w: Workflow, title: str = "Your photo") -> None:
    """A photo at the model's size, as a latent."""
    w.add("photo", "LoadImage", title, size=(320, 400), image="example.png")
    w.add(
        "scale",
        "ImageScaleToTotalPixels",
        "To the model's size",
        image=["photo", 0],
        upscale_method="lanczos",
        megapixels=0.3,
        resolution_steps=8,
    )
    w.add("encode", "VAEEncode", size=(200, 0), pixels=["scale", 0], vae=["model", 2])


def inpaint() -> Workflow:
    w = Workflow(
        "6 Put a concept into a photo (inpaint)",
        "## Your concept in your photo\n"
        "1. Choose your bank and your photo.\n"
        "2. Right-click the photo, **Open in MaskEditor**, paint where the concept shall be, save. "
        "Paint generously: the whole body and its shadow.\n"
        "3. Say in the prompt what is there, with the concept's words.\n"
        "4. Run. Everything outside the mask stays as it is.\n\n"
        "Too little changes? Raise `denoise`. A visible seam? Raise `expand` of Grow Mask.",
        note_size=(380, 340),
    )
    load(w)
    bank(w)
    apply(w)
    photo(w, "Your photo, with a painted mask")
    w.add("grow", "GrowMask", mask=["photo", 1], expand=6, tapered_corners=True)
    w.add("masked", "SetLatentNoiseMask", samples=["encode", 0], mask=["grow", 0])
    w.add("soft", "DifferentialDiffusion", model=["apply", 0])
    text(w, "positive", "What is there", f"a photo of a {DOG} sitting on the grass")
    text(w, "negative", "Negative prompt", NEGATIVE)
    draw(w, latent=["masked", 0], seed=6, denoise=0.95, model=["soft", 0])
    w.add("decode", "VAEDecode", size=(200, 0), samples=["sampler", 0], vae=["model", 2])
    w.add(
        "paste",
        "ImageCompositeMasked",
        "Keep the rest of the photo",
        destination=["scale", 0],
        source=["decode", 0],
        mask=["grow", 0],
        x=0,
        y=0,
        resize_source=True,
    )
    w.add(
        "save",
        "SaveImage",
        size=(420, 460),
        images=["paste", 0],
        filename_prefix="concept in photo",
    )
    w.rows = [
        [
            ("", GREY, [[NOTE]]),
            ("1  Model and bank", BLUE, [["model", "bank", "apply"]]),
            ("2  Photo and mask", PURPLE, [["photo", "scale"], ["encode", "grow", "masked", "soft"]]),
            ("3  Words", PURPLE, [["positive", "negative"]]),
            ("4  Picture", GREEN, [["sampler", "decode", "paste"], ["save"]]),
        ]
    ]
    return w


def check() -> Workflow:
    w = Workflow(
        "7 Check what was kept",
        "## Does the model still know everything?\n"
        "Draws each concept with the same seeds and compares with your photos.\n"
        "1. Choose your bank, and the photo folders of two concepts.\n"
        "2. Load a CLIP vision model; it is only the judge.\n"
        "3. Run, and keep the table. **IA**: likeness to the photos (times 100).\n"
        "4. Learn more concepts, then run this again: same seeds, so the pictures and figures "
        "must not change.\n\n"
        "For TA, connect a full CLIP text model to `clip` of Evaluate Concepts.",
        note_size=(380, 350),
    )
    load(w)
    bank(w)
    apply(w)
    w.add("judge", "CLIPVisionLoader", clip_name=JUDGE)
    text(w, "negative", "Negative prompt", NEGATIVE, height=100)
    empty(w, batch=4)
    columns: list[list[str]] = [[], [], []]
    for number, (words, name) in enumerate(((DOG, "dog"), (CAT, "cat")), start=1):
        n = f"_{number}"
        text(w, f"positive{n}", f"Concept {number}", f"a photo of a {words}", height=90)
        draw(w, f"sampler{n}", positive=f"positive{n}", seed=7, title=f"KSampler: concept {number}")
        w.add(f"decode{n}", "VAEDecode", size=(200, 0), samples=[f"sampler{n}", 0], vae=["model", 2])
        photos(w, f"photos{n}", f"my_{name}", f"Photos of concept {number}")
        w.add(
            f"score{n}",
            "CIDM_EvaluateConcepts",
            f"Concept {number}: likeness to its photos",
            size=(420, 560),
            images=[f"decode{n}", 0],
            clip_vision=["judge", 0],
            references=[f"photos{n}", 0],
            names=name,
            bank=["bank", 0],
        )
        w.add(
            f"save{n}",
            "SaveImage",
            size=(420, 460),
            images=[f"decode{n}", 0],
            filename_prefix=f"kept {name}",
        )
    w.rows = [
        [
            ("", GREY, [[NOTE]]),
            ("1  Model, bank, judge", BLUE, [["model", "bank", "apply", "judge", "negative", "latent"]]),
        ],
    ]
    return w


JUDGE = "clip_vision_l.safetensors"


def photos(w: Workflow, key: str, folder: str, title: str) -> None:
    w.add(key, "LoadImageDataSetFromFolder", title, folder=folder)


ALL: tuple[Callable[[], Workflow], ...] = (first, second, scenes, several, style, inpaint)
