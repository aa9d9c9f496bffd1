"""What the pictures of `make_help_pictures.py` show: nodes at work, and how large each is."""

from __future__ import annotations

from typing import Any

JUDGE = "clip-vit-large-patch14.safetensors"
WIDE = {"CLIPTextEncode": 300, "KSampler": 280, "CIDM_ConceptInfo": 420, "CIDM_TrainConcept": 340}
WIDE |= {"CIDM_EvaluateConcepts": 420, "CIDM_ShowConceptWeights": 460, "CIDM_MethodCidm": 330}
WIDE |= {"CIDM_MethodClif": 330, "CIDM_WordContrast": 300, "CIDM_MiniPhotos": 280}
WIDE |= {"CIDM_MethodCustomDiffusion": 330, "CIDM_MethodInfusion": 330, "CIDM_Subject": 320}
TALL = {"CLIPTextEncode": 110, "PreviewImage": 260, "PreviewAny": 200, "LoadImage": 330}
TALL |= {"CIDM_LoadMiniModel": 300, "CIDM_LoadConceptBank": 200, "CIDM_ExportConcept": 190}
TALL |= {"CIDM_ImportConcept": 330, "CIDM_RemoveConcept": 200, "CIDM_EvaluateConcepts": 640}
WIDE |= {"CIDM_MergeConcepts": 460, "CIDM_CompressConcept": 420, "CIDM_MeasureOverFitting": 640}
TALL |= {"CIDM_MergeConcepts": 560, "CIDM_CompressConcept": 360, "CIDM_MeasureOverFitting": 780}
TALL |= {"CIDM_ConceptInfo": 620, "CIDM_TrainConcept": 640, "CIDM_MiniPhotos": 330}
WIDE |= {"CIDM_ConceptStrengths": 300, "CIDM_TrainingEstimate": 480}
TALL |= {"CIDM_ConceptStrengths": 260, "CIDM_TrainingEstimate": 420}
WIDE |= {"CIDM_PhotosAndCaptions": 560}
TALL |= {"CIDM_PhotosAndCaptions": 860}
WIDE |= {"CIDM_ConceptVersion": 520}
TALL |= {"CIDM_ConceptVersion": 220, "CIDM_MoveConcepts": 420}
WIDE |= {"CIDM_MoveConcepts": 460}
CATS = "a <pip1> <pip2> and a <tia1> <tia2>, green background"
LINES = """0.02,0.1,0.48,0.9: a <pip1> <pip2> on the left
0.52,0.1,0.98,0.9: a <tia1> <tia2> on the right"""

Node = tuple[str, dict[str, Any]]
MINI: Node = ("CIDM_LoadMiniModel", {})
BANK: Node = ("CIDM_LoadConceptBank", {"bank": "demo", "new_name": ""})
APPLY: Node = ("CIDM_ApplyConceptBank", {"model": "mini.0", "clip": "mini.1", "bank": "bank.0"})
LATENT: Node = ("EmptyLatentImage", {"width": 32, "height": 32, "batch_size": 1})
DECODE: Node = ("VAEDecode", {"samples": "sampler.0", "vae": "mini.2"})
SAMPLER = {"seed": 3, "steps": 20, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}


def text(clip: str, words: str) -> Node:
    return "CLIPTextEncode", {"clip": clip, "text": words}


def sampler(model: str) -> Node:
    links = {"model": model, "positive": "yes.0", "negative": "no.0", "latent_image": "latent.0"}
    return "KSampler", {**SAMPLER, **links, "denoise": 1.0}


def picture() -> dict[str, Node]:
    """Nodes from latents to a large picture."""
    how = {"upscale_method": "nearest-exact", "scale_by": 8.0}
    return {
        "decode": DECODE,
        "larger": ("ImageScaleBy", {"image": "decode.0", **how}),
        "show": ("PreviewImage", {"images": "larger.0"}),
    }


def photo(name: str) -> Node:
    return "LoadImage", {"image": name}


TAUGHT = {"yes": text("apply.1", "a <pip1> <pip2> on grass"), "no": text("apply.1", "")}
REGIONS: Node = (
    "CIDM_ConceptRegions",
    {"clip": "apply.1", "prompts": LINES, "picture_width": 32, "picture_height": 32},
)
GUIDER: Node = (
    "CIDM_RegionalNoiseGuider",
    {
        **{"model": "apply.0", "positive": "yes.0", "negative": "no.0", "regions": "regions.0"},
        "cfg": 4.0,
    },
)
HOW: dict[str, Node] = {
    "noise": ("RandomNoise", {"noise_seed": 3}),
    "euler": ("KSamplerSelect", {"sampler_name": "euler"}),
    "sigmas": (
        "BasicScheduler",
        {"model": "apply.0", "scheduler": "normal", "steps": 30, "denoise": 1.0},
    ),
}
REGIONAL: Node = (
    "SamplerCustomAdvanced",
    {
        **{"noise": "noise.0", "guider": "guider.0", "sampler": "euler.0"},
        **{"sigmas": "sigmas.0", "latent_image": "latent.0"},
    },
)
# By node: columns of nodes from left to right. A column in parentheses only feeds the others.
SCENES: dict[str, list[Any]] = {
    "CIDM_LoadConceptBank": [{"bank": BANK}, {"listing": ("PreviewAny", {"source": "bank.1"})}],
    "CIDM_ConceptInfo": [
        {"bank": BANK},
        {"info": ("CIDM_ConceptInfo", {"bank": "bank.0", "name": "teal-cat"})},
    ],
    "CIDM_ExportConcept": [
        {"bank": BANK},
        {"out": ("CIDM_ExportConcept", {"bank": "bank.0", "name": "purple-cat"})},
    ],
    "CIDM_ImportConcept": [
        {"bank": ("CIDM_LoadConceptBank", {"bank": "(new bank)", "new_name": "from others"})},
        {
            "in": (
                "CIDM_ImportConcept",
                {"bank": "bank.0", "file": "demo/teal-cat.safetensors", "name": ""},
            )
        },
    ],
    "CIDM_RemoveConcept": [
        {"bank": ("CIDM_LoadConceptBank", {"bank": "spare", "new_name": ""})},
        {
            "out": (
                "CIDM_RemoveConcept",
                {"bank": "bank.0", "name": "harbour", "confirm": "harbour"},
            )
        },
    ],
    "CIDM_LoadMiniModel": [
        {"mini": MINI},
        {"yes": text("mini.1", "a red cat on grass"), "no": text("mini.1", ""), "latent": LATENT},
        {"sampler": sampler("mini.0")},
        picture(),
    ],
    "CIDM_ApplyConceptBank": [
        {"mini": MINI, "bank": BANK},
        {"apply": APPLY},
        {**TAUGHT, "latent": LATENT},
        {"sampler": sampler("apply.0")},
        picture(),
    ],
    "CIDM_BakeConcepts": [
        ({"mini": MINI, "bank": BANK},),
        {"apply": APPLY},
        {"yes": TAUGHT["yes"]},
        {"bake": ("CIDM_BakeConcepts", {"model": "apply.0", "conditioning": "yes.0"})},
        {
            "save": (
                "CheckpointSave",
                {
                    **{"model": "bake.0", "clip": "mini.1", "vae": "mini.2"},
                    "filename_prefix": "checkpoints/purple cat",
                },
            )
        },
    ],
    "CIDM_MergeConcepts": [
        {"mini": MINI, "bank": BANK},
        {
            "merge": (
                "CIDM_MergeConcepts",
                {
                    **{"model": "mini.0", "clip": "mini.1", "bank": "bank.0", "name": "pets"},
                    "concepts": "purple-cat, teal-cat",
                },
            )
        },
    ],
    "CIDM_CompressConcept": [
        {"bank": BANK},
        {
            "small": (
                "CIDM_CompressConcept",
                {"bank": "bank.0", "name": "purple-cat", "energy": 0.9},
            )
        },
    ],
    "CIDM_ConceptStrengths": [
        ({"mini": MINI},),
        {"bank": BANK},
        {
            "less": (
                "CIDM_ConceptStrengths",
                {"bank": "bank.0", "strengths": "purple-cat = 0.5\nteal-cat = 1.2"},
            )
        },
        {"apply": (APPLY[0], {**APPLY[1], "bank": "less.0"})},
        {"yes": text("apply.1", CATS)},
        {"show": ("CIDM_ShowConceptWeights", {"conditioning": "yes.0"})},
    ],
    "CIDM_MoveConcepts": [
        {"bank": BANK},
        {
            "move": (
                "CIDM_MoveConcepts",
                {"bank": "bank.0", "into": "cats", "names": "purple-cat, teal-cat"},
            )
        },
    ],
    "CIDM_ConceptVersion": [
        {"bank": BANK},
        {
            "former": (
                "CIDM_ConceptVersion",
                {"bank": "bank.0", "name": "purple-cat", "number": 1},
            )
        },
    ],
    "CIDM_ShowConceptWeights": [
        ({"mini": MINI, "bank": BANK, "apply": APPLY},),
        {"yes": text("apply.1", CATS)},
        {"show": ("CIDM_ShowConceptWeights", {"conditioning": "yes.0"})},
    ],
    "CIDM_ConceptRegion": [
        ({"mini": MINI, "bank": BANK, "apply": APPLY},),
        {"one": text("apply.1", "a <pip1> <pip2>"), "two": text("apply.1", "a <tia1> <tia2>")},
        {
            "left": (
                "CIDM_ConceptRegion",
                {
                    **{"positive": "one.0", "x": 0.02, "y": 0.1, "width": 0.46, "height": 0.8},
                    **{"label": "purple cat", "picture_width": 512, "picture_height": 512},
                },
            )
        },
        {
            "right": (
                "CIDM_ConceptRegion",
                {
                    **{"positive": "two.0", "x": 0.52, "y": 0.1, "width": 0.46, "height": 0.8},
                    **{"label": "teal cat", "picture_width": 512, "picture_height": 512},
                    "regions": "left.0",
                },
            )
        },
        ({"end": ("PreviewAny", {"source": "right.0"})},),
    ],
    "CIDM_ConceptRegions": [
        ({"mini": MINI, "bank": BANK, "apply": APPLY},),
        {"regions": REGIONS},
        ({"end": ("PreviewAny", {"source": "regions.0"})},),
    ],
    "CIDM_RegionalNoiseGuider": [
        ({"mini": MINI, "bank": BANK},),
        {"apply": APPLY, "yes": text("apply.1", CATS), "no": text("apply.1", "")},
        {"regions": REGIONS},
        {"guider": GUIDER, **HOW},
        {"latent": LATENT, "sampler": REGIONAL},
        picture(),
    ],
    "CIDM_EvaluateConcepts": [
        (
            {
                **{"mini": MINI, "bank": BANK, "apply": APPLY, "regions": REGIONS},
                **{"yes": text("apply.1", CATS), "no": text("apply.1", ""), "latent": LATENT},
                **{"guider": GUIDER, **HOW, "sampler": REGIONAL},
                **{"decode": DECODE, "vision": ("TestTinyVision", {})},
            },
        ),
        {"one": photo("purple.png"), "two": photo("teal.png")},
        {
            "judge": (
                "CIDM_EvaluateConcepts",
                {
                    **{"images": "decode.0", "clip_vision": "vision.0", "regions": "regions.0"},
                    **{"references": "one.0", "references_2": "two.0"},
                    "names": "purple cat, teal cat",
                },
            )
        },
    ],
    "CIDM_MeasureOverFitting": [
        ({"mini": MINI, "bank": BANK, "vision": ("TestTinyVision", {})},),
        {
            "measure": (
                "CIDM_MeasureOverFitting",
                {
                    **{"model": "mini.0", "clip": "mini.1", "vae": "mini.2", "bank": "bank.0"},
                    **{"clip_vision": "vision.0", "photo_folder": "photos"},
                    **{"pictures": 16, "steps": 12},
                },
            )
        },
    ],
    "CIDM_MethodCidm": [
        {"method": ("CIDM_MethodCidm", {})},
        {
            "train": (
                "CIDM_TrainConcept",
                {"method": "method.0", "words": "<dog1> <dog2>", "name": ""},
            )
        },
    ],
    "CIDM_MethodCustomDiffusion": [
        {"method": ("CIDM_MethodCustomDiffusion", {"recipe": "joint"})},
        {
            "train": (
                "CIDM_TrainConcept",
                {"method": "method.0", "words": "<new1>", "class_words": "cat", "name": ""},
            )
        },
    ],
    "CIDM_MethodInfusion": [
        {"method": ("CIDM_MethodInfusion", {"variant": "paper"})},
        {
            "train": (
                "CIDM_TrainConcept",
                {"method": "method.0", "words": "", "class_words": "cat", "name": "my_cat"},
            )
        },
    ],
    "CIDM_MethodClif": [
        {"method": ("CIDM_MethodClif", {})},
        {
            "contrast": ("CIDM_WordContrast", {}),
            "train": (
                "CIDM_TrainConcept",
                {
                    **{"method": "method.0", "contrast": "contrast.0", "words": "<cat1> <cat2>"},
                    **{"class_words": "cat", "name": "look-alikes"},
                },
            ),
        },
    ],
    "CIDM_WordContrast": [
        {
            "eye": ("CLIPVisionLoader", {"clip_name": JUDGE}),
            "clip": ("CLIPLoader", {"clip_name": JUDGE, "type": "stable_diffusion"}),
        },
        {
            "contrast": (
                "CIDM_WordContrast",
                {
                    **{"clip_vision": "eye.0", "clip": "clip.0"},
                    "photo_folder": "common things",
                },
            )
        },
        {
            "train": (
                "CIDM_TrainConcept",
                {
                    **{"contrast": "contrast.0", "words": "<cat1> <cat2>"},
                    **{"class_words": "cat", "name": "my_cat"},
                },
            )
        },
    ],
    "CIDM_TrainingEstimate": [
        {"mini": MINI},
        {"estimate": ("CIDM_TrainingEstimate", {"model": "mini.0", "clip": "mini.1"})},
    ],
    "CIDM_MiniPhotos": [
        {"photos": ("CIDM_MiniPhotos", {"look": "teal cat"})},
        {
            "mask": ("MaskToImage", {"mask": "photos.2"}),
            "larger": (
                "ImageScaleBy",
                {"image": "mask.0", "upscale_method": "nearest-exact", "scale_by": 8.0},
            ),
            "show": ("PreviewImage", {"images": "larger.0"}),
        },
    ],
    "CIDM_PhotosAndCaptions": [
        {
            "look": (
                "CIDM_PhotosAndCaptions",
                {
                    **{"photo_folder": "purple-cat", "words": "<pip1> <pip2>"},
                    **{"class_words": "cat", "resolution": 32},
                    "captions": "01.png: a purple cat on the right, pink background",
                },
            )
        },
    ],
    "CIDM_Subject": [
        {
            "subject": ("CIDM_Subject", {"words": "<new2>", "class_words": "dog"}),
            "method": ("CIDM_MethodCustomDiffusion", {"recipe": "joint"}),
        },
        {
            "train": (
                "CIDM_TrainConcept",
                {
                    **{"method": "method.0", "subjects": "subject.0"},
                    **{"words": "<new1>", "class_words": "cat", "name": ""},
                },
            )
        },
    ],
    "CIDM_TrainConcept": [
        {
            "mini": MINI,
            "bank": ("CIDM_LoadConceptBank", {"bank": "(new bank)", "new_name": "my bank"}),
        },
        {
            "train": (
                "CIDM_TrainConcept",
                {
                    **{"model": "mini.0", "clip": "mini.1", "vae": "mini.2", "bank": "bank.0"},
                    **{"photo_folder": "purple-cat", "words": "<cat1> <cat2>"},
                    **{"class_words": "cat", "steps": 150},
                },
            )
        },
    ],
}
_METHODS = ("Cidm", "CustomDiffusion", "Infusion", "Clif")
_WIRED = ("Subject", "WordContrast", *(f"Method{name}" for name in _METHODS))
WIRES_ONLY = {f"CIDM_{name}" for name in _WIRED}  # not run
