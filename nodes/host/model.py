"""What a MODEL socket carries, in the words of `cidm_core`: family, layers, fingerprint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ...cidm_core.checkpoints.compvis import UNET, unet_config, unet_name
from ...cidm_core.checkpoints.geometry import family_of, layers_of
from ...cidm_core.errors import FamilyError
from ...cidm_core.families import CrossAttention, Family
from ...cidm_core.fingerprints import fingerprint, fingerprint_paths
from ...cidm_core.updates import TEXT_ENCODERS
from .encoders import HostEncoder, encoders_of

_UNET = "diffusion_model."


@dataclass(frozen=True)
class ModelFacts:
    """What decides whether concepts fit a MODEL, and where they go.

    Attributes:
        family: Row of the families table.
        layers: Its attn2 layers in execution order.
        fingerprint: Name of the weights.
        config: Of the UNet, as diffusers has it.
        shapes: Of the UNet's weights, by their names in the host.
        encoders: The text encoders, where a CLIP was told of.
        encoder_shapes: Of the text encoders' weights, by paths as concepts have them.
    """

    family: Family
    layers: tuple[CrossAttention, ...]
    fingerprint: str
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    encoders: tuple[HostEncoder, ...] = ()
    encoder_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, Any])

    @property
    def names(self) -> tuple[str, ...]:
        """Diffusers paths of the layers, as concept files have them."""
        return tuple(layer.path for layer in self.layers)

    def host_path(self, path: str) -> str:
        """Where ComfyUI's UNet has a module of diffusers' UNet."""
        return _host_path(path, self.config)

    def encoder_key(self, path: str) -> str:
        """Name in the CLIP's state dict of a text encoder's weight, by its path in concepts."""
        name, _, rest = path.partition(".")
        (start,) = (each.start for each in self.encoders if each.row.name == name)
        return f"{start}{rest}.weight"

    def shape_of(self, path: str) -> tuple[int, ...] | None:
        """Shape of the weight at a path as concepts have it; None if there is none."""
        if path.startswith(TEXT_ENCODERS):
            return self.encoder_shapes.get(path)
        with contextlib.suppress(KeyError, IndexError, ValueError):  # no path that a UNet can have
            return self.shapes.get(f"{UNET}{self.host_path(path)}.weight")
        return None


@dataclass(frozen=True)
class ModelWeights(ModelFacts):
    """A MODEL whose numbers can be read, besides its facts."""

    model: Any = None

    def parameter(self, name: str) -> Tensor:
        """A weight or bias by its name in concepts ("...attn2.to_k.weight"), float32 on the CPU."""
        path, _, part = name.rpartition(".")
        key = f"{_UNET}{self.host_path(path)}.{part}"
        return base_weight(self.model, key).detach().float().cpu()


def base_weight(model: Any, key: str) -> Tensor:
    """A weight of a ModelPatcher without the LoRAs that may be patched into it right now.

    Args:
        model: ModelPatcher.
        key: Name in `model.model`'s state dict.
    """
    for backup in (model.hook_backup, model.backup):
        if key in backup:
            held = backup[key]
            return held[0]  # (weight, ...) in both
    weight = model.model
    for part in key.split("."):
        weight = getattr(weight, part)
    return weight


def _encoder_shapes(clip: Any, encoders: Sequence[HostEncoder]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for key, weight in clip.cond_stage_model.state_dict().items():
        for each in encoders:
            if key.startswith(each.start) and key.endswith(".weight"):
                path = key.removeprefix(each.start).removesuffix(".weight")
                found[f"{each.row.name}.{path}"] = tuple(weight.shape)
    return found


def model_facts(model: Any) -> ModelFacts:
    """Read a MODEL's family, layers and fingerprint off its weights.

    Raises:
        FamilyError: If concepts do not exist for this kind of model.
    """
    name = "The model on the MODEL socket"
    unet = model.model.diffusion_model
    shapes = {f"{UNET}{k}": tuple(v.shape) for k, v in unet.state_dict().items()}
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        raise FamilyError(
            f"{name} is a {type(model.model).__name__}, not a Stable Diffusion UNet. Concepts are "
            "learned on Stable Diffusion 1.x and SDXL; load such a checkpoint."
        )
    config = unet_config(name, shapes)
    # An inpainting model has more input channels; concepts of the plain one fit it.
    config["in_channels"] = config["out_channels"]
    family, layers = family_of(name, config), layers_of(name, config)
    name = fingerprint(probed_weights(model, layers, config))
    return ModelFacts(family, layers, name, config, shapes)


def model_weights(model: Any) -> ModelWeights:
    """`model_facts` of a MODEL, with its numbers.

    Raises:
        FamilyError: If concepts do not exist for this kind of model.
    """
    return ModelWeights(**vars(model_facts(model)), model=model)


def facts_of_pair(model: Any, clip: Any) -> ModelFacts:
    """`model_facts` with what the CLIP of a MODEL tells: names and shapes of text encoders.

    Raises:
        FamilyError: If concepts do not exist for this kind of model.
        HostError: If the CLIP is of another family, or lacks an encoder.
    """
    facts = model_facts(model)
    encoders = encoders_of(clip, facts.family)
    shapes = _encoder_shapes(clip, encoders)
    return replace(facts, encoders=encoders, encoder_shapes=shapes)


def probed_weights(
    model: Any, layers: Sequence[CrossAttention], config: Mapping[str, Any]
) -> Iterator[Tensor]:
    """The weights of a MODEL that `fingerprint` reads."""
    for path in fingerprint_paths(layers):
        yield base_weight(model, f"{_UNET}{_host_path(path, config)}.weight")


def _host_path(path: str, config: Mapping[str, Any]) -> str:
    return unet_name(f"{path}.weight", config).removeprefix(UNET).removesuffix(".weight")
