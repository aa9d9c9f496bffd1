"""Which model a file holds, told by the names of its tensors; what cannot be used is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import FamilyError, HostError
from ..families import FAMILIES
from .compvis import UNET, VAE, Shapes
from .text_encoders import CLIP, CLIP_G, CLIP_L

_OTHER_MODELS = {  # a piece of a tensor name -> the model that has it
    "double_blocks.": "a Flux model",
    "joint_blocks.": "an SD 3 model",
    "conditioner.embedders.0.model.": "an SDXL refiner, which goes over finished pictures only",
    "cond_stage_model.model.": "an SD 2 model",
    "time_stack.": "a Stable Video Diffusion model",
    "edm_mean": "a Playground model on EDM's noise levels",
    "edm_vpred.": "a CosXL model on EDM's noise levels",
    "time_embed.cond_proj.": "an LCM, distilled to draw in a few steps",
    "control_model.": "a ControlNet",
    "input_hint_block.": "a ControlNet",
    "motion_modules.": "a motion module",
}
_ADAPTERS = ("lora_", ".lora_", "hada_w1", "lokr_", "oft_blocks", "dora_scale")
_PARTS = {"UNet": UNET, "VAE": VAE, "text encoder": CLIP}
_XL_PARTS = {
    "UNet": UNET,
    "VAE": VAE,
    "first text encoder": CLIP_L,
    "second text encoder": CLIP_G,
}
_WHOLE = (
    "Give a checkpoint with UNet, VAE and text encoder in one file (SDXL has two text encoders), "
    "or a diffusers folder with unet/, vae/ and text_encoder/ (SDXL also text_encoder_2/)."
)
_VAES = {
    "SDXL": re.compile(r"(?<![a-z])(sd[-_ ]?)?xl(?![a-z])"),
    "SD15": re.compile(r"ft[-_](mse|ema)|kl[-_]?f8|(?<![a-z])sd[-_ ]?(v?1[-_.]?[45]|v1)(?![0-9])"),
}
_DISTILLED = re.compile(r"(?<![a-z])(turbo|lightning|lcm|dmd2?|hyper[-_ ]?sd)")


def check_kind(name: str, shapes: Shapes, *, has_vae: bool = False) -> None:
    """Refuse a file that is no whole Stable Diffusion model, saying what it is.

    Args:
        name: Of the file.
        shapes: Its tensors.
        has_vae: A VAE is given apart, so that the file needs none.

    Raises:
        FamilyError: If it is a model of another kind.
        HostError: If it is an adapter, or a part of a model is missing.
    """
    if any(mark in key for key in shapes for mark in _ADAPTERS):
        raise HostError(
            f"{name} is a LoRA or a similar adapter, not a model. Give the checkpoint it was made "
            "for; a concept file goes into a bank."
        )
    refuse_other_models(name, shapes)
    parts = _XL_PARTS if _is_xl(shapes) else _PARTS
    has = {part: any(key.startswith(prefix) for key in shapes) for part, prefix in parts.items()}
    if not any(has.values()):
        raise HostError(f"{name} holds {_guess(shapes)}, not a whole model. {_WHOLE}")
    has["VAE"] = has["VAE"] or has_vae
    missing = [part for part, found in has.items() if not found]
    if missing == ["VAE"]:
        raise HostError(
            f"{name} has no VAE (no tensors named {VAE}*). Give one of its family apart (--vae, "
            "vae=), or a checkpoint that has one."
        )
    if missing:
        raise HostError(
            f"{name} has no {' and no '.join(missing)} (tensors named "
            f"{', '.join(parts[part] + '*' for part in missing)}). {_WHOLE}"
        )
    if not has_vae and any(key.startswith(f"{VAE}taesd_") for key in shapes):
        raise HostError(f"{name} has a TAESD instead of a VAE. {_WHOLE}")


def _is_xl(shapes: Shapes) -> bool:
    marks = (f"{UNET}label_emb.", "conditioner.embedders.")
    return any(key.startswith(marks) for key in shapes)


def refuse_other_models(name: str, shapes: Shapes) -> None:
    """Refuse a model that is known to be of another kind, saying which.

    Raises:
        FamilyError: If it is one.
    """
    for mark, kind in _OTHER_MODELS.items():
        if any(mark in key for key in shapes):
            raise FamilyError(
                f"{name} is {kind}. Stable Diffusion 1.x and SDXL can be loaded; give a plain "
                "checkpoint of these."
            )


def told_family(shapes: Shapes, notes: Mapping[str, str]) -> str | None:
    """The family that a file belongs to by its UNet or its header; None if it has neither."""
    if any(key.startswith(UNET) for key in shapes):
        return "SDXL" if _is_xl(shapes) else "SD15"
    architecture = notes.get("modelspec.architecture", "").partition("/")[0]
    return next((row.name for row in FAMILIES.values() if row.modelspec == architecture), None)


def named_family(stem: str) -> str | None:
    """The family whose VAE a file is called after, if one; both have the same tensors."""
    return next((row for row, name in _VAES.items() if name.search(stem.lower())), None)


def is_distilled(name: str, notes: Mapping[str, str]) -> bool:
    """Whether a model says of itself, in its name or title, that it draws in a few steps."""
    told = (name, notes.get("modelspec.title", ""))
    return any(_DISTILLED.search(text.lower()) for text in told)


def _guess(shapes: Shapes) -> str:
    keys = tuple(shapes)
    for start, what in (
        (("input_blocks.", "down_blocks."), "only a UNet"),
        (("encoder.conv_in", "decoder.conv_in"), "only a VAE"),
        (("text_model.", "embeddings."), "only a text encoder"),
        (("emb_params", "string_to_param"), "a textual inversion embedding"),
    ):
        if any(key.startswith(start) for key in keys):
            return what
    return f"{len(keys)} tensors of an unknown kind ({', '.join(keys[:3]) or 'none'})"
