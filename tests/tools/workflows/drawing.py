"""Workflows that draw what was learned."""

from __future__ import annotations

from .parts import (
    BLUE,
    DOG,
    GREEN,
    GREY,
    NEGATIVE,
    PURPLE,
    START,
    STYLE,
    Workflow,
    apply,
    bank,
    decode,
    draw,
    empty,
    finish,
    load,
    photo,
    text,
)


def scenes() -> Workflow:
    w = Workflow(
        "3 One concept in new scenes",
        "## Your concept anywhere\n"
        "1. Choose your bank in **Load Concept Bank** (or type its name).\n"
        "2. Write its words into the prompt. *{a|b|c}* takes another scene each time you run.\n"
        "3. **Show Concept Weights** tells which concepts took part, layer by layer.\n\n"
        "Change **strength** of Apply Concept Bank: 0.8 follows the scene more, 1.2 the concept "
        "more. *(words:1.2)* works as always, and so do LoRA loaders and ControlNet.",
        note_size=(270, 330),
    )
    load(w)
    bank(w)
    w.add("listing", "PreviewAny", "What the bank knows", size=(260, 130), source=["bank", 1])
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
        size=(340, 420),
        conditioning=["positive", 0],
    )
    w.stacks = [
        [START],
        [("1  Model and bank", BLUE, [["model", "bank", "listing", "apply"]])],
        [("2  Prompt", PURPLE, [["positive", "negative", "latent"]])],
        [("3  Picture", GREEN, [["sampler", "decode", "save"]])],
        [("Who took part?", GREY, [["weights"]])],
    ]
    return w


def style() -> Workflow:
    w = Workflow(
        "5 Style transfer of a photo",
        "## Paint a photo in your style (img2img)\n"
        "Teach a style first: workflow 1 with pictures of one style, **kind** = **style**, "
        "**words** = *\\<paint1> \\<paint2>*, **class_words** = *painting*.\n"
        "1. Choose your bank and your photo.\n"
        "2. Describe the photo in the prompt, and keep the style's words.\n"
        "3. **denoise** in KSampler decides: 0.4 keeps the photo and tints it, 0.75 repaints it.",
        note_size=(270, 330),
    )
    load(w)
    bank(w)
    apply(w)
    photo(w)
    text(w, "positive", "The photo, and the style", f"a {STYLE} of a landscape with trees")
    text(w, "negative", "Negative prompt", NEGATIVE)
    draw(w, latent=["encode", 0], seed=5, denoise=0.6)
    finish(w, "style transfer")
    w.stacks = [
        [START],
        [("1  Model and bank", BLUE, [["model", "bank", "apply"]])],
        [("2  Photo", PURPLE, [["photo", "scale", "encode"]])],
        [("3  Words", PURPLE, [["positive", "negative"]])],
        [("4  Picture", GREEN, [["sampler", "decode", "save"]])],
    ]
    return w


def inpaint() -> Workflow:
    w = Workflow(
        "6 Put a concept into a photo (inpaint)",
        "## Your concept in your photo\n"
        "1. Choose your bank and your photo.\n"
        "2. Right-click the photo, **Open in MaskEditor**, paint where the concept shall be, save. "
        "Paint generously, the shadow too.\n"
        "3. Say in the prompt what is there, with the concept's words.\n"
        "4. Run. Everything outside the mask stays as it is.\n\n"
        "Too little changes? Raise **denoise**. A visible seam? Raise **expand** of Grow Mask.",
        note_size=(270, 400),
    )
    load(w)
    bank(w)
    apply(w)
    photo(w, "Your photo, with a painted mask")
    w.add("grow", "GrowMask", mask=["photo", 1], expand=6, tapered_corners=True)
    masked = {"samples": ["encode", 0], "mask": ["grow", 0]}
    w.add("masked", "SetLatentNoiseMask", collapsed=True, **masked)
    w.add("soft", "DifferentialDiffusion", collapsed=True, model=["apply", 0])
    text(w, "positive", "What is there", f"a photo of a {DOG} sitting on the grass")
    text(w, "negative", "Negative prompt", NEGATIVE)
    draw(w, latent=["masked", 0], seed=6, denoise=0.95, model=["soft", 0])
    decode(w)
    w.add(
        "paste",
        "ImageCompositeMasked",
        "Keep the rest of the photo",
        collapsed=True,
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
        size=(320, 360),
        images=["paste", 0],
        filename_prefix="concept in photo",
    )
    w.stacks = [
        [START],
        [("1  Model and bank", BLUE, [["model", "bank", "apply"]])],
        [("2  Photo and mask", PURPLE, [["photo", "scale", "encode", "grow", "masked", "soft"]])],
        [("3  Words", PURPLE, [["positive", "negative"]])],
        [("4  Picture", GREEN, [["sampler", "decode", "paste", "save"]])],
    ]
    return w


def app_mode() -> Workflow:
    w = Workflow(
        "8 Draw your concepts.app",
        "## One prompt, one button\n"
        "This workflow opens in **app mode**: only bank, prompt, size and seed are shown. "
        "Choose *Graph* at the top left to see what is behind.\n"
        "1. Choose your bank.\n"
        "2. Write the words of your concepts into the prompt.\n"
        "3. Run.",
        note_size=(270, 280),
        extra={
            "linearMode": True,
            "linearData": {
                "inputs": [
                    ("bank", "bank"),
                    ("bank", "new_name"),
                    ("positive", "text"),
                    ("latent", "width"),
                    ("latent", "height"),
                    ("sampler", "seed"),
                ],
                "outputs": ["save"],
            },
        },
    )
    load(w)
    bank(w, "Your bank", labels={"bank": "Bank", "new_name": "Its name, with (new bank)"})
    apply(w)
    prompt = f"a photo of a {DOG} in a garden, sunny day"
    text(w, "positive", "Prompt", prompt, labels={"text": "Prompt"})
    text(w, "negative", "Negative prompt", NEGATIVE)
    empty(w, labels={"width": "Width (px)", "height": "Height (px)"})
    draw(w, seed=1, labels={"seed": "Seed"})
    finish(w, "my concepts")
    w.stacks = [
        [START],
        [("1  Model and bank", BLUE, [["model", "bank", "apply"]])],
        [("2  Prompt", PURPLE, [["positive", "negative", "latent"]])],
        [("3  Picture", GREEN, [["sampler", "decode", "save"]])],
    ]
    return w
