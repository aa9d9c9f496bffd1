"""The three layouts of Custom Diffusion: diffusers', the CompVis code's, its diffusers script's.

The latter two are pickles, because those programs read nothing else; they hold tensors only. A
concept of low rank is written compressed there, as factors u and v.
"""

from __future__ import annotations

import io

import torch
from safetensors.torch import save
from torch import Tensor

from ..checkpoints.compvis import UNET
from ..concept import Concept
from ..errors import BankError
from ..families import layers_per_block, ldm_path
from ..storage.compatibility import BaseWeights
from . import whole

WEIGHTS = "pytorch_custom_diffusion_weights.safetensors"


def for_diffusers(concept: Concept, model: BaseWeights) -> dict[str, bytes]:
    """What `load_attn_procs` and `load_textual_inversion` of diffusers read, by file name.

    Self-attention has a tensor without numbers, from which diffusers makes the processor that it
    expects there.

    Raises:
        BankError: If no such file can hold the concept.
    """
    files = whole.word_files(concept, diffusers=True)
    tensors: dict[str, Tensor] = {}
    for layer in concept.layers:
        tensors[f"{layer.removesuffix('attn2')}attn1.processor"] = torch.zeros(0)
    for name, value in whole.parameters(concept, model):
        layer, _, part = name.rpartition(".attn2.")
        projection, _, rest = part.partition(".")
        key = f"{layer}.attn2.processor.{projection}_custom_diffusion.{rest}"
        tensors[key] = value.contiguous().clone()
    return {WEIGHTS: save(tensors, {"format": "pt"})} | files


def for_compvis(concept: Concept, model: BaseWeights) -> bytes:
    """What `sample.py --delta_ckpt` reads.

    Raises:
        BankError: If no such file can hold the concept.
    """
    if len(model.family.encoders) != 1:
        raise BankError(
            f"The CompVis code draws with Stable Diffusion 1.x, and {concept.name!r} is of "
            f"{model.family.name}. Export it as delta-bin."
        )
    words, per_block = whole.words_of(concept), layers_per_block(concept.layers)
    state: dict[str, object] = {
        f"{UNET}{ldm_path(name, per_block)}": value
        for name, value in _matrices(concept, model).items()
    }
    if words:
        state["embed"] = torch.stack([rows[0] for rows in words.values()])
    return _pickled({"state_dict": state})


def for_delta_bin(concept: Concept, model: BaseWeights) -> bytes:
    """What the repository's diffusers scripts read, also those for SDXL.

    Raises:
        BankError: If no such file can hold the concept.
    """
    words: dict[str, object] = {
        word: [first, *others] if others else first
        for word, (first, *others) in whole.words_of(concept).items()
    }
    matrices = _matrices(concept, model)
    return _pickled({"unet": matrices} | ({"modifier_token": words} if words else {}))


def _matrices(concept: Concept, model: BaseWeights) -> dict[str, object]:
    """Parameters by name; with u and v for keys and values where all of these are of low rank."""
    found: dict[str, object] = dict(whole.parameters(concept, model))
    if whole.is_compressed(concept):
        for layer in concept.layers:
            for part in whole.KEYS_AND_VALUES:
                out, into = model.shape_of(f"{layer}.{part}") or (0, 0)
                none = torch.zeros(out, 0), torch.zeros(0, into)
                u, v = whole.factors(concept, layer, part) or none
                found[f"{layer}.{part}.weight"] = {"u": u, "v": v}
    return found


def _pickled(table: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(table, buffer)
    return buffer.getvalue()
