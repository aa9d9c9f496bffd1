"""A VAE socket of the host as `cidm_core` uses an autoencoder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ...cidm_core.errors import HostError
from ...cidm_core.families import Family
from . import comfy as host


class HostVae(nn.Module):
    """The host's VAE object as `cidm_core` uses an autoencoder; the host manages its memory.

    Latents go in and out as the UNet sees them (`process_in` of the latent format), so the
    scaling factor is 1. Encoding gives the posterior's mode, as the host's VAE Encode does.

    Args:
        vae: A VAE object of the host, of any kind that makes the model's latents.
        latent_format: Of the model.

    Raises:
        HostError: If the VAE is missing.
    """

    dtype = torch.float32

    def __init__(self, vae: Any, latent_format: Any) -> None:
        super().__init__()
        if vae is None or getattr(vae, "first_stage_model", vae) is None:  # as loaders leave it
            raise HostError("There is no VAE: the checkpoint has none. Load one with Load VAE.")
        self._held = (vae, latent_format)  # a tuple: no sub-modules, nothing to move or freeze
        levels = int(vae.spacial_compression_decode()).bit_length()
        self.config = SimpleNamespace(
            scaling_factor=1.0,
            latent_channels=vae.latent_channels,
            block_out_channels=(0,) * levels,
        )

    def encode(self, pixels: Tensor) -> Any:
        """Pixels (n, 3, height, width) in -1..1 to an object whose `latent_dist.mode()` counts."""
        vae, form = self._held
        with torch.inference_mode():
            found = vae.encode((pixels.float().movedim(1, -1).cpu() + 1) / 2)
            latents = form.process_in(found.float())
        mode = latents.to(pixels.device, copy=True)  # a tensor that autograd may use
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: mode))

    def decode(self, latents: Tensor) -> Any:
        """Latents (n, channels, height, width) to an object whose `sample` is in -1..1."""
        vae, form = self._held
        with torch.inference_mode():
            found = vae.decode(form.process_out(latents.float()))
            pixels = found.float().movedim(-1, 1) * 2 - 1
        return SimpleNamespace(sample=pixels.clone())

    def to(self, device: Any = None, *_: Any, **__: Any) -> HostVae:
        """Leaving the device means: let the host unload it. It comes back by itself."""
        if device is not None and torch.device(device).type == "cpu":
            host.unload_models()
        return self


class NoVae(nn.Module):
    """In the place of a VAE, where only what the host's is like is asked for."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            latent_channels=family.latent_channels,
            block_out_channels=(0,) * family.latent_px.bit_length(),
        )
