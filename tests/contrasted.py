"""What tests of contrast share: a CLIP of random numbers, common things, settings of few steps."""

import numpy as np
import torch
from PIL import Image

from cidm_core.diffusers_host.composites import Contrast
from cidm_core.diffusers_host.contrast import ContrastClip
from cidm_core.methods.clif import ClifConfig
from cidm_core.training.composites.cutouts import CutOut

FEATURES = 12
GIVEN = {"steps": 2, "word_steps": 2, "contrast_steps": 3, "contrast_batch": 6}
GIVEN |= {"batch_size": 1, "accumulation": 1, "resolution_px": 32, "variants": 2, "rank": 2}
GIVEN |= {"global_pairs": 6, "region_pairs": 3, "meeting_pairs": 2, "save_every": 0}
GIVEN |= {"lr": 1e-2, "lr_words": 1e-2, "lr_contrast": 1e-2}


def settings(**given):
    return ClifConfig(**{**GIVEN, **given})


def seen(pictures):
    """Features of pictures: their mean colours of four quarters."""
    found = [np.asarray(each.convert("RGB").resize((2, 2)), dtype=np.float32) for each in pictures]
    return torch.from_numpy(np.stack(found)).flatten(1) / 255 - 0.5


def clip_for(base, seed=0, width=None):
    source = torch.Generator().manual_seed(seed)
    width = width or base.family.encoders[0].dim
    return ContrastClip(seen, torch.randn(FEATURES, width, generator=source), 20.0, f"clip {seed}")


def things(count=3):
    names, colours = ("chef", "stool", "wizard"), ("red", "lime", "blue")
    pictures = [Image.new("RGBA", (8, 12), colour) for colour in colours]
    return [CutOut(pictures[k], label=names[k]) for k in range(count)]


def contrast_for(base, **clip):
    return Contrast(clip_for(base, **clip), things())
