"""The embedded models' parts beside the autoencoder: text encoder, UNet, schedule, token ids."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import MINI
from .tokenizer import CONTEXT, END, START
from .train_vae import LATENT_CHANNELS

MINI_SD_FOLDER = MINI / "sd"
TEXT_WIDTH = 128
STEPS = 1000


def text_config(tokenizer: CLIPTokenizer, layers: int, **others: Any) -> CLIPTextConfig:
    """Return the shape of a CLIP text model, 128 wide, 48 positions."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    start, end = vocabulary[START], vocabulary[END]
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        **others,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return mini-sd's untrained text model of 3 layers."""
    return CLIPTextModel(text_config(tokenizer, layers=3))


def new_unet(context: int = TEXT_WIDTH, **others: Any) -> UNet2DConditionModel:
    """Return an untrained two-level UNet on latents (B, 8, 8, 8) and texts (B, 48, context)."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(96, 96),
        layers_per_block=1,
        cross_attention_dim=context,
        attention_head_dim=4,
        norm_num_groups=32,
        **others,
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

    def pipeline(self, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> DiffusionPipeline:
        """Return diffusers' pipeline of the parts, for writing them."""
        return StableDiffusionPipeline(
            vae=vae,
            unet=self.unet,
            text_encoder=self.text_encoder,
            tokenizer=tokenizer,
            scheduler=new_scheduler(),  # type: ignore[arg-type]
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )

    def read(self, ids: Tensor, sizes: Tensor) -> dict[str, Any]:
        """Return what the UNet reads beside latents and time.

        Args:
            ids: Token ids (B, 48), end tokens after the end.
            sizes: Original size, crop corner and target size in pixels (B, 6), for models whose
                UNet reads them.
        """
        del sizes
        return {"encoder_hidden_states": self.text_encoder(input_ids=ids).last_hidden_state}

    def forward(self, latents: Tensor, timesteps: Tensor, ids: Tensor, sizes: Tensor) -> Tensor:
        """Map latents (B, 8, 8, 8) and timesteps (B,) to noise (B, 8, 8, 8); see `read`."""
        return self.unet(latents, timesteps, **self.read(ids, sizes)).sample


def new_denoiser(tokenizer: CLIPTokenizer, seed: int) -> Denoiser:
    """Return an untrained UNet and text encoder."""
    torch.manual_seed(seed)
    return Denoiser(new_unet(), new_text_encoder(tokenizer))


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return token ids padded to the full context, shape (N, 48)."""
    batch = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT)
    return torch.tensor(batch.input_ids, dtype=torch.long)
