"""A `cidm_core` base model from the sockets MODEL, CLIP and VAE, with copies of their weights."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...cidm_core.errors import FamilyError, HostError
from ...cidm_core.families import Family
from ...cidm_core.fingerprints import fingerprint
from . import comfy as host
from .model import ModelFacts, base_weight, facts_of_pair, model_facts, probed_weights
from .vae import HostVae, NoVae

if TYPE_CHECKING:
    from ...cidm_core.diffusers_host.base import Base

_NAME = "the connected model"
_QUANTISED = ("scale_weight", "weight_scale", "scaled_fp8", "comfy_quant")
_EDITION = (
    "Load the fp16 or bf16 edition of the checkpoint to learn on; a quantised UNet cannot be "
    "learned on."
)


@contextmanager
def base_of(model: Any, clip: Any, vae: Any, precision: str) -> Generator[Base]:
    """A base model for a while; its memory is free afterwards, whoever still holds it.

    Call it outside inference mode, or nothing can be learned on it.

    Args:
        model: ModelPatcher of a plain Stable Diffusion 1.x or XL model, or of mini-sd.
        clip: Its CLIP object.
        vae: Any VAE object with the model's latents; it is used as it is, not copied.
        precision: "fp32", "bf16" or "fp16".

    Raises:
        FamilyError: If the model is of another kind.
        HostError: If it is quantised, or the parts do not belong together.
    """
    from ...cidm_core.devices import DTYPES

    held = HostVae(vae, model.get_model_object("latent_format"))
    base = _copied(model, clip, held, host.torch_device(), DTYPES[precision])
    try:
        yield base
    except BaseException as error:
        # An error under way would hold the whole run, model and optimiser, by its frames.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        base.unet = base.vae = None
        base.text_encoders = base.tokenizers = ()
        host.free_memory()


def base_without_numbers(model: Any, clip: Any, precision: str) -> Base:
    """A model of the same shapes, for counting memory; nothing is copied.

    Raises:
        FamilyError: If the model is of another kind.
        HostError: If it is quantised, or the parts do not belong together.
    """
    from ...cidm_core.devices import DTYPES

    vae = NoVae(model_facts(model).family)
    with torch.inference_mode(False):  # as for a base that learns
        return _copied(model, clip, vae, torch.device("meta"), DTYPES[precision])


def _copied(model: Any, clip: Any, vae: nn.Module, device: torch.device, dtype: Any) -> Base:
    from ...cidm_core.diffusers_host.build import Target
    from ...cidm_core.diffusers_host.load import base_from_tensors

    schedule = _schedule(model)
    facts = facts_of_pair(model, clip)
    encoders = facts.encoders
    base = base_from_tensors(
        _NAME,
        _weights({**_unet_weights(model), **_text_weights(clip, facts)}),
        tuple(each.tokenizer(clip) for each in encoders),
        vae,
        Target(device, dtype),
        scheduler_config=schedule,
        heads=_unet_heads(model.model.diffusion_model),
        text_heads=[_heads(each.module(clip).transformer, each.row.title) for each in encoders],
    )
    file = _file_of(model)
    base.name = file.stem if file else base.family.name
    return base


@dataclass(frozen=True)
class ExpectedBase:
    """What is known of a base model before it is made; `find_taught` needs no more."""

    family: Family
    fingerprint: str
    scheduler_config: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype


def expected_base(model: Any, precision: str) -> ExpectedBase:
    """Family, fingerprint, kind of prediction and noise levels that `base_of` would give.

    Raises:
        FamilyError: If the model is of another kind.
        HostError: If it predicts what cannot be learned.
    """
    from ...cidm_core.devices import DTYPES

    facts, dtype = model_facts(model), DTYPES[precision]
    weights = probed_weights(model, facts.layers, facts.config)
    name = fingerprint(weight.to(dtype) for weight in weights)
    return ExpectedBase(facts.family, name, _schedule(model), host.torch_device(), dtype)


def usual_precision() -> str:
    """What the host's device is best at: fp32 on a CPU."""
    from ...cidm_core.devices import DTYPES, choose_dtype

    usual = choose_dtype(None, host.torch_device())
    return next(name for name, dtype in DTYPES.items() if dtype == usual)


def lora_notes(model: Any, clip: Any) -> list[str]:
    """What the user should know about LoRAs on the sockets: nothing is learned on them."""
    held = {"MODEL": model.patches, "CLIP": clip.patcher.patches if clip else {}}
    return [
        f"The {socket} socket carries a LoRA or another weight patch ({len(patches)} layers). "
        "It is left aside: concepts are learned on the model's own weights."
        for socket, patches in held.items()
        if patches
    ]


def _file_of(model: Any) -> Path | None:
    """The checkpoint's file, where the host remembers it."""
    made = getattr(model, "cached_patcher_init", None) or ()
    arguments = made[1] if len(made) > 1 else ()
    paths = [a for a in arguments if isinstance(a, str) and a.endswith((".safetensors", ".ckpt"))]
    return Path(paths[0]) if paths else None


def _unet_weights(model: Any) -> dict[str, Tensor]:
    """The UNet's tensors by their CompVis names; those of the model itself, without any LoRA."""
    from ...cidm_core.checkpoints.compvis import UNET

    start = "diffusion_model."
    names = model.model_state_dict(start)
    return {f"{UNET}{key.removeprefix(start)}": base_weight(model, key) for key in names}


def _text_weights(clip: Any, facts: ModelFacts) -> dict[str, Tensor]:
    """The text encoders' tensors by the names of a checkpoint, without any LoRA."""
    from ...cidm_core.checkpoints.text_encoders import prefixes_of

    found: dict[str, Tensor] = {}
    names = [key for key in clip.cond_stage_model.state_dict() if "position_ids" not in key]
    for each, prefix in zip(facts.encoders, prefixes_of(facts.family), strict=True):
        # The patcher's model is the text encoders' own.
        found |= {
            f"{prefix}{key.removeprefix(each.start)}": base_weight(clip.patcher, key)
            for key in names
            if key.startswith(each.start)
        }
    return found


def _unet_heads(unet: nn.Module) -> int | None:
    """Attention heads of a UNet; None if there is one for every 64 channels, as in SDXL."""
    many = len(_numbers(unet, "heads")) > 1 and _numbers(unet, "dim_head") == {64}
    return None if many else _heads(unet, "UNet")


def _heads(module: nn.Module, part: str) -> int:
    found = _numbers(module, "heads")
    if len(found) != 1:
        listed = ", ".join(map(str, sorted(found))) or "none"
        raise FamilyError(
            f"The connected model has a {part} with attention heads: {listed}. Stable Diffusion "
            "1.x has one number in all layers, SDXL one head for every 64 channels; load such a "
            "checkpoint."
        )
    return found.pop()


def _numbers(module: nn.Module, name: str) -> set[int]:
    """The values of an attribute in all modules that have it."""
    counts = {getattr(each, name, None) for each in module.modules()}
    return {count for count in counts if isinstance(count, int)}


def _schedule(model: Any) -> dict[str, Any]:
    """What the model predicts, and its noise levels."""
    from ...cidm_core.checkpoints.schedule import schedule_of

    prediction = _prediction(model)
    return schedule_of(model.get_model_object("model_sampling").sigmas, prediction)


def _prediction(model: Any) -> str:
    """What the model predicts, told by the names of the sampling object's classes.

    Raises:
        HostError: If it is neither noise nor v, or the checkpoint says v, which the host passes
            over.
    """
    from ...cidm_core.checkpoints.schedule import says_v

    kinds = {kind.__name__ for kind in type(model.get_model_object("model_sampling")).__mro__}
    if kinds & {"EDM", "X0", "CONST"} or "EPS" not in kinds:
        raise HostError(
            f"The connected model predicts neither noise nor v ({', '.join(sorted(kinds))}). "
            "Connect it before any node that changes its sampling."
        )
    if "V_PREDICTION" in kinds:
        return "v_prediction"
    if (file := _file_of(model)) and says_v(file):
        raise HostError(
            f"{file.name} says that its model predicts v, and the MODEL predicts noise: the host "
            "passes over the mark. Put ModelSamplingDiscrete with v_prediction (and zsnr, if the "
            "model is so trained) between the loader and all other nodes."
        )
    return "epsilon"


def _weights(tensors: Mapping[str, Tensor]) -> Any:
    """As `weights.build` reads them.

    Raises:
        HostError: If they are quantised. Plain 8-bit floats are not: they are only coarse.
    """
    from ...cidm_core.checkpoints.weights import Weights

    for key, tensor in tensors.items():
        packed = type(tensor).__name__ in ("QuantizedTensor", "GGMLTensor")
        if packed or not tensor.is_floating_point():
            raise HostError(f"The connected model is quantised ({key}: {tensor.dtype}). {_EDITION}")
        if key.endswith(_QUANTISED):
            raise HostError(f"The connected model is quantised, with scales ({key}). {_EDITION}")
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return Weights(_NAME, shapes, dict(tensors).__getitem__)
