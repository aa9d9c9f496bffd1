"""Train mini-sd's UNet and text encoder together on encoded, captioned pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer

from .model import STEPS, Denoiser, new_scheduler, new_text_encoder, new_unet, token_ids
from .optimizer import muon
from .training import Budget, TrainingRun

_EMPTY_SHARE = 0.1


@dataclass(frozen=True)
class TrainingSet:
    """Latents (N, 8, 8, 8) of unit variance and token ids (N, captions, 48) as int16."""

    latents: Tensor
    ids: Tensor
    empty: Tensor

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return latents (B, 8, 8, 8) and ids (B, 48); a tenth of the captions is empty."""
        rows = torch.randint(len(self.latents), (size,), generator=generator)
        column = torch.randint(self.ids.shape[1], (size,), generator=generator)
        ids = self.ids[rows, column].long()
        ids[torch.rand(size, generator=generator) < _EMPTY_SHARE] = self.empty
        return self.latents[rows].float(), ids


def training_set(
    latents: Tensor, captions: list[list[str]], tokenizer: CLIPTokenizer
) -> TrainingSet:
    """Tokenize all captions once."""
    flat = [text for texts in captions for text in texts]
    ids = token_ids(tokenizer, flat).to(torch.int16).view(len(captions), -1, 48)
    return TrainingSet(latents, ids, token_ids(tokenizer, [""])[0])


def new_denoiser(tokenizer: CLIPTokenizer, seed: int) -> Denoiser:
    """Return an untrained UNet and text encoder."""
    torch.manual_seed(seed)
    return Denoiser(new_unet(), new_text_encoder(tokenizer))


def noise_weights(alphas_cumprod: Tensor) -> Tensor:
    """Return each timestep's loss weight.

    Where noise dominates, the noise is easily guessed although the picture is not: 1/ᾱ, capped,
    gives the layout its due. Where nearly nothing is left to remove, errors are invisible.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return (1 / alphas_cumprod).clamp(max=8.0) * (10.0 / snr).clamp(max=1.0)


def _prefer_plain_attention(denoiser: Denoiser) -> None:
    """Use plain products for attention: the fused one's bf16 backward pass is 20 times slower."""
    denoiser.unet.set_attn_processor(AttnProcessor())
    denoiser.text_encoder.set_attn_implementation("eager")


def train_denoiser(
    denoiser: Denoiser,
    data: TrainingSet,
    budget: Budget,
    state: Path,
    seed: int,
    on_save: Callable[[], None],
    batch: int = 64,
) -> float:
    """Train in place, leave the averaged weights in `denoiser`, return the last mean loss."""
    plain = ("conv_in", "conv_out", "embedding")
    optimizer = muon(denoiser, plain, matrix_rate=0.015, adam_rate=2e-3)
    run = TrainingRun(denoiser, optimizer, budget, decay=0.998, state=state)
    alphas = new_scheduler().alphas_cumprod
    weights = noise_weights(alphas)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + budget.done)
    _prefer_plain_attention(denoiser)

    def losses() -> dict[str, Tensor]:
        latents, ids = data.batch(batch, generator)
        # One timestep in each of B equal slices: the same mean as uniform, with less variance.
        slices = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        timesteps = (slices * STEPS).long()
        noise = torch.randn(latents.shape, generator=generator)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            predicted = denoiser(noisy, timesteps, ids)
        error = (predicted.float() - noise).pow(2).mean((1, 2, 3))
        return {"unet": (error * weights[timesteps]).mean()}

    return run.learn(losses, on_save=on_save)["unet"]
