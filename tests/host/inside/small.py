"""A small SD 1.5 and a small SDXL in ComfyUI: its own classes, told of few and narrow layers."""

from typing import ClassVar

import comfy.sd
import comfy.supported_models as known

ENCODERS = {
    "SD15": {"clip_l_model_config": {"num_hidden_layers": 1, "intermediate_size": 64}},
    "SDXL": {
        name: {"num_hidden_layers": 3, "intermediate_size": 64}
        for name in ("clip_l_model_config", "clip_g_model_config")
    },
}


class SmallSD15(known.SD15):
    """The UNet of the preset `words`."""

    unet_config: ClassVar = {**known.SD15.unet_config, "model_channels": 32}


class SmallXL(known.SDXL):
    """The UNet of the preset `sdxl-words`."""

    unet_config: ClassVar = {
        **known.SDXL.unet_config,
        "model_channels": 32,
        "transformer_depth": [0, 2],
    }


known.models += [SmallSD15, SmallXL]


def opened(family, checkpoint, **options):
    """MODEL and CLIP."""
    return comfy.sd.load_checkpoint_guess_config(
        checkpoint, output_vae=False, te_model_options={**ENCODERS[family], **options}
    )[:2]
