"""What a model's files tell of its UNet, for those who need no more than that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.compvis import unet_config, unet_name
from ..checkpoints.geometry import family_of, layers_of
from ..checkpoints.kinds import check_kind
from ..checkpoints.weights import Weights, open_weights, quantised
from ..errors import HostError
from ..families import CrossAttention, Family
from ..fingerprints import fingerprint, fingerprint_paths
from .folders import json_of, part_of
from .load import find_model


@dataclass(frozen=True)
class UnetFacts:
    """What a `Base` of these files has, as far as it is the UNet's; numbers are read on demand."""

    family: Family
    layers: tuple[CrossAttention, ...]
    fingerprint: str
    weights: Weights
    named: Callable[[str], str]

    def shape_of(self, path: str) -> tuple[int, ...] | None:
        """Shape of the weight at a path in the UNet; None if there is none."""
        with contextlib.suppress(KeyError, IndexError, ValueError):  # no path that a UNet can have
            return self.weights.shapes.get(self.named(f"{path}.weight"))
        return None

    def parameter(self, name: str) -> Tensor:
        """A weight or bias by its name in concepts ("...attn2.to_k.weight"), float32."""
        return _read(self.weights, self.named(name)).float()


def unet_facts(model: str | Path) -> UnetFacts:
    """Read two tensors of a model, and load nothing: SDXL would take 14 GB.

    Args:
        model: As `load_base` takes it.

    Raises:
        FamilyError: If the model is of no known family.
        HostError: If its files are missing, damaged or incomplete.
    """
    path = find_model(model)
    config, weights, named = _folder(path) if path.is_dir() else _file(path)
    layers = layers_of(path.name, config)
    read = [_read(weights, named(f"{place}.weight")) for place in fingerprint_paths(layers)]
    family = family_of(path.name, config)
    return UnetFacts(family, layers, fingerprint(read), weights, named)


Opened = tuple[dict[str, Any], Weights, Callable[[str], str]]


def _folder(path: Path) -> Opened:
    return json_of(path / "unet" / "config.json"), part_of(path / "unet"), lambda key: key


def _file(path: Path) -> Opened:
    weights = open_weights(path)
    check_kind(path.name, weights.shapes, has_vae=True)
    config = unet_config(path.name, weights.shapes)
    return config, weights, lambda key: unet_name(key, config)


def _read(weights: Weights, key: str) -> Tensor:
    if key not in weights.shapes:
        raise HostError(f"{weights.name} has no tensor {key!r}. Give a whole model.")
    tensor = weights.read(key)
    if not tensor.is_floating_point():
        raise HostError(quantised(weights.name, key, tensor))
    return tensor
