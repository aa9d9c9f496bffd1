"""The part of a concept that LoRA loaders and managers understand: keys and header texts.

ComfyUI reads all weights of a concept file. diffusers' `load_lora_weights` refuses a file with a
full-rank `.diff`, and takes the most frequent alpha for all attention layers. An exported LoRA
(`write_lora`) holds low-rank pairs of one alpha only, which both read.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import BankError
from ..families import FAMILIES
from ..paths import user_path
from ..updates import FullRank, LowRank, Update, ValueResidual, file_key
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
        "modelspec.trigger_phrase": concept.phrase,
        "modelspec.date": concept.created,
        "modelspec.resolution": f"{row.resolution_px}x{row.resolution_px}" if row else "",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_base_model_version": _BASE_VERSIONS.get(architecture, architecture),
        "ss_output_name": concept.name,
        "ss_tag_frequency": json.dumps({concept.name: {concept.phrase: uses}}),
    }
    return {key: text for key, text in texts.items() if text}


def rank_and_alpha(concept: Concept) -> tuple[int, float]:
    """The largest rank of the concept's factors, and its alpha; zeros if it has none."""
    pairs = ((pair.rank, float(pair.alpha)) for pair in concept.low_rank.values())
    return max(pairs, default=(0, 0.0))


def _low_rank(update: Update, alpha: float) -> Update:
    if isinstance(update, LowRank) and update.alpha != alpha:
        return LowRank(update.down, update.up * (update.alpha / alpha), alpha)
    if isinstance(update, FullRank):
        # Without loss: as many ranks as the smaller side has, the unit matrix on that side.
        rank = min(update.shape)
        unit, delta = torch.eye(rank).to(update.delta), update.delta * (rank / alpha)
        wide = update.shape[1] > rank
        return LowRank(delta, unit, alpha) if wide else LowRank(unit, delta, alpha)
    return update


def write_lora(concept: Concept, path: str | os.PathLike[str]) -> None:
    """Write `lora_bytes` into a file.

    Raises:
        BankError: As `lora_bytes`, or if the path has another ending than .safetensors, or the
            system refuses.
    """
    target = user_path(path)
    if target.suffix.lower() != SUFFIX:
        raise BankError(f"'{target}' should end in {SUFFIX}. Rename it.")
    write_atomic(target, lora_bytes(concept), error=BankError)


def lora_bytes(concept: Concept) -> bytes:
    """The weights as a plain LoRA for any loader.

    Rows, value residuals and changes of biases stay behind: not every loader knows them.

    Raises:
        BankError: If there is nothing to write, or the header grows too large.
    """
    # Low-rank updates of one alpha: LoRA loaders of every age read that.
    alphas = Counter(pair.alpha for pair in concept.low_rank.values())
    whole = (min(u.shape) for u in concept.updates.values() if isinstance(u, FullRank))
    alpha = alphas.most_common(1)[0][0] if alphas else float(max(whole, default=1))
    updates = {path: _low_rank(update, alpha) for path, update in concept.updates.items()}
    plain = replace(concept, updates=updates)
    if not (tensors := lora_tensors(plain)):
        raise BankError(
            f"{concept.name!r} has no weights that a LoRA can hold, so the file would be empty. "
            "Share the concept's own file; other banks import it."
        )
    return pack(tensors, lora_metadata(plain))
