"""A small SDXL in ComfyUI: its own classes, told of a UNet and encoders of few layers."""

from typing import ClassVar

import comfy.sd
import comfy.supported_models as known

ENCODER = {"num_hidden_layers": 3, "intermediate_size": 64}
FEW_LAYERS = {"clip_l_model_config": ENCODER, "clip_g_model_config": ENCODER}


class SmallXL(known.SDXL):
    """The UNet of the preset `sdxl-words`."""

    unet_config: ClassVar = {
        **known.SDXL.unet_config,
        "model_channels": 32,
        "transformer_depth": [0, 2],
    }


known.models.append(SmallXL)


def opened(checkpoint, **options):
    """MODEL and CLIP."""
    return comfy.sd.load_checkpoint_guess_config(
        checkpoint, output_vae=False, te_model_options={**FEW_LAYERS, **options}
    )[:2]
