"""The mini models as ComfyUI's own objects: MODEL and VAE (`clip`: CLIP).

The UNet is the host's module with the mini model's numbers, so that samplers, LoRA loaders and
attention patches see what they know. The autoencoder stays diffusers' module: its widths, group
norms of 8 and missing middle attention have no counterpart among the host's.
"""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_detection
import comfy.model_management as memory
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...cidm_core.checkpoints.compvis import UNET, unet_name
from ...cidm_core.diffusers_host.base import Base


class MiniLatents(comfy.latent_formats.LatentFormat):
    """8 channels, 4 px per cell, unit variance as they leave the encoder."""

    latent_channels = 8
    spacial_downscale_ratio = 4
    # For previews while sampling: a least-squares fit on 600 drawn scenes, R2 0.93.
    latent_rgb_factors = (
        (0.175, 0.028, 0.062),
        (-0.108, 0.189, 0.098),
        (0.465, 0.218, -0.020),
        (-0.018, 0.023, -0.082),
        (0.014, 0.031, -0.001),
        (0.126, 0.076, -0.001),
        (-0.014, -0.188, 0.146),
        (0.132, 0.285, 0.405),
    )
    latent_rgb_factors_bias = (0.012, 0.033, 0.005)


class MiniConfig(comfy.supported_models_base.BASE):
    """What the host wants to know of a model besides its weights."""

    latent_format = MiniLatents
    memory_usage_factor = 1.0

    def inpaint_model(self) -> bool:
        return False  # the host takes more than 4 input channels for one


class MiniXL(comfy.model_base.SDXL):
    """SDXL's pooled text and sizes, for cells of 4 px."""

    def encode_adm(self, **given: Any) -> Tensor:
        """Pooled text and the six numbers, (rows, numbers)."""
        # The host takes a cell for 8 px where a prompt says nothing of sizes.
        height, width = given["noise"].shape[2:4]
        if (given["height"], given["width"]) == (height * 8, width * 8):
            cell = self.latent_format.spacial_downscale_ratio
            given |= {"height": height * cell, "width": width * cell}
        return super().encode_adm(**given)


class MiniXLConfig(MiniConfig):
    """mini-sdxl; its family has two text encoders."""

    size_numbers: int

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> Any:
        made = MiniXL(self, self.model_type(state_dict, prefix), device)
        made.embedder = Timestep(self.size_numbers)
        return made


def _config_of(base: Base, weights: dict[str, Tensor]) -> MiniConfig:
    detected = comfy.model_detection.detect_unet_config(weights, "")
    if len(base.family.encoders) == 1:
        return MiniConfig(detected)
    found = MiniXLConfig(detected)
    found.size_numbers = base.unet.config.addition_time_embed_dim
    return found


def model_of(base: Base) -> Any:
    """The UNet as a MODEL.

    Args:
        base: A mini model in fp32 on the CPU.
    """
    config = base.unet.config
    weights = {
        unet_name(key, config).removeprefix(UNET): value
        for key, value in base.unet.state_dict().items()
    }
    found = _config_of(base, weights)
    # diffusers' name for the number of heads
    found.unet_config |= {"num_heads": config.attention_head_dim, "num_head_channels": -1}
    schedule = base.scheduler_config
    found.sampling_settings = {
        "linear_start": schedule["beta_start"],
        "linear_end": schedule["beta_end"],
        "timesteps": schedule["num_train_timesteps"],
    }
    found.set_inference_dtype(torch.float32, None)
    model = found.get_model(weights, "")
    model.load_model_weights(weights, "")
    family = base.family

    def checked(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        height, width = (side * family.latent_px for side in noise.shape[-2:])
        family.check_size(width, height)
        return executor(noise, *args, **kwargs)

    patcher = _patcher(model, memory.get_torch_device(), memory.unet_offload_device())
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "cidm_mini", checked)
    return patcher


class MiniAutoencoder(torch.nn.Module):
    """diffusers' autoencoder with the two verbs of the host's."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def encode(self, pixels: Tensor, **_: Any) -> Tensor:
        """The mode, as the host's own autoencoders give it."""
        return self.inner.encode(pixels).latent_dist.mode()

    def decode(self, latents: Tensor, **_: Any) -> Tensor:
        return self.inner.decode(latents).sample


def vae_of(base: Base) -> Any:
    """The autoencoder as a VAE."""
    config = base.vae.config
    vae = _blank_vae(config.latent_channels)
    vae.first_stage_model = MiniAutoencoder(base.vae).eval().to(vae.vae_dtype)
    vae.patcher = _patcher(vae.first_stage_model, vae.device, memory.vae_offload_device())
    vae.downscale_ratio = vae.upscale_ratio = base.family.latent_px
    vae.latent_channels = config.latent_channels
    vae.size = None  # of the blank one
    return vae


def _blank_vae(channels: int) -> Any:
    """A VAE with all the host's settings around the smallest of its own autoencoders."""
    layout = {
        "double_z": True,
        "z_channels": channels,
        "resolution": 32,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params = {"ddconfig": layout, "embed_dim": channels}
    weights = AutoencoderKL(**params).state_dict()
    return comfy.sd.VAE(sd=weights, config={"params": params}, dtype=torch.float32)


def _patcher(model: Any, device: Any, offload: Any) -> Any:
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
