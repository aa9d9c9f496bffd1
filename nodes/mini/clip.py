"""The text encoders of the mini models as a CLIP: the host's modules with their numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import folder_paths
import torch
from comfy.clip_model import CLIPTextModel
from torch import nn

from ...cidm_core.checkpoints.text_encoders import CLIP, clip_names
from ...cidm_core.diffusers_host.base import Base

_TOKENIZER = Path(__file__).parents[2] / "cidm_core" / "mini" / "sd" / "tokenizer"
_NAMES = ("clip_l", "clip_g")  # as the host has them


def clip_of(base: Base) -> Any:
    """The text encoders as a CLIP. The host keeps them in fp16, in which the models are stored."""
    count = len(base.text_encoders)
    words = [partial(_tokenizer, base, index) for index in range(count)]
    made = [partial(_encoder, base, index) for index in range(count)]
    if count == 1:
        target = comfy.supported_models_base.ClipTarget(
            partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=words[0]),
            partial(comfy.sd1_clip.SD1ClipModel, clip_model=made[0]),
        )
    else:
        target = comfy.supported_models_base.ClipTarget(
            partial(_Tokenizers, words), partial(_Encoders, made)
        )
    places = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.CLIP(target, embedding_directory=places)
    for name, encoder in zip(_NAMES, base.text_encoders, strict=False):
        weights = {
            clip_names(key)[0].removeprefix(CLIP): value
            for key, value in encoder.state_dict().items()
        }
        # The host's class has a projection behind the pooled output, which not all encoders have.
        weights.setdefault("text_projection.weight", torch.eye(encoder.config.hidden_size))
        getattr(clip.cond_stage_model, name).load_sd(weights)
    return clip


class _Tokenizers(comfy.sdxl_clip.SDXLTokenizer):
    def __init__(self, words: list[Any], **given: Any) -> None:
        self.clip_l, self.clip_g = (make(**given) for make in words)


class _Encoders(comfy.sdxl_clip.SDXLClipModel):
    def __init__(self, made: list[Any], dtype: Any = None, **given: Any) -> None:
        nn.Module.__init__(self)
        self.clip_l, self.clip_g = (make(dtype=dtype, **given) for make in made)
        self.dtypes = {dtype}


def _tokenizer(base: Base, index: int, **given: Any) -> Any:
    config = base.text_encoders[index].config
    row = base.family.encoders[index]
    return comfy.sd1_clip.SDTokenizer(
        **{**given, "tokenizer_path": str(_TOKENIZER)},
        max_length=config.max_position_embeddings,
        embedding_size=config.hidden_size,
        embedding_key=_NAMES[index],
        pad_with_end=row.pad_id is None,
    )


def _encoder(base: Base, index: int, **given: Any) -> Any:
    config = base.text_encoders[index].config.to_dict()
    row = base.family.encoders[index]
    pad = config["pad_token_id"] if row.pad_id is None else row.pad_id
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": pad}

    def text_model(settings: Any, dtype: Any, device: Any, operations: Any) -> Any:
        made = CLIPTextModel(settings, dtype, device, operations)
        size = (config["vocab_size"], config["hidden_size"])  # the host knows CLIP-L's only
        made.set_input_embeddings(operations.Embedding(*size, dtype=dtype, device=device))
        if row.pooled:
            width = (config["hidden_size"], config["projection_dim"])
            made.text_projection = operations.Linear(*width, bias=False, dtype=dtype, device=device)
        return made

    # Counted from the front: the host takes no -2 of two layers.
    last_but_one = config["num_hidden_layers"] - 2
    read = {"layer": "hidden", "layer_idx": last_but_one, "layer_norm_hidden_state": False}
    return comfy.sd1_clip.SDClipModel(
        **{**given, **(read if row.penultimate else {})},
        max_length=config["max_position_embeddings"],
        textmodel_json_config=dict(config),
        special_tokens=special,
        return_projected_pooled=row.pooled,
        model_class=text_model,
    )
