"""mini-sd as ComfyUI's own objects: ModelPatcher, CLIP, VAE.

UNet and text encoder are the host's modules with mini-sd's numbers, so that samplers, LoRA
loaders and attention patches see what they know. The autoencoder stays diffusers' module: its
widths, group norms of 8 and missing middle attention have no counterpart among the host's.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_detection
import comfy.model_management as memory
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import folder_paths
import torch
from comfy.clip_model import CLIPTextModel
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...cidm_core.checkpoints.compvis import UNET, unet_name
from ...cidm_core.checkpoints.text_encoders import CLIP, clip_names
from ...cidm_core.diffusers_host.base import Base

_TOKENIZER = Path(__file__).parents[2] / "cidm_core" / "mini" / "sd" / "tokenizer"


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


def model_of(base: Base) -> Any:
    """The UNet as a MODEL.

    Args:
        base: mini-sd in fp32 on the CPU.
    """
    config = base.unet.config
    weights = {
        unet_name(key, config).removeprefix(UNET): value
        for key, value in base.unet.state_dict().items()
    }
    found = MiniConfig(comfy.model_detection.detect_unet_config(weights, ""))
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


def clip_of(base: Base) -> Any:
    """The text encoder as a CLIP. The host keeps it in fp16, in which mini-sd is stored."""
    encoder = base.text_encoders[0]
    config = encoder.config.to_dict()
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"]}
    special["pad"] = config["pad_token_id"]

    def text_model(settings: Any, dtype: Any, device: Any, operations: Any) -> Any:
        made = CLIPTextModel(settings, dtype, device, operations)
        size = (config["vocab_size"], config["hidden_size"])  # the host knows CLIP-L's only
        made.set_input_embeddings(operations.Embedding(*size, dtype=dtype, device=device))
        return made

    encoder_made = partial(
        comfy.sd1_clip.SDClipModel,
        max_length=config["max_position_embeddings"],
        textmodel_json_config=dict(config),
        special_tokens=special,
        return_projected_pooled=False,
        model_class=text_model,
    )
    words = partial(
        comfy.sd1_clip.SDTokenizer,
        tokenizer_path=str(_TOKENIZER),
        max_length=config["max_position_embeddings"],
        embedding_size=config["hidden_size"],
    )
    target = comfy.supported_models_base.ClipTarget(
        partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=words),
        partial(comfy.sd1_clip.SD1ClipModel, clip_model=encoder_made),
    )
    places = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.CLIP(target, embedding_directory=places)
    weights = {
        clip_names(key)[0].removeprefix(CLIP): value for key, value in encoder.state_dict().items()
    }
    # The host's class has a projection behind the pooled output, which nothing here reads.
    weights["text_projection.weight"] = torch.eye(config["hidden_size"])
    clip.load_sd(weights)
    return clip


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
