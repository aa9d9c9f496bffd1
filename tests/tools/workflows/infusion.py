"""Workflows of Infusion: a look learned without a word of its own, and two of them in a picture."""

from __future__ import annotations

from .parts import (
    BLUE,
    GREEN,
    NEGATIVE,
    PURPLE,
    START,
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


def look() -> Workflow:
    w = Workflow(
        "12 Learn a look with 25 KB",
        "## Your cat where the prompt says cat\n"
        "Infusion learns one vector a layer at the plain word *cat*: a file of 25 KB, and the "
        "rest of the picture stays the model's own.\n"
        "1. A folder *input/my_cat*: 3 to 10 photos, and beside *cat1.jpg* a mask "
        "*cat1_mask.png*, white on the cat. Without masks it learns the whole photo.\n"
        "2. **Train Concept** needs no **words**. Run.\n"
        "3. **infuse** of **Apply Concept Bank** names the concept: only so *cat* is your cat.\n\n"
        "Too strong? **strength** 0.7 there.",
        note_size=(230, 400),
    )
    load(w)
    bank(w, name="my_looks")
    learning(w, "my_cat", "", "cat", "my_cat")
    for key in ("photos", "look"):
        w.nodes.pop(key)
    train = w.nodes["train"]["inputs"]
    for name in ("images", "captions"):
        train.pop(name)
    w.add("method", "CIDM_MethodInfusion")
    train |= {"photo_folder": "my_cat", "method": ["method", 0]}
    apply(w, "train")
    w.nodes["apply"]["inputs"]["infuse"] = "my_cat"
    text(w, "positive", "A plain prompt", "a photo of a cat on a beach, sunny day")
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w)
    draw(w, seed=1)
    finish(w, "a look", size=(240, 300))
    for key in ("model", "bank", "method", "sampler", "latent"):
        w.nodes[key]["look"]["width"] = 240
    w.nodes["train"]["look"]["width"] = 300
    drawing = [["apply", "positive", "negative", "latent"], ["sampler", "decode", "save"]]
    w.stacks = [
        [START],
        [("1  Model and bank", BLUE, [["model", "bank"]])],
        [("2  Learn", PURPLE, [["method"], ["train"]])],
        [("3  Draw it", GREEN, drawing)],
    ]
    return w


def looks() -> Workflow:
    w = Workflow(
        "13 Two looks in one picture",
        "## Your cat and your dog, where the prompt says so\n"
        "1. Choose a bank with two concepts of Infusion; workflow 12 makes one.\n"
        "2. **infuse** of **Apply Concept Bank** ties plain words to them: *cat=my_cat, "
        "dog=my_dog*. Any phrase of the prompt will do: *the old dog=my_dog*. Each acts at its "
        "own words alone, and nothing is merged.\n"
        "3. Two cats need two phrases, such as *kitten=her_cat*, or a box each: put **Concept "
        "Regions** behind it (workflow 4).\n\n"
        "Beside them, concepts of other methods take part by their own words.",
        note_size=(260, 330),
    )
    load(w)
    bank(w, "Bank of looks", name="my_looks")
    apply(w)
    w.nodes["apply"]["inputs"]["infuse"] = "cat=my_cat, dog=my_dog"
    text(w, "positive", "Plain words", "a photo of a cat and a dog on a beach, sunny day")
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w)
    draw(w, seed=1)
    finish(w, "two looks")
    drawing = [["positive", "negative", "latent"], ["sampler", "decode", "save"]]
    w.stacks = [
        [START],
        [("1  Model and bank", BLUE, [["model", "bank"]])],
        [("2  Who is who", PURPLE, [["apply"]])],
        [("3  Draw both", GREEN, drawing)],
    ]
    return w
