"""Concepts of Infusion with random residuals, for tests of drawing."""

import torch

from cidm_core.concept import Concept, Subject
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.updates import ValueResidual


def infused(
    model, name, seed=0, size=30.0, sides=("to_v",), words="", class_words="cat", **changes
):
    """A concept that fits `model`, called by words or, where drawing asks for it, by "cat"."""
    generator = torch.Generator().manual_seed(seed)
    updates = {
        f"{layer.path}.{side}": ValueResidual(size * torch.randn(layer.width, generator=generator))
        for layer in model.layers
        for side in sides
    }
    subject = Subject(tuple(words.split()), class_words, on_request=not words)
    values = {
        "name": name,
        "subjects": (subject,),
        "family": model.family.name,
        "base": model.fingerprint,
        "layers": tuple(layer.path for layer in model.layers),
        "updates": updates,
        "rows": frozen_rows(model, class_words) if words else {},
        "method": "infusion",
        "two_streams": sides == ("to_v",),
        "last_piece": True,
    }
    return Concept(**{**values, **changes})


def frozen_rows(model, class_words):
    """The embeddings of plain words, encoder -> (tokens, 1, dim)."""
    found = {}
    parts = zip(model.family.encoders, model.text_encoders, model.tokenizers, strict=True)
    for row, encoder, tokenizer in parts:
        ids = tokenizer(class_words, add_special_tokens=False).input_ids
        found[row.name] = encoder.get_input_embeddings().weight[ids][:, None].detach().float()
    return found


def counted_rows(unet, monkeypatch):
    """Rows of every call of the UNet, from now on."""
    seen, forward = [], unet.forward

    def counted(x, *args, **more):
        seen.append(len(x))
        return forward(x, *args, **more)

    monkeypatch.setattr(unet, "forward", counted)
    return seen


def drawing(**given):
    return SampleConfig(**{"steps": 2, "width_px": 64, "height_px": 64, "seed": 3, **given})


def plan_of(base, bank, prompt, regions=(), **given):
    return make_plan(base, bank, prompt, regions, drawing(**given))
