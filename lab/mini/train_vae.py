"""Train mini-sd's AutoencoderKL: 32×32 pictures to 8 latent channels at 8×8, unit variance."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from .optimizer import muon
from .training import Budget, TrainingRun

logger = logging.getLogger(__name__)
LATENT_CHANNELS = 8
_KL_WEIGHT = 3e-4
_BATCH = 32


def new_vae() -> AutoencoderKL:
    """Return an untrained autoencoder with 8 latent channels at a quarter of the side."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 3,  # type: ignore[arg-type]
        up_block_types=("UpDecoderBlock2D",) * 3,  # type: ignore[arg-type]
        block_out_channels=(32, 48, 64),  # type: ignore[arg-type]
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=32,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def to_signal(pixels: NDArray[np.uint8]) -> Tensor:
    """Turn uint8 pictures (N, H, W, 3) into floats (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def vae_loss(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Return reconstruction, edge and a light KL loss on pictures (B, 3, 32, 32) in [-1, 1]."""
    posterior: Any = vae.encode(x).latent_dist  # type: ignore[union-attr]
    mean, logvar = cast(Tensor, posterior.mean.float()), cast(Tensor, posterior.logvar.float())
    latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
    y = vae.decode(latents).sample.float()  # type: ignore[union-attr]
    divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    return _difference(x, y) + _KL_WEIGHT * divergence


def _difference(x: Tensor, y: Tensor) -> Tensor:
    """Return how far pictures y are from x, in values and in edges."""
    (down_x, right_x), (down_y, right_y) = _edges(x), _edges(y)
    edges = (down_x - down_y).abs().mean() + (right_x - right_y).abs().mean()
    return (x - y).abs().mean() + (x - y).pow(2).mean() + 0.5 * edges


def train_vae(pixels: NDArray[np.uint8], budget: Budget, state: Path, seed: int) -> AutoencoderKL:
    """Train on uint8 pictures (N, 32, 32, 3) and return the averaged, normalised autoencoder."""
    torch.manual_seed(seed)
    vae = new_vae()
    optimizer = muon(vae, ("conv_in", "conv_out"), matrix_rate=0.02, adam_rate=2e-3)
    run = TrainingRun(vae, optimizer, budget, decay=0.997, state=state)
    rng = np.random.default_rng((seed, budget.done))

    def losses() -> dict[str, Tensor]:
        x = _batch(pixels, rng)
        # Swapped colour channels and mirrored pictures: any look shall be expressible.
        x = x[:, torch.randperm(3)] if rng.random() < 0.3 else x
        x = x.flip(-1) if rng.random() < 0.5 else x
        with torch.autocast("cpu", torch.bfloat16):
            return {"vae": vae_loss(vae, x)}

    run.learn(losses)
    vae.eval().requires_grad_(False)
    give_unit_variance(vae, to_signal(pixels[:4096]))
    logger.info("vae reconstructs with PSNR %.2f dB", psnr(vae, to_signal(pixels[-512:])))
    return vae


def refine_decoder(
    vae: AutoencoderKL, pixels: NDArray[np.uint8], budget: Budget, seed: int
) -> None:
    """Train the decoder on, in place: fixed latents with a little noise, as samplers leave it."""
    torch.manual_seed(seed)
    vae.train()
    parts = nn.ModuleList([vae.decoder, cast(nn.Module, vae.post_quant_conv)]).requires_grad_(True)
    optimizer = muon(parts, ("conv_in", "conv_out"), matrix_rate=0.01, adam_rate=1e-3)
    rng = np.random.default_rng((seed, 2))

    def losses() -> dict[str, Tensor]:
        x = _batch(pixels, rng)
        with torch.autocast("cpu", torch.bfloat16):
            latents = to_latents(vae, x)
            y = vae.decode(latents + 0.1 * torch.randn_like(latents)).sample  # type: ignore[union-attr]
            return {"decoder": _difference(x, y.float())}

    TrainingRun(parts, optimizer, budget, decay=0.997).learn(losses)
    vae.eval().requires_grad_(False)
    logger.info("vae now reconstructs with PSNR %.2f dB", psnr(vae, to_signal(pixels[-512:])))


def _batch(pixels: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    return to_signal(pixels[rng.integers(0, len(pixels), _BATCH)])


@torch.no_grad()
def to_latents(vae: AutoencoderKL, x: Tensor, batch: int = 16) -> Tensor:
    """Return the latents' modes, shape (N, 8, 8, 8)."""
    parts = [vae.encode(part).latent_dist.mode() for part in x.split(batch)]  # type: ignore[union-attr]
    return torch.cat(parts)


@torch.no_grad()
def give_unit_variance(vae: AutoencoderKL, x: Tensor) -> None:
    """Fold the latents' mean and deviation per channel into the two 1×1 convolutions.

    AutoencoderKL keeps one scaling factor for all channels; with the folded weights the factor is
    1.0 and every channel still has mean 0 and variance 1.
    """
    latents = to_latents(vae, x)
    mean = latents.mean((0, 2, 3))
    deviation = latents.std((0, 2, 3))
    into, out = cast(nn.Conv2d, vae.quant_conv), cast(nn.Conv2d, vae.post_quant_conv)
    assert into.bias is not None
    assert out.bias is not None
    channels = LATENT_CHANNELS
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[None, :, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[channels:] -= 2 * deviation.log()


@torch.no_grad()
def psnr(vae: AutoencoderKL, x: Tensor) -> float:
    """Return the peak signal-to-noise ratio of reconstructions in dB."""
    y = vae.decode(to_latents(vae, x)).sample  # type: ignore[union-attr]
    error = (x.clamp(-1, 1) - y.clamp(-1, 1)).pow(2).mean() / 4
    return float(-10 * error.log10())
