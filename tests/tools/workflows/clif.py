"""The workflow of CLIF: two look-alikes learned together, their words told apart first."""

from __future__ import annotations

from .parts import BLUE, GREEN, PURPLE, START, Workflow, apply, bank, draw, empty, text

ONE, OTHER = "<pur1> <pur2>", "<tea1> <tea2>"


def alike() -> Workflow:
    w = Workflow(
        "14 Teach look-alikes together",
        "## Two cats that are mixed up no more\n"
        "By **CLIF**, on mini-sdxl: just press **Run**, with nothing to download.\n"
        "1. **Train Concept** has one cat, **Subject** the other, each with photos, captions and "
        "*masks*.\n"
        "2. Cut-outs of both are put beside each other and beside common things (they are shown), "
        "and by these CLIP tells their words apart. Then the words, then LoRA and words learn; "
        "all settings are inside **Method: CLIF**.\n"
        "3. One prompt draws both, without boxes.\n\n"
        "**With SD 1.5 or SDXL**: a checkpoint, your photos with masks, and in **Word Contrast** "
        "CLIP ViT-L/14 by *Load CLIP Vision* and *Load CLIP*, and a folder of common things, such "
        "as *chef.png* cut out.\n\n"
        "For one more later: **Method: CIDM** with **contrast** on.",
        note_size=(230, 520),
    )
    w.add("model", "CIDM_LoadMiniModel", size=(230, 230), model="mini-sdxl")
    bank(w, name="look_alikes")
    for key, look in (("photos", "purple cat"), ("photos_2", "teal cat")):
        w.add(key, "CIDM_MiniPhotos", f"The {look}", size=(230, 170), look=look)
    w.add(
        "subject",
        "CIDM_Subject",
        "The second: Subject",
        size=(230, 305),
        words=OTHER,
        class_words="cat",
        kind="object",
        **_photos_of("photos_2"),
    )
    w.add("contrast", "CIDM_WordContrast", size=(230, 210))
    w.add("method", "CIDM_MethodClif")
    main = ["contrast_steps", "word_steps", "rank"]  # by itself it is taller than a screen
    look = {"title": "Method: CLIF", "shown": main, "width": 300, "height": 150}
    w.subgraphs["how"] = {**look, "inside": ["method"]}
    w.add(
        "train",
        "CIDM_TrainConcept",
        "The first: Train Concept",
        size=(300, 600),
        **{"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2], "bank": ["bank", 0]},
        **{"method": ["method", 0], "subjects": ["subject", 0], "contrast": ["contrast", 0]},
        **{"words": ONE, "class_words": "cat", "kind": "object", "name": "both cats"},
        **_photos_of("photos"),
        preset="Balanced",
    )
    _drawing(w)
    w.nodes["bank"]["look"]["width"] = 230
    w.stacks = [
        [START],
        [("1  Model and one cat", BLUE, [["model", "bank", "photos"]])],
        [("2  The other", BLUE, [["photos_2", "subject", "contrast"]])],
        [("3  Learn both", PURPLE, [["how", "train"]])],
        [("4  Draw both", GREEN, [["apply", "positive", "draw", "save"]])],
    ]
    return w


def _drawing(w: Workflow) -> None:
    """Both in one prompt, enlarged."""
    apply(w, "train", size=(270, 0), collapsed=True)
    text(w, "positive", "Both in one prompt", f"a {ONE} on the left and a {OTHER} on the right")
    text(w, "negative", "No negative prompt", "")
    empty(w, 32, 32, 4)
    draw(w, seed=1, steps=30, cfg=4.0, sampler="euler", scheduler="normal")
    w.add("decode", "VAEDecode", samples=["sampler", 0], vae=["model", 2])
    scaled = {"upscale_method": "nearest-exact", "scale_by": 8.0}
    w.add("large", "ImageScaleBy", "Larger, to look at", image=["decode", 0], **scaled)
    inside = ["negative", "latent", "sampler", "decode", "large"]
    look = {"title": "Draw, and enlarge", "shown": ["seed"], "width": 270, "height": 150}
    w.subgraphs["draw"] = {**look, "inside": inside}
    saved = {"images": ["large", 0], "filename_prefix": "look-alikes"}
    w.add("save", "SaveImage", "Both cats", size=(270, 320), **saved)


def _photos_of(key: str) -> dict[str, list[object]]:
    return {"images": [key, 0], "captions": [key, 1], "masks": [key, 2]}
