"""mini-sd's parts beside the autoencoder, and its folder in diffusers' layout."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import cast

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import MINI
from .tokenizer import CONTEXT, END, START, write_vocabulary
from .train_vae import LATENT_CHANNELS

MINI_SD_FOLDER = MINI / "sd"
TEXT_WIDTH = 128
STEPS = 1000


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained CLIP text model of 3 layers, 128 wide, 48 positions."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    start, end = vocabulary[START], vocabulary[END]
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )
    return CLIPTextModel(config)


def new_unet() -> UNet2DConditionModel:
    """Return an untrained two-level UNet on latents (B, 8, 8, 8)."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(96, 96),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=32,
    )


def new_scheduler() -> DDIMScheduler:
    """Return SD's scaled-linear schedule prolonged to ᾱ_T ≈ 5e-5, so that it ends in pure noise.

    SD's own schedule ends at ᾱ_T = 0.0047; on flat pictures that much signal tells the background.
    """
    return DDIMScheduler(
        num_train_timesteps=STEPS,
        beta_start=0.00085,
        beta_end=0.024,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="trailing",
    )


class Denoiser(nn.Module):
    """The trained pair: text encoder and UNet, predicting the noise in latents."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, latents: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """Map latents (B, 8, 8, 8), timesteps (B,) and token ids (B, 48) to noise (B, 8, 8, 8)."""
        words = self.text_encoder(input_ids=ids).last_hidden_state
        return self.unet(latents, timesteps, encoder_hidden_states=words).sample


def save_model(
    folder: Path, vae: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer
) -> None:
    """Write all parts in half precision; files are replaced in one move, so readers stay safe."""
    parts = [copy.deepcopy(part).half() for part in (vae, denoiser.unet, denoiser.text_encoder)]
    pipeline = StableDiffusionPipeline(
        vae=cast(AutoencoderKL, parts[0]),
        unet=cast(UNet2DConditionModel, parts[1]),
        text_encoder=cast(CLIPTextModel, parts[2]),
        tokenizer=tokenizer,
        scheduler=new_scheduler(),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pipeline.save_pretrained(scratch, safe_serialization=True)
        _suit_all_versions(Path(scratch))
        for file in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            target = folder / file.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.chmod(0o644)
            file.replace(target)


def _suit_all_versions(folder: Path) -> None:
    """Make a folder written by transformers 5 load alike in 4.50 and later."""
    write_vocabulary(folder / "tokenizer")
    weights = folder / "text_encoder" / "model.safetensors"
    # Version 5 leaves the prefix out, accepts it, and version 4 draws random weights without it.
    named = {
        f"text_model.{name.removeprefix('text_model.')}": t
        for name, t in load_file(weights).items()
    }
    save_file(named, weights, metadata={"format": "pt"})
    # Otherwise transformers would load half precision while diffusers loads float32.
    _edit(folder / "text_encoder" / "config.json", {"dtype": "float32", "torch_dtype": "float32"})
    _edit(folder / "vae" / "config.json", {"_name_or_path": ""})


def _edit(config: Path, entries: dict[str, str]) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | entries, indent=2) + "\n")


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return token ids padded to the full context, shape (N, 48)."""
    batch = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT)
    return torch.tensor(batch.input_ids, dtype=torch.long)
