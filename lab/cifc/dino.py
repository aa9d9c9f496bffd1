"""DINO and DINOv2 from local files as encoders of pictures, for DINO alignment.

As Custom Diffusion measures it (Kumari et al. 2023): the class token of the last layer, of pictures
resized to a short edge of 256 (bicubic), centre-cropped to 224, and normalised as for ImageNet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, Dinov2Model, ViTModel

from cidm_core.devices import choose_device
from cidm_core.diffusers_host.clip import cropped, local_folder, preparation
from cidm_core.errors import HostError

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_CROP_PX = 224
_RESIZE = 256 / 224  # short edge per crop
_BATCH = 32
_ADVICE = "Fetch it once with `hf download facebook/dino-vits16`, or give a folder."
_MODELS: Mapping[str, Any] = {"vit": ViTModel, "dinov2": Dinov2Model}


class DinoEncoder:
    """Class tokens of a vision transformer, float32 on the CPU, not normalised."""

    def __init__(self, model: Any, preparation: Mapping[str, Any]) -> None:
        self.model = model.eval()
        # DINOv2's table of positions is for 518 px; it is used at 224 like all the others.
        self.size = min(int(model.config.image_size), _CROP_PX)
        self.mean = np.array(preparation.get("image_mean", _MEAN), dtype=np.float32)
        self.std = np.array(preparation.get("image_std", _STD), dtype=np.float32)

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(pictures, dim)."""
        parts: list[Tensor] = []
        for start in range(0, len(pictures), _BATCH):
            pixels = np.stack([self.prepare(p) for p in pictures[start : start + _BATCH]])
            pixels = torch.from_numpy(pixels).to(self.model.device, self.model.dtype)
            states = self.model(pixel_values=pixels).last_hidden_state
            parts.append(states[:, 0].float().cpu())
        return torch.cat(parts)

    def prepare(self, picture: Image.Image) -> NDArray[np.float32]:
        """(3, size, size): short edge resized, centre cropped, normalised."""
        picture = picture.convert("RGB")
        short = round(self.size * _RESIZE)
        scale = short / min(picture.size)
        shape = (max(short, int(picture.width * scale)), max(short, int(picture.height * scale)))
        picture = picture.resize(shape, Image.Resampling.BICUBIC)
        return cropped(picture, self.size, self.mean, self.std)


def load_dino(path: str | Path, device: str | torch.device | None = None) -> DinoEncoder:
    """Load a DINO (v1: a plain ViT) or DINOv2 model offline.

    Args:
        path: A folder as transformers writes it (config.json, model.safetensors), or the name of
            one in the local Hugging Face cache, such as facebook/dino-vits16.
        device: Default: CUDA, else MPS, else the CPU.

    Raises:
        HostError: If it is not there or neither DINO nor DINOv2.
    """
    folder = local_folder(path, "DINO", _ADVICE)
    try:
        kind = str(AutoConfig.from_pretrained(folder, local_files_only=True).model_type)
        # DINO's own weights lack ViT's pooler, which is not read.
        more = {"add_pooling_layer": False} if kind == "vit" else {}
        model: Any = _MODELS[kind].from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **more
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HostError(
            f"'{path}' is no DINO model of transformers ({reason}). Give a folder with config.json "
            f"and model.safetensors; the model's type must be one of {', '.join(_MODELS)}."
        ) from error
    return DinoEncoder(model.to(choose_device(device)), preparation(folder))
