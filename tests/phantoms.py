"""Base models of real shapes without numbers, on torch's device "meta"."""

import tempfile
from functools import cache
from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import CLIPTokenizer

from cidm_core.diffusers_host.base import Base, assemble
from tests.tools.checkpoint_presets import PRESETS
from tests.tools.make_checkpoint import KINDS, write_tokenizer


def make_phantom(preset: str, dtype: torch.dtype = torch.bfloat16) -> Base:
    """The model of a preset of make_checkpoint: "full" is SD 1.5, "sdxl-full" SDXL."""
    configs = PRESETS[preset]
    with init_empty_weights(include_buffers=False):
        modules = {part: KINDS[part](config) for part, config in configs.items()}
    for module in modules.values():
        for parameter in module.to("meta").parameters():
            parameter.data = parameter.data.to(dtype)
        module.eval().requires_grad_(False)
    texts = [part for part in modules if part.startswith("text_encoder")]
    return assemble(
        modules["unet"],
        modules["vae"],
        tuple(modules[part] for part in texts),
        (_tokenizer(configs["text_encoder"]["vocab_size"]),) * len(texts),
        name=preset,
    )


@cache
def _tokenizer(vocabulary: int) -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), vocabulary)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 77
    return tokenizer
