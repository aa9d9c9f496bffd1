"""Custom Diffusion of the CompVis code: deltas, compressed deltas, converted ones, whole models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..checkpoints.compvis import UNET
from ..errors import BankError
from ..families import layers_per_block, ldm_path
from .custom_diffusion import Artifact, matrix, plain

EMBED = "embed"
TOKENS = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
_VOCABULARY = 49408  # CLIP-L's; further rows are words that were added
_ATTENTION = re.compile(
    r"(?:model\.)?(?:diffusion_model\.)?((?:input_blocks|middle_block|output_blocks)\..+\.attn2)"
    r"\.(to_[qkv]\.weight|to_out\.0\.(?:weight|bias))"
)


def matches(table: Mapping[str, object]) -> bool:
    """Whether a table is of the CompVis code."""
    return any(_ATTENTION.fullmatch(str(key)) for key in _state(table))


def read(table: Mapping[str, object], layers: Sequence[str], origin: str) -> Artifact:
    """What a table holds.

    Args:
        table: Of a file.
        layers: diffusers paths of the model's attn2 modules.
        origin: What errors call the file.

    Raises:
        BankError: If it is malformed or of another model.
    """
    state, per_block = _state(table), layers_per_block(layers)
    paths = {ldm_path(layer, per_block): layer for layer in layers}
    weights: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    others: Counter[str] = Counter()
    for key in state:
        match = _ATTENTION.fullmatch(str(key))
        if match is None:
            others[str(key).partition(".")[0][:40]] += 1
            continue
        if match[1] not in paths:
            raise BankError(
                f"{origin}: the model has no layer {match[1]}. Give the model it was learned on."
            )
        weights[f"{paths[match[1]]}.{match[2]}"] = matrix(state[key], str(key), origin)
    if TOKENS in state:
        return Artifact(weights, _added(state[TOKENS], origin), _beside(state, paths, origin))
    others.pop(EMBED, None)
    embed = state.get(EMBED, table.get(EMBED))
    return Artifact(weights, _named(embed, origin), left_out=dict(others))


def _state(table: Mapping[str, object]) -> Mapping[str, object]:
    held = table.get("state_dict", table)
    return held if isinstance(held, Mapping) else {}


def _named(embed: object, origin: str) -> dict[str, tuple[Tensor, ...]]:
    """`<new1>`, `<new2>` ... in their order: such a file does not name its words."""
    if embed is None:
        return {}
    rows = plain(embed, EMBED, origin)
    if rows.ndim == 1:  # what the converter writes
        if rows.numel() % 768:
            raise BankError(
                f"{origin}: {EMBED} holds {rows.numel()} numbers, which are no rows of 768. Use "
                "one that was learned on Stable Diffusion 1.x."
            )
        rows = rows.reshape(-1, 768)
    return {f"<new{i + 1}>": (row.clone(),) for i, row in enumerate(rows)}


def _added(tokens: object, origin: str) -> dict[str, tuple[Tensor, ...]]:
    if not isinstance(tokens, Tensor) or tokens.ndim != 2:
        raise BankError(f"{origin}: its token embedding is no matrix. Get the file again.")
    return _named(tokens[_VOCABULARY:], origin) if len(tokens) > _VOCABULARY else {}


def _beside(
    state: Mapping[str, object], paths: Mapping[str, str], origin: str
) -> dict[str, Tensor]:
    """Queries of self-attention, which tell whether the rest of the UNet was trained as well."""
    found: dict[str, Tensor] = {}
    for theirs, ours in paths.items():
        key = f"{UNET}{theirs.removesuffix('attn2')}attn1.to_q.weight"
        if key in state:
            found[f"{ours.removesuffix('attn2')}attn1.to_q.weight"] = plain(state[key], key, origin)
    return found
