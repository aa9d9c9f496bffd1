"""Train a UNet and its text encoders together on encoded, captioned pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedModel

from .model import STEPS, Denoiser, new_scheduler, token_ids
from .optimizer import muon
from .training import Budget, TrainingRun
from .views import Views

_EMPTY_SHARE = 0.1


@dataclass(frozen=True)
class TrainingSet:
    """Encoded views of captioned pictures.

    Attributes:
        latents: Of unit variance (M, 8, 8, 8).
        rows: Number of the picture each is a view of (M,).
        sizes: What is told of each view's size (M, 6).
        ids: Tokens of the pictures' captions (N, captions, 48) as int16.
        empty: Tokens of no caption (48,).
    """

    latents: Tensor
    rows: Tensor
    sizes: Tensor
    ids: Tensor
    empty: Tensor

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents (B, 8, 8, 8), ids (B, 48), a tenth of them empty, and sizes (B, 6)."""
        views = torch.randint(len(self.latents), (size,), generator=generator)
        column = torch.randint(self.ids.shape[1], (size,), generator=generator)
        ids = self.ids[self.rows[views], column].long()
        ids[torch.rand(size, generator=generator) < _EMPTY_SHARE] = self.empty
        return self.latents[views].float(), ids, self.sizes[views]


def training_set(
    latents: Tensor, views: Views, captions: list[list[str]], tokenizer: CLIPTokenizer
) -> TrainingSet:
    """Tokenize all captions once."""
    flat = [text for texts in captions for text in texts]
    ids = token_ids(tokenizer, flat).to(torch.int16).view(len(captions), -1, 48)
    rows, sizes = torch.from_numpy(views.rows), torch.from_numpy(views.sizes)
    return TrainingSet(latents, rows, sizes, ids, token_ids(tokenizer, [""])[0])


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
    for module in denoiser.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")


def train_denoiser(
    denoiser: Denoiser,
    data: TrainingSet,
    rates: tuple[float, float],
    budget: Budget,
    state: Path,
    seed: int,
    on_save: Callable[[], None],
    batch: int = 64,
) -> float:
    """Train in place, leave the averaged weights in `denoiser`, return the last mean loss.

    `rates` are the learning rates of matrices and of everything else.
    """
    plain = ("conv_in", "conv_out", "embedding")
    optimizer = muon(denoiser, plain, *rates)
    run = TrainingRun(denoiser, optimizer, budget, decay=0.998, state=state)
    alphas = new_scheduler().alphas_cumprod
    weights = noise_weights(alphas)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + budget.done)
    _prefer_plain_attention(denoiser)

    def losses() -> dict[str, Tensor]:
        latents, ids, sizes = data.batch(batch, generator)
        # One timestep in each of B equal slices: the same mean as uniform, with less variance.
        slices = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        timesteps = (slices * STEPS).long()
        noise = torch.randn(latents.shape, generator=generator)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            predicted = denoiser(noisy, timesteps, ids, sizes)
        error = (predicted.float() - noise).pow(2).mean((1, 2, 3))
        return {"unet": (error * weights[timesteps]).mean()}

    return run.learn(losses, on_save=on_save)["unet"]
