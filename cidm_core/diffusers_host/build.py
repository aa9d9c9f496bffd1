"""Modules of diffusers and transformers made of weights that were found in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedModel,
)

from ..checkpoints.weights import GET_AGAIN, Weights, quantised
from ..errors import HostError

Names = Callable[[str], tuple[str, ...]]
"""Parameter of our module -> names it may have in a file, the likeliest first."""

_KINDS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "UNet": UNet2DConditionModel.from_config,
    "VAE": AutoencoderKL.from_config,
    "text encoder": lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config)),
    "second text encoder": lambda config: CLIPTextModelWithProjection(
        CLIPTextConfig.from_dict(config)
    ),
}


@dataclass(frozen=True)
class Target:
    """Where and in which precision modules are built."""

    device: torch.device
    dtype: torch.dtype


def build(
    part: str, config: dict[str, Any], weights: Weights, names_of: Names, target: Target
) -> Any:
    """A frozen module whose parameters come from `weights`, cast one by one on the way in.

    At no time more than the module and one tensor are in memory; the file is not kept open by
    the result.

    Args:
        part: "UNet", "VAE", "text encoder" or "second text encoder".
        config: As its class has it.
        weights: Where the values are.
        names_of: Names a parameter may have in the file; the first one found is used.
        target: Device and type of the parameters.

    Raises:
        HostError: If a tensor is missing, quantised or has another shape.
    """
    try:
        with init_empty_weights(include_buffers=False):
            module: nn.Module = _KINDS[part](config)
    except Exception as error:  # whatever a library makes of a configuration it cannot use
        raise HostError(
            f"The {part} of {weights.name} cannot be built from its configuration ({error}). "
            f"{GET_AGAIN}"
        ) from error
    state: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        source = next((n for n in names_of(name) if n in weights.shapes), None)
        if source is None:
            raise HostError(
                f"{weights.name} has no tensor {names_of(name)[0]!r}, which its {part} "
                f"needs. The file is incomplete or of an unknown kind. {GET_AGAIN}"
            )
        tensor = weights.read(source)
        if not tensor.is_floating_point():
            raise HostError(quantised(weights.name, source, tensor))
        # Attention of the original VAE is stored as 1x1 convolutions, (out, in, 1, 1).
        if tuple(n for n in tensor.shape if n > 1) != tuple(n for n in parameter.shape if n > 1):
            raise HostError(
                f"{source!r} in {weights.name} is {tuple(tensor.shape)}; this {part} needs "
                f"{tuple(parameter.shape)}. The file is of an unknown kind."
            )
        # A copy even where nothing is cast: the file is mapped and may change or vanish.
        tensor = tensor.reshape(parameter.shape).to(target.device, target.dtype, copy=True)
        state[name] = tensor.contiguous()
    module.load_state_dict(state, strict=False, assign=True)
    return module.to(target.device).eval().requires_grad_(False)


def emptied(module: Any) -> Any:
    """A module of the same class and configuration without numbers, on "meta"."""
    kind, config = type(module), module.config
    is_text = isinstance(module, PreTrainedModel)
    with init_empty_weights(include_buffers=False):
        made = kind(config) if is_text else kind.from_config(config)
    for parameter in made.to("meta").parameters():
        parameter.data = parameter.data.to(module.dtype)
    return made.eval().requires_grad_(False)
