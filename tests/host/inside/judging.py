"""Evaluate Concepts with real CLIP_VISION and CLIP objects of the host, small and random."""

import sys

import folder_paths
import inside
import small
import torch
from comfy.clip_vision import ClipVisionModel

checkpoint, temporary = sys.argv[1:]
folder_paths.set_temp_directory(temporary)
evaluate = inside.pack("nodes.evaluation.evaluate")
sockets = inside.pack("nodes.host.sockets")
Region = inside.pack("cidm_core.regions").Region
Bank = inside.pack("cidm_core.bank").Bank


def vision(width):
    """A CLIP vision model as the host builds them, of two layers."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "projection_dim": width}
    shape = {"num_attention_heads": 4, "num_hidden_layers": 2, "hidden_act": "quick_gelu"}
    picture = {"image_size": 32, "patch_size": 8, "num_channels": 3}
    model = ClipVisionModel({**sizes, **shape, **picture, "model_type": "clip_vision_model"})
    rand = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for name, weight in model.model.named_parameters():
            scale = 1.0 if name.endswith("norm.weight") or "norm1.w" in name else 0.3
            values = torch.randn(weight.shape, generator=rand) * scale
            weight.copy_(torch.ones_like(values) if scale == 1.0 else values)
    return model


def photo(seed):
    """A smooth random picture; the same seed gives the same."""
    rand = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 4, 4, generator=rand)
    return torch.nn.functional.interpolate(small, size=(48, 48)).movedim(1, -1)


def ask(**inputs):
    """Outputs, or the error's text."""
    inputs = {"clip_vision": eye, "references": dog} | inputs
    try:
        with torch.inference_mode():
            made = evaluate.EvaluateConcepts.execute(**inputs)
    except ValueError as error:
        return str(error)
    table, image, ia, ta, presence, w2 = made.args
    shown = [each["filename"] for each in made.ui["images"]]
    return {
        "table": table,
        "size": list(image.shape),
        "numbers": [ia, ta, presence],
        "w2": w2,
        "shown": len(shown),
    }


def project(picture, text):
    """Give the CLIP a text projection under which the text means the picture; None: no picture."""
    encoder = clip.cond_stage_model.clip_l.transformer
    with torch.inference_mode():
        weight = torch.zeros(768, 768)
        if picture is not None:
            _, plain = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
            seen = eye.encode_image(picture).image_embeds
            weight = seen.T @ plain / plain.square().sum()
        encoder.text_projection.weight.copy_(weight)


eye = vision(768)
dog, cat, fish = photo(1), photo(2), photo(3)
photos = torch.cat([photo(k) for k in range(10, 15)])
both = torch.cat([dog, cat], dim=2)
areas = [("a dog", (0, 0, 0.5, 1)), ("a cat", (0.5, 0, 1, 1))]
regions = tuple(sockets.RegionPrompt(Region(text, box=box), []) for text, box in areas)
clip = small.opened("SD15", checkpoint)[1]
clip.patcher.cached_patcher_init = None  # `project` gives it what its file has not
pairs = {"images": both, "regions": regions}
empty = {"images": dog, "clip": clip}
project(dog, "a dog on grass")
text = ask(**empty, prompts="a dog on grass")
with torch.inference_mode():
    clip.cond_stage_model.clip_l.transformer.text_projection.weight.mul_(-1)
strange = ask(**empty, prompts="a dog on grass")
wide = ask(**empty, clip_vision=vision(512), prompts="a dog")
project(None, "")
inside.report(
    {
        "text": text,
        "strange": strange,
        "no projection": ask(**empty, prompts="a dog on grass"),
        "whole": ask(images=torch.cat([dog, cat]), references_2=cat, names="dog, cat"),
        "right": ask(**pairs, references_2=cat, references_3=fish),
        "swapped": ask(**pairs, references=cat, references_2=dog),
        "class": ask(images=photos, class_pictures=torch.cat([photo(k) for k in range(20, 26)])),
        "its own class": ask(images=photos, class_pictures=photos),
        "one class picture": ask(images=photos, class_pictures=cat),
        "few": ask(**pairs),
        "gap": ask(images=dog, references_3=cat),
        "no text": ask(**empty, prompts=" "),
        "uneven": ask(images=torch.cat([dog] * 3), clip=clip, prompts="a\nb"),
        "other width": wide,
        "names": ask(images=dog, names="a, b"),
    }
)
