"""mini-sd and mini-sdxl as rows of one table: what training them takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from . import MINI
from .data import Pictures
from .model import MINI_SD_FOLDER, Denoiser, new_denoiser
from .model_xl import DenoiserXL, meet_half_way, new_denoiser_xl
from .views import Views, sized_pictures, whole_pictures

MINI_SDXL_FOLDER = MINI / "sdxl"


@dataclass(frozen=True)
class MiniModel:
    """One embedded model.

    Attributes:
        folder: Where the package keeps it.
        kind: Its class; the UNet and the text encoders of a folder make one.
        parts: Those, by folder, in the order the class takes them.
        new: Makes what training begins with, of tokenizer and seed.
        views: Makes what is shown of the drawn pictures, with a seed.
        finish: What is done to the trained model, given one as `new` made it.
        rates: Learning rates of matrices and of everything else.
        begun_from: What `new` and the autoencoder are taken from, for the record.
        reads_sizes: Its UNet reads what is told of the picture's size.
        vae: Folder of an autoencoder that is taken over; None: it is trained.
    """

    folder: Path
    kind: Callable[..., Denoiser]
    parts: Mapping[str, type]
    new: Callable[[CLIPTokenizer, int], Denoiser]
    views: Callable[[Pictures, int], Views]
    rates: tuple[float, float]
    finish: Callable[[Denoiser, Denoiser], None] | None = None
    begun_from: tuple[str, ...] = ()
    reads_sizes: bool = False
    vae: Path | None = None

    def load(self, folder: Path) -> Denoiser:
        """Load the trained parts of a folder in float32."""
        found = [
            kind.from_pretrained(folder / part, torch_dtype=torch.float32)
            for part, kind in self.parts.items()
        ]
        return self.kind(*found).eval()


MODELS: Mapping[str, MiniModel] = {
    "mini-sd": MiniModel(
        folder=MINI_SD_FOLDER,
        kind=Denoiser,
        parts={"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel},
        new=new_denoiser,
        views=whole_pictures,
        rates=(0.015, 2e-3),
    ),
    "mini-sdxl": MiniModel(
        folder=MINI_SDXL_FOLDER,
        kind=DenoiserXL,
        parts={
            "unet": UNet2DConditionModel,
            "text_encoder": CLIPTextModel,
            "text_encoder_2": CLIPTextModelWithProjection,
        },
        new=new_denoiser_xl,
        views=sized_pictures,
        rates=(0.005, 1e-3),  # gentle, so that what it begins with is not lost
        finish=meet_half_way,
        begun_from=("mini-sd", "mini-clip"),
        reads_sizes=True,
        vae=MINI_SD_FOLDER / "vae",
    ),
}
