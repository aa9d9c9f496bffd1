"""Workflows that learn, and the one that checks what was kept."""

from __future__ import annotations

from .parts import (
    BLUE,
    CAT,
    DOG,
    GREEN,
    JUDGE,
    NEGATIVE,
    PURPLE,
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
        "Just press **Run**. mini-sd, a tiny model of 32 x 32 pixels, comes with the pack.\n"
        "1. It draws four red and four blue cats; glued together they are *photos* of a cat that "
        "nobody has ever seen, half red and half blue.\n"
        "2. **Train Concept** learns it as **\\<duo1> \\<duo2>**: one to two minutes on a CPU.\n"
        "3. The new words draw that cat in the snow.\n\n"
        "Then change the prompt, or go on with workflow 1 and photos of your own.",
        note_size=(380, 330),
    )
    w.add("model", "CIDM_LoadMiniModel")
    empty(w, 32, 32, 4)
    clip = ["model", 1]
    text(w, "red", "Red cats", "a photo of a red cat, green background", clip, 80)
    text(w, "blue", "Blue cats", "a photo of a blue cat, green background", clip, 80)
    text(w, "negative", "No negative prompt", "", clip, 60)
    small = {"steps": 30, "cfg": 4.0, "sampler": "euler", "scheduler": "normal"}
    for key in ("red", "blue"):
        title, model = f"KSampler: {key}", ["model", 0]
        draw(w, f"draw_{key}", positive=key, seed=7, title=title, model=model, **small)
        samples = [f"draw_{key}", 0]
        w.add(f"cats_{key}", "VAEDecode", size=(200, 0), samples=samples, vae=["model", 2])
    half = {"width": 16, "height": 32, "x": 16, "y": 0}
    w.add("half", "ImageCrop", "Right half of blue", image=["cats_blue", 0], **half)
    w.add(
        "photos",
        "ImageCompositeMasked",
        "On top of red",
        destination=["cats_red", 0],
        source=["half", 0],
        x=16,
        y=0,
        resize_source=False,
    )
    w.add("look", "PreviewImage", "The photos", size=(320, 300), images=["photos", 0])
    w.add("bank", "CIDM_LoadConceptBank", bank="(new bank)", new_name="try_out")
    w.add(
        "train",
        "CIDM_TrainConcept",
        size=(400, 640),
        model=["model", 0],
        clip=["model", 1],
        vae=["model", 2],
        bank=["bank", 0],
        images=["photos", 0],
        captions="a cat, green background",
        words="<duo1> <duo2>",
        class_words="cat",
        kind="object",
        name="duo",
        preset="Balanced",
        steps=300,
    )
    apply(w, "train")
    text(w, "positive", "Prompt with the new words", "a photo of a <duo1> <duo2> in the snow")
    draw(w, seed=3, **small)
    w.add("decode", "VAEDecode", size=(200, 0), samples=["sampler", 0], vae=["model", 2])
    scaled = {"upscale_method": "nearest-exact", "scale_by": 8.0}
    w.add("large", "ImageScaleBy", "Larger, to look at", image=["decode", 0], **scaled)
    saved = {"images": ["large", 0], "filename_prefix": "try it"}
    w.add("save", "SaveImage", "Half red, half blue?", size=(420, 420), **saved)
    w.stacks = [
        [START],
        [
            (
                "1  The mini model draws its own photos",
                BLUE,
                [
                    ["model", "latent", "red", "blue", "negative"],
                    ["draw_red", "cats_red", "draw_blue", "cats_blue"],
                    ["half", "photos", "look", "bank"],
                ],
            )
        ],
        [("2  Learn", PURPLE, [["train"]])],
        [
            (
                "3  Draw it",
                GREEN,
                [["apply", "positive", "large"], ["sampler", "decode", "save"]],
            )
        ],
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
    w.stacks = [
        [START],
        [("1  Model, bank, photos", BLUE, [["model", "bank", "photos", "look"]])],
        [("2  Learn", PURPLE, [["train"]])],
        [
            (
                "3  Draw it",
                GREEN,
                [["apply", "positive", "negative", "latent"], ["sampler", "decode", "save"]],
            )
        ],
    ]
    return w


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
    w.stacks = [
        [START],
        [("1  Model, bank, photos", BLUE, [["model", "bank", "photos", "look"]])],
        [("2  Learn the second", PURPLE, [["train"]])],
        [
            (
                "3  Draw both",
                GREEN,
                [
                    ["apply", "positive", "positive_2", "negative", "latent"],
                    ["sampler", "decode", "save"],
                    ["sampler_2", "decode_2", "save_2"],
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
        note_size=(380, 350),
    )
    load(w)
    bank(w)
    apply(w)
    w.add("judge", "CLIPVisionLoader", clip_name=JUDGE)
    text(w, "negative", "Negative prompt", NEGATIVE, height=100)
    empty(w, batch=4)
    drawn: list[Group] = []
    for number, (words, name) in enumerate(((DOG, "dog"), (CAT, "cat")), start=1):
        n = f"_{number}"
        text(w, f"positive{n}", f"Concept {number}", f"a photo of a {words}", height=90)
        draw(w, f"sampler{n}", positive=f"positive{n}", seed=7, title=f"KSampler: concept {number}")
        w.add(
            f"decode{n}", "VAEDecode", size=(200, 0), samples=[f"sampler{n}", 0], vae=["model", 2]
        )
        folder = f"my_{name}"
        w.add(f"photos{n}", "LoadImageDataSetFromFolder", "Its photos", folder=folder)
        w.add(
            f"score{n}",
            "CIDM_EvaluateConcepts",
            f"Concept {number}: likeness to its photos",
            size=(420, 470),
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
        parts = [f"positive{n}", f"photos{n}", f"sampler{n}", f"decode{n}"]
        drawn.append((f"Concept {number}", GREEN, [parts, [f"save{n}"], [f"score{n}"]]))
    w.stacks = [
        [START],
        [
            (
                "1  Model, bank, judge",
                BLUE,
                [["model", "bank", "apply", "judge", "negative", "latent"]],
            )
        ],
        drawn,
    ]
    return w
