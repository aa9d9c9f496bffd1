"""The part of a concept that every LoRA loader and manager understands: keys and header texts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from torch import Tensor

from ..concept import Concept
from ..errors import BankError
from ..families import FAMILIES
from ..updates import ValueResidual, file_key
from .atomic import write_atomic
from .tensor_file import SUFFIX, pack

_BASE_VERSIONS = {
    "stable-diffusion-v1": "sd_v1",
    "stable-diffusion-xl-v1-base": "sdxl_base_v1-0",
}


def lora_tensors(concept: Concept) -> dict[str, Tensor]:
    """The weights under the names that LoRA loaders know; value residuals have none."""
    return {
        lora_key(concept.family, path) + ending: tensor
        for path, update in concept.updates.items()
        if not isinstance(update, ValueResidual)
        for ending, tensor in update.tensors().items()
    }


def lora_key(family: str, path: str) -> str:
    """What loaders call a linear layer of a family, without its tensor's ending."""
    row = FAMILIES.get(family)
    return file_key(path, len(row.encoders) if row else 1)


def lora_metadata(concept: Concept) -> dict[str, str]:
    """Header texts that LoRA managers and web interfaces read: modelspec 1.0.0 and `ss_*`."""
    row = FAMILIES.get(concept.family)
    architecture = row.modelspec if row else concept.family.lower()
    rank, alpha = rank_and_alpha(concept)
    photos = concept.facts.get("photos")
    uses = photos if isinstance(photos, int) else 1
    about = f"{concept.class_words} ({concept.kind}), by {concept.method}"
    texts = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": concept.name,
        "modelspec.description": about,
        "modelspec.trigger_phrase": concept.trigger,
        "modelspec.date": concept.created,
        "modelspec.resolution": f"{row.resolution_px}x{row.resolution_px}" if row else "",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_base_model_version": _BASE_VERSIONS.get(architecture, architecture),
        "ss_output_name": concept.name,
        "ss_tag_frequency": json.dumps({concept.name: {concept.trigger: uses}}),
    }
    return {key: text for key, text in texts.items() if text}


def rank_and_alpha(concept: Concept) -> tuple[int, float]:
    """The largest rank of the concept's factors, and its alpha; zeros if it has none."""
    pairs = ((pair.rank, float(pair.alpha)) for pair in concept.low_rank.values())
    return max(pairs, default=(0, 0.0))


def write_lora(concept: Concept, path: str | os.PathLike[str]) -> None:
    """Write the low-rank weights as a plain LoRA that any loader reads; tokens stay behind.

    Raises:
        BankError: If the path has another ending than .safetensors, or the system refuses.
    """
    target = Path(path)
    if target.suffix.lower() != SUFFIX:
        raise BankError(f"'{target}' should end in {SUFFIX}. Rename it.")
    write_atomic(target, pack(lora_tensors(concept), lora_metadata(concept)), error=BankError)
