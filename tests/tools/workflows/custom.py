"""Workflows of Custom Diffusion: two concepts learned at once, and two made into one."""

from __future__ import annotations

from .parts import (
    BLUE,
    CAT,
    DOG,
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


def together() -> Workflow:
    w = Workflow(
        "10 Two concepts at once",
        "## Two at once, by Custom Diffusion\n"
        "Photos as in workflows 1 and 2: *input/my_dog* and *input/my_cat*.\n"
        "1. **Train Concept** has the first, **Subject** the second. The new word stands before "
        "the plain one: *a \\<rex> dog*. A third: one more **Subject**, chained.\n"
        "2. **Method: Custom Diffusion**, recipe *joint*. Before it learns, the model draws "
        "other dogs and cats (**prior_images**), which keeps them as they are. Photos of "
        "others go into **prior**.\n"
        "3. Run. Both come as one concept; a prompt may have either or both.\n\n"
        "Look-alikes mix in one prompt: give each a box (workflow 4).",
        note_size=(230, 400),
    )
    load(w)
    bank(w, name="my_pair")
    learning(w, "my_dog", "<rex>", "dog", "rex and tom")
    w.nodes.pop("look")
    w.add("photos_2", "LoadImageTextDataSetFromFolder", "Photos of the second", folder="my_cat")
    w.add(
        "subject",
        "CIDM_Subject",
        "The second: Subject",
        images=["photos_2", 0],
        captions=["photos_2", 1],
        words="<tom>",
        class_words="cat",
        kind="object",
    )
    w.add("method", "CIDM_MethodCustomDiffusion", recipe="joint")
    w.nodes["train"]["inputs"] |= {"method": ["method", 0], "subjects": ["subject", 0]}
    w.nodes["train"]["title"] = "The first: Train Concept"
    w.nodes["photos"]["title"] = "Photos of the first (input folder)"
    apply(w, "train")
    text(w, "positive", "Both in one prompt", "a photo of a <rex> dog and a <tom> cat on a beach")
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w)
    draw(w, seed=1, cfg=6.0)
    finish(w, "two concepts at once", size=(240, 300))
    for key in ("model", "bank", "photos", "photos_2", "subject", "method", "sampler", "latent"):
        w.nodes[key]["look"]["width"] = 240
    w.nodes["train"]["look"]["width"] = 300
    source = ["model", "bank", "photos", "photos_2", "subject"]
    drawing = [["apply", "positive", "negative", "latent"], ["sampler", "decode", "save"]]
    w.stacks = [
        [START],
        [("1  Model, bank, photos", BLUE, [source])],
        [("2  Learn both", PURPLE, [["method"], ["train"]])],
        [("3  Draw both", GREEN, drawing)],
    ]
    return w


def merge() -> Workflow:
    w = Workflow(
        "11 Merge two concepts",
        "## One concept of two\n"
        "For one file with both, and for programs that know no banks. In ComfyUI itself the bank "
        "draws them better.\n"
        "1. Choose a bank of which two concepts shall become one; *1* and *2* made such a bank. "
        "Concepts of others come in by **Import Concept**.\n"
        "2. **Merge Concepts**: their names, one a line, and the name of the new one. It goes "
        "into a bank of its own; the two stay as they are.\n"
        "3. Run. The node says how near it came. The words are the same, and any prompt may "
        "have either or both.\n\n"
        "**Export Concept** writes the file for others.",
        note_size=(260, 440),
    )
    load(w)
    bank(w, "Bank of both")
    both = {"model": ["model", 0], "clip": ["model", 1], "bank": ["bank", 0]}
    w.add(
        "merge",
        "CIDM_MergeConcepts",
        size=(330, 460),
        name="pets",
        concepts="dog\ncat",
        overwrite=True,
        **both,
    )
    apply(w, "merge")
    text(w, "positive", "Both in one prompt", f"a photo of a {DOG} and a {CAT} on a beach")
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w)
    draw(w, seed=1)
    finish(w, "merged concepts")
    w.stacks = [
        [START],
        [("1  Model and bank", BLUE, [["model", "bank"]])],
        [("2  Merge", PURPLE, [["merge"]])],
        [
            (
                "3  Draw with the new one",
                GREEN,
                [["apply", "positive", "negative", "latent"], ["sampler", "decode", "save"]],
            )
        ],
    ]
    return w
