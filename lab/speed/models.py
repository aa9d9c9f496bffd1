"""Models of random weights with the blocks of Stable Diffusion 1.x, and concepts for them."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from cidm_core.checkpoints.geometry import layers_of
from cidm_core.concept import Concept
from cidm_core.diffusers_host.base import Base, assemble
from cidm_core.families import FAMILIES, TextEncoderRow
from cidm_core.fingerprints import fingerprint, fingerprint_paths
from tests.make import random_concept
from tests.tools.checkpoint_presets import (
    PRESETS,
    bigg_config,
    clip_config,
    unet_config,
    vae_config,
)
from tests.tools.make_checkpoint import write_tokenizer

VOCABULARY = 49408  # CLIP's table
UNETS = {
    "small": unet_config((64, 128, 256, 256), (1, 1, 1, 0), 2),  # a fifth of SD 1.5: 37.5 M
    "narrow": unet_config((32, 32, 32, 32), (1, 1, 1, 0), 2),
    "full": unet_config((320, 640, 1280, 1280), (1, 1, 1, 0), 2),  # only where no weights are made
    "tiny": unet_config((32, 64), (1, 1), 1),  # seven layers only
}
RANK = 4
SAMPLE_PROMPT = "a photo of a <v1> <w1> in a house"


@dataclass(frozen=True)
class Proportions:
    """An SD 1.5 of smaller width; the parts cost each other's multiples as in the real one.

    Attributes:
        unet: Widths of its levels; the deepest of four has no attention.
        vae: Widths of the autoencoder's.
        text_dim: Width of the text encoder, and of the context.
        text_layers: Its depth; CLIP has 12.
        cells: Side of the latents.
    """

    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text_dim: int
    text_layers: int
    cells: int
    vocabulary: int = VOCABULARY


PROPORTIONS = {
    "fifth-512px": Proportions((64, 128, 256, 256), (31, 62, 124, 124), 160, 12, 64),
    "fifth-128px": Proportions((64, 128, 256, 256), (26, 52, 104, 104), 160, 1, 16),
    "tiny": Proportions((32, 64), (4, 8, 8, 8), 32, 1, 8, 768),
}


def make_base(size: str, text_layers: int = 1) -> Base:
    """A model of SD 1.5's family: 16 cross-attention layers, context 768, little text encoder."""
    torch.manual_seed(0)
    vocabulary, inner = (VOCABULARY, 768) if size == "small" else (768, 64)
    unet = UNet2DConditionModel(**UNETS[size])
    vae = AutoencoderKL(**vae_config((32, 32, 32, 32), 1))
    text = CLIPTextModel(CLIPTextConfig(**clip_config(text_layers, inner, vocabulary)))
    for module in (unet, vae, text):
        module.eval().requires_grad_(False)
    return assemble(unet, vae, (text,), (make_tokenizer(vocabulary),), name=size)


def make_sdxl(text_layers: int = 2) -> Base:
    """A narrow model of SDXL's family: 70 cross-attention layers, context 2048."""
    torch.manual_seed(0)
    preset = PRESETS["sdxl-slim"]
    unet, vae = UNet2DConditionModel(**preset["unet"]), AutoencoderKL(**preset["vae"])
    first = CLIPTextModel(CLIPTextConfig(**clip_config(text_layers, 64, 768)))
    second = CLIPTextModelWithProjection(CLIPTextConfig(**bigg_config(text_layers, 64, 768)))
    for module in (unet, vae, first, second):
        module.eval().requires_grad_(False)
    tokenizers = (make_tokenizer(768), make_tokenizer(768))
    return assemble(unet, vae, (first, second), tokenizers, name="sdxl-slim")


def make_proportional(size: Proportions) -> Base:
    """A model of these proportions; of SD 1.5's family, but for the width of its text."""
    torch.manual_seed(0)
    row = TextEncoderRow("text_encoder", size.text_dim, 77)
    text = {
        **clip_config(size.text_layers, 4 * size.text_dim, size.vocabulary),
        "hidden_size": size.text_dim,
        "num_attention_heads": 8,
    }
    depths, blocks = ((1, 1, 1, 0), 2) if len(size.unet) == 4 else ((1, 1), 1)
    config = unet_config(size.unet, depths, blocks)
    unet = UNet2DConditionModel(**{**config, "cross_attention_dim": size.text_dim})
    layers = layers_of("benchmark", unet.config)
    modules = {
        "unet": unet,
        "vae": AutoencoderKL(**vae_config(size.vae, 2), norm_num_groups=size.vae[0]),
        "text_encoders": CLIPTextModel(CLIPTextConfig(**text)),
    }
    for module in modules.values():
        module.eval().requires_grad_(False)
    probes = [unet.get_submodule(path).weight for path in fingerprint_paths(layers)]
    return Base(
        family=replace(FAMILIES["SD15"], encoders=(row,)),
        layers=layers,
        fingerprint=fingerprint(probes),
        name="benchmark",
        unet=modules["unet"],
        vae=modules["vae"],
        text_encoders=(modules["text_encoders"],),
        tokenizers=(make_tokenizer(size.vocabulary),),
    )


def make_tokenizer(vocabulary: int) -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), vocabulary)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 77
    return tokenizer


def make_concepts(base: Base, count: int, rank: int = RANK) -> dict[str, Concept]:
    """Concepts <v1> <w1>, <v2> <w2>, ... by name."""
    made = [
        random_concept(base, f"<v{i}> <w{i}>", seed=i, rank=rank, size=0.05)
        for i in range(1, count + 1)
    ]
    return {concept.name: concept for concept in made}
