"""The host's CLIP as an encoder of texts into the space that pictures share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


def text_embedding(clip: Any, text: str) -> Tensor | None:
    """Embedding of a text in the space that pictures share, (1, dim); its first 77 tokens.

    None if the CLIP has no text projection, as those in checkpoints.
    """
    encoder = _encoder(clip)
    if encoder is not None and _projection(clip) is None:
        return None
    _, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    # SD 1.x asks its CLIP for the embedding before the projection.
    if pooled is None or encoder is None or encoder.options_default[2]:
        return pooled
    return encoder.transformer.text_projection(pooled.to(clip.patcher.load_device))


def text_projection(clip: Any) -> tuple[Tensor, float] | None:
    """What takes the text encoder's states into that space, (dim, width), and CLIP's scale.

    None if the CLIP has no text projection. The scale is the host's own: it reads none from a
    file, and every CLIP of OpenAI has 100.
    """
    weight = _projection(clip)
    if weight is None:
        return None
    with torch.inference_mode(False):  # learning must be able to go through it
        held = weight.detach().cpu().clone().float()
    return held, float(_encoder(clip).logit_scale.detach().float().exp())


def token_table(clip: Any) -> Tensor:
    """The token embeddings of a CLIP that has a text projection, (entries, width)."""
    return _encoder(clip).transformer.get_input_embeddings().weight


def _encoder(clip: Any) -> Any:
    """The one text encoder; None of a CLIP with several."""
    stage = clip.cond_stage_model
    return getattr(stage, str(getattr(stage, "clip", "")), None)


def _projection(clip: Any) -> Tensor | None:
    """Its weight, (dim, width), if it came from a file."""
    layer = getattr(getattr(_encoder(clip), "transformer", None), "text_projection", None)
    weight = getattr(layer, "weight", None)
    if weight is None or not weight.isfinite().all() or not weight.any():
        return None
    # Where the file has none, the host holds an identity, or whatever was in memory before.
    identity = torch.eye(*weight.shape, dtype=weight.dtype, device=weight.device)
    names = list(_names_in_files(clip))
    absent = bool(names) and not any("text_projection" in name for name in names)
    return None if absent or torch.equal(weight, identity) else weight


def _names_in_files(clip: Any) -> Iterator[str]:
    """Names of the tensors in the files that the host remembers to have read."""
    made = getattr(clip.patcher, "cached_patcher_init", None) or ()
    given = made[1] if len(made) > 1 else ()
    parts = [part for each in given for part in (each if isinstance(each, list) else [each])]
    for part in parts:
        if isinstance(part, str | Path) and str(part).endswith(".safetensors"):
            with contextlib.suppress(OSError, SafetensorError), safe_open(part, "pt") as file:
                yield from file.keys()
