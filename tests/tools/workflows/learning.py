"""Workflows that learn, and the one that checks what was kept."""

from __future__ import annotations

from .parts import (
    BANK_XL,
    BLUE,
    CAT,
    DOG,
    GREEN,
    JUDGE,
    NEGATIVE,
    PURPLE,
    SDXL,
    START,
    Group,
    Workflow,
    apply,
    bank,
    draw,
    empty,
    finish,
    learning,
    load,
    text,
)


def trial() -> Workflow:
    w = Workflow(
        "0 Try it in five minutes, no model needed",
        "## Learn a concept now, without any download\n"
        "Just press **Run**. mini-sd, a tiny model of 32 x 32 pixels, comes with the pack, and "
        "four photos of a cat that it has never seen.\n"
        "1. **Train Concept** learns the cat as **\\<pip1> \\<pip2>**: one to two minutes on a "
        "CPU.\n"
        "2. The new words draw that cat in the snow.\n\n"
        "Then change the prompt, or go on with workflow 1 and photos of your own.",
        note_size=(280, 250),
    )
    w.add("model", "CIDM_LoadMiniModel", size=(260, 240))
    w.add("bank", "CIDM_LoadConceptBank", size=(260, 120), bank="(new bank)", new_name="try_out")
    w.add(
        "train",
        "CIDM_TrainConcept",
        size=(310, 600),
        model=["model", 0],
        clip=["model", 1],
        vae=["model", 2],
        bank=["bank", 0],
        images=["model", 3],
        captions=["model", 4],
        words="<pip1> <pip2>",
        class_words="cat",
        kind="object",
        name="pip",
        preset="Balanced",
        steps=300,
    )
    apply(w, "train")
    text(w, "positive", "Prompt with the new words", "a photo of a <pip1> <pip2> in the snow")
    text(w, "negative", "No negative prompt", "")
    empty(w, 32, 32, 4)
    draw(w, seed=3, steps=30, cfg=4.0, sampler="euler", scheduler="normal")
    w.add("decode", "VAEDecode", samples=["sampler", 0], vae=["model", 2])
    scaled = {"upscale_method": "nearest-exact", "scale_by": 8.0}
    w.add("large", "ImageScaleBy", "Larger, to look at", image=["decode", 0], **scaled)
    inside = ["negative", "latent", "sampler", "decode", "large"]
    look = {"title": "Draw, and enlarge", "shown": ["seed"], "width": 270}
    w.subgraphs["draw"] = {**look, "inside": inside}
    saved = {"images": ["large", 0], "filename_prefix": "try it"}
    w.add("save", "SaveImage", "The new cat in the snow", size=(300, 340), **saved)
    w.stacks = [
        [START, ("1  Model and photos", BLUE, [["model", "bank"]])],
        [("2  Learn", PURPLE, [["train"]])],
        [("3  Draw it", GREEN, [["apply", "positive", "draw"], ["save"]])],
    ]
    return w


def first() -> Workflow:
    w = Workflow(
        "1 Learn your first concept",
        "## Teach the model your dog (or anything)\n"
        "1. Make a folder *input/my_dog* with 3 to 10 photos. Best with a caption beside each: "
        "*dog1.txt* for *dog1.jpg*, such as *a dog on a sofa*. Press **R**, choose the folder.\n"
        "2. **Train Concept**: **words** are new words of your own, **class_words** what it is.\n"
        "3. Run. The node shows loss, time left and pictures. **Cancel** keeps the state; run "
        "again to go on. A finished concept is not learned twice.\n"
        "4. Below, the new words draw it. They work in any CLIP Text Encode after **Apply "
        "Concept Bank**.\n\n"
        "Masks of the subject? Use **photo_folder** in Train Concept and *dog1_mask.png* there.",
        note_size=(270, 420),
    )
    load(w)
    bank(w)
    learning(w, "my_dog", DOG, "dog", "dog")
    apply(w, "train")
    text(w, "positive", "Prompt with your words", f"a photo of a {DOG} on a beach, sunny day")
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w)
    draw(w, seed=1)
    finish(w, "first concept", size=(280, 320))
    return _in_three_stacks(w)


def _in_three_stacks(w: Workflow) -> Workflow:
    """Laid out for learning one concept and drawing it."""
    drawing = [["apply", "positive", "negative", "latent"], ["sampler", "decode", "save"]]
    w.stacks = [
        [START],
        [("1  Model, bank, photos", BLUE, [["model", "bank", "photos", "look"]])],
        [("2  Learn", PURPLE, [["train"]])],
        [("3  Draw it", GREEN, drawing)],
    ]
    return w


def first_xl() -> Workflow:
    w = Workflow(
        "9 Learn a concept on SDXL",
        "## Teach SDXL your dog (or anything)\n"
        "For SDXL, Pony, Illustrious and NoobAI checkpoints; photos as in workflow 1.\n"
        "1. Choose your checkpoint. One that predicts v (NoobAI v-pred) says so in its file.\n"
        "2. **preset**: *Least VRAM* on 8 GB, *Low VRAM* on 12 GB, else *Balanced*.\n"
        "3. Run. A concept learned on one SDXL model works on its relatives when you switch on "
        "**allow_other_base** of Apply Concept Bank.\n\n"
        "No such checkpoint at hand? Put **Load Mini Model** with *mini-sdxl* in its place, and "
        "32 x 32 for the picture: everything is the same, in small.",
        note_size=(270, 430),
    )
    load(w, SDXL)
    bank(w, name=BANK_XL)
    learning(w, "my_dog", DOG, "dog", "dog", "Low VRAM")
    apply(w, "train")
    text(w, "positive", "Prompt with your words", f"a photo of a {DOG} on a beach, sunny day")
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w, 1024, 1024)
    draw(w, seed=1, cfg=5.0)
    finish(w, "first concept on SDXL", size=(280, 320))
    return _in_three_stacks(w)


def second() -> Workflow:
    w = Workflow(
        "2 Learn a second concept without losing the first",
        "## One more, and the first stays\n"
        "Do *1 Learn your first concept* before, with the same bank name.\n"
        "1. Photos of the second concept go into *input/my_cat*; choose the folder.\n"
        "2. Give new **words**, and run. Photos of the first concept are not needed.\n"
        "3. The upper picture is the **first** concept, drawn with the prompt and seed of "
        "workflow 1: compare it with the picture saved there. It is the same.\n"
        "4. The lower one is the new concept.\n\n"
        "Go on like this with a third, a tenth, a hundredth.",
        note_size=(220, 500),
    )
    load(w)
    bank(w, "Bank of the first concept")
    learning(w, "my_cat", CAT, "cat", "cat")
    apply(w, "train")
    text(w, "positive", "The FIRST concept", f"a photo of a {DOG} on a beach, sunny day")
    text(w, "positive_2", "The NEW concept", f"a photo of a {CAT} on a beach, sunny day")
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w)
    narrow = {"size": (230, 0), "seed": 1}
    draw(w, title="KSampler: first concept", **narrow)
    draw(w, "sampler_2", positive="positive_2", title="KSampler: new concept", **narrow)
    size = (230, 250)
    finish(w, "first concept again", title="The first concept, as it was", size=size)
    finish(w, "second concept", "sampler_2", "_2", "The new concept", size=size)
    columns = {"model": 230, "bank": 230, "photos": 230, "look": 230, "train": 300}
    columns |= {"apply": 250, "positive": 250, "positive_2": 250, "negative": 250, "latent": 230}
    for key, width in columns.items():
        w.nodes[key]["look"]["width"] = width
    w.stacks = [
        [START],
        [("1  Model, bank, photos", BLUE, [["model", "bank", "photos", "look"]])],
        [("2  Learn the second", PURPLE, [["train"]])],
        [
            (
                "3  Draw both",
                GREEN,
                [
                    ["apply", "positive", "positive_2", "negative"],
                    ["latent", "sampler", "sampler_2"],
                    ["decode", "save", "decode_2", "save_2"],
                ],
            )
        ],
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
        "For TA, connect a full CLIP text model to **clip** of Evaluate Concepts.",
        note_size=(260, 350),
    )
    load(w)
    bank(w)
    apply(w, collapsed=True)
    w.add("judge", "CLIPVisionLoader", clip_name=JUDGE)
    text(w, "negative", "Negative prompt", NEGATIVE, collapsed=True)
    empty(w, batch=4, collapsed=True)
    drawn: list[list[Group]] = []
    for number, (words, name) in enumerate(((DOG, "dog"), (CAT, "cat")), start=1):
        n = f"_{number}"
        text(w, f"positive{n}", f"Concept {number}", f"a photo of a {words}", height=80)
        draw(w, f"sampler{n}", positive=f"positive{n}", seed=7, title=f"KSampler: concept {number}")
        folder = f"my_{name}"
        w.add(f"photos{n}", "LoadImageDataSetFromFolder", "Its photos", folder=folder)
        finish(w, f"kept {name}", f"sampler{n}", n, size=(260, 150))
        w.add(
            f"score{n}",
            "CIDM_EvaluateConcepts",
            f"Concept {number}: likeness to its photos",
            size=(330, 330),
            images=[f"decode{n}", 0],
            clip_vision=["judge", 0],
            references=[f"photos{n}", 0],
            names=name,
            bank=["bank", 0],
        )
        parts = [f"{part}{n}" for part in ("positive", "photos", "sampler", "decode", "save")]
        drawn.append([(f"Concept {number}", GREEN, [parts])])
    start = ["model", "bank", "apply", "negative", "latent"]
    w.stacks = [
        [START],
        [("1  Model and bank", BLUE, [start])],
        *drawn,
        [("Likeness", PURPLE, [["judge", "score_1", "score_2"]])],
    ]
    return w
