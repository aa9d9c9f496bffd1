"""Several concepts, each in its box."""

from __future__ import annotations

from typing import Any

from .parts import (
    BANK_XL,
    BLUE,
    CAT,
    DOG,
    GREEN,
    NEGATIVE,
    PURPLE,
    SDXL,
    START,
    Workflow,
    apply,
    bank,
    empty,
    finish,
    load,
    sampling,
    text,
)

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
        "**Concept Regions** instead: *0.05,0.2,0.45,0.95: a \\<dog1> \\<dog2>*, and disconnect "
        "*elements*.)\n"
        "3. The prompt on the left says what the whole picture shows.\n"
        "4. Run. **alpha**: how much the whole picture's prompt speaks inside the boxes; "
        "**feather**: how soft their edges are.\n\n"
        "Any sampler and scheduler will do. The size of the picture is that of the editor.",
        note_size=(260, 480),
    )
    load(w)
    bank(w)
    apply(w, collapsed=True)
    text(
        w,
        "positive",
        "The whole picture",
        f"a photo of a {DOG} and a {CAT} sitting side by side in a garden, flowers, sunny day",
        height=80,
    )
    text(w, "negative", "Negative prompt", NEGATIVE, collapsed=True)
    w.add(
        "editor",
        "CreateBoundingBoxes",
        size=(400, 720),
        widgets={"editor_state": boxes(BOXES)},
        width=768,
        height=512,
    )
    shape = {"image": ["editor", 0]}
    w.add("shape", "GetImageSize", "Size of the editor", collapsed=True, **shape)
    w.add(
        "regions",
        "CIDM_ConceptRegions",
        size=(280, 360),
        clip=["apply", 1],
        prompts="",
        elements=["editor", 2],
        picture_width=["shape", 0],
        picture_height=["shape", 1],
    )
    _guider(w)
    sampling(w, seed=4)
    px = {"width": ["shape", 0], "height": ["shape", 1]}
    w.add("latent", "EmptyLatentImage", collapsed=True, batch_size=1, **px)
    finish(w, "several concepts", size=(280, 280))
    w.stacks = [
        [START],
        [
            (
                "1  Bank and the whole picture",
                BLUE,
                [["model", "bank", "apply", "positive", "negative"]],
            )
        ],
        [("2  A box for each concept", PURPLE, [["editor", "shape"], ["regions", "guider"]])],
        [
            (
                "3  Picture",
                GREEN,
                [["noise", "method", "sigmas", "latent", "sampler", "decode", "save"]],
            )
        ],
    ]
    return w


def _guider(w: Workflow, **settings: Any) -> None:
    w.add(
        "guider",
        "CIDM_RegionalNoiseGuider",
        model=["apply", 0],
        positive=["positive", 0],
        negative=["negative", 0],
        regions=["regions", 0],
        **settings,
    )


def several_xl() -> Workflow:
    w = Workflow(
        "9 Several concepts on SDXL, each in its box",
        "## Two or more concepts in one large picture\n"
        "1. Choose your checkpoint, and the bank that workflow *9 Learn a concept on SDXL* made.\n"
        "2. **Concept Regions**: a line for each box, *left, top, right, bottom: prompt*, in "
        "shares of the picture, with the words of its concept. (Or drag boxes, as in workflow 4.)\n"
        "3. The prompt on the left says what the whole picture shows.\n"
        "4. Run.\n\n"
        "No such checkpoint at hand? Put **Load Mini Model** with *mini-sdxl* in its place, and "
        "32 x 32 for the picture.",
        note_size=(260, 400),
    )
    load(w, SDXL)
    bank(w, name=BANK_XL)
    apply(w, collapsed=True)
    text(
        w,
        "positive",
        "The whole picture",
        f"a photo of a {DOG} and a {CAT} sitting side by side in a garden, flowers, sunny day",
        height=80,
    )
    text(w, "negative", "Negative prompt", NEGATIVE, collapsed=True)
    lines = f"0.04,0.2,0.48,0.96: a {DOG}, sitting\n0.52,0.25,0.96,0.96: a {CAT}, sitting"
    size = {"picture_width": 1024, "picture_height": 1024}
    regions = {"clip": ["apply", 1], "prompts": lines, **size}
    w.add("regions", "CIDM_ConceptRegions", size=(340, 520), **regions)
    _guider(w, cfg=5.0)
    sampling(w, seed=4)
    empty(w, 1024, 1024, collapsed=True)
    finish(w, "several concepts on SDXL", size=(320, 340))
    drawing = ["noise", "method", "sigmas", "latent", "sampler", "decode", "save"]
    whole = ["model", "bank", "apply", "positive", "negative"]
    w.stacks = [
        [START],
        [("1  Bank and the whole picture", BLUE, [whole])],
        [("2  A box for each concept", PURPLE, [["regions"], ["guider"]])],
        [("3  Picture", GREEN, [drawing])],
    ]
    return w


def blueprint() -> Workflow:
    """What the subgraph blueprint is made from: `INSIDE` becomes the subgraph."""
    w = several()
    w.title, w.note, w.stacks = "Regional Concepts", "", []
    for key in ("editor", "latent"):
        w.nodes[key]["inputs"] |= {"width": 512, "height": 512}
    w.nodes["regions"]["inputs"] |= {"picture_width": 512, "picture_height": 512}
    w.nodes["positive"]["inputs"]["text"] = "a photo of two animals in a garden, sunny day"
    w.nodes.pop("shape")
    for node in w.nodes.values():
        node["look"]["collapsed"] = False
    w.stacks = [
        [("", "", [["model", "bank"], ["editor", "latent"]])],
        [("", "", [["apply", "positive", "negative"], ["regions"]])],
        [("", "", [["guider", "noise", "method"], ["sigmas", "sampler", "decode"], ["save"]])],
    ]
    return w


INSIDE = [
    "apply",
    "positive",
    "negative",
    "regions",
    "guider",
    "noise",
    "method",
    "sigmas",
    "sampler",
]
# Widgets of the subgraph: (its name, node, widget).
SHOWN = (
    ("positive", "positive", "text"),
    ("negative", "negative", "text"),
    ("region_prompts", "regions", "prompts"),
    ("strength", "apply", "strength"),
    ("cfg", "guider", "cfg"),
    ("alpha", "guider", "alpha"),
    ("feather", "guider", "feather"),
    ("noise_seed", "noise", "noise_seed"),
    ("steps", "sigmas", "steps"),
    ("scheduler", "sigmas", "scheduler"),
    ("sampler_name", "method", "sampler_name"),
)
