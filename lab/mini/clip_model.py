"""mini-clip: a CLIP model of 0.5 M parameters for 32 px pictures of the small world.

It measures pictures of mini-sd where CLIP itself, trained on photographs, sees next to nothing. Its
folder is one of transformers; the vocabulary is mini-sd's and lies there.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from . import MINI
from .model import MINI_SD_FOLDER
from .tokenizer import CONTEXT, END, START

MINI_CLIP_FOLDER = MINI / "clip"
TOKENIZER = MINI_SD_FOLDER / "tokenizer"
SIDE = 32
DIM = 96
# Pixels go in as mini-sd's autoencoder takes them: in [-1, 1].
_PREPARATION = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def mini_tokenizer() -> CLIPTokenizer:
    """Return mini-sd's tokenizer."""
    return CLIPTokenizer.from_pretrained(TOKENIZER)


def new_clip(tokenizer: CLIPTokenizer, seed: int) -> CLIPModel:
    """Return an untrained model: 3 layers of 112 for pictures, 2 layers of 64 for texts."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": vocabulary[START],
        "eos_token_id": vocabulary[END],
        "pad_token_id": vocabulary[END],
    }
    vision = {
        "hidden_size": 112,
        "intermediate_size": 224,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 4,
    }
    torch.manual_seed(seed)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM))


def embed_pictures(model: CLIPModel, x: Tensor) -> Tensor:
    """Map pictures (B, 3, 32, 32) in [-1, 1] to embeddings (B, 96), not normalised."""
    return model.visual_projection(model.vision_model(pixel_values=x).pooler_output)


def embed_texts(model: CLIPModel, ids: Tensor) -> Tensor:
    """Map token ids (B, up to 48) to embeddings (B, 96), not normalised.

    Attention is causal and the first end token is read, so padding needs no mask.
    """
    return model.text_projection(model.text_model(input_ids=ids).pooler_output)


def save_clip(folder: Path, model: CLIPModel, notes: dict[str, str]) -> None:
    """Write config.json, preprocessor_config.json and half-precision weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        key: value
        for key, value in model.config.to_diff_dict().items()
        if key not in ("_name_or_path", "transformers_version")
    }
    # Otherwise releases of transformers differ in the precision they load half-precision files in.
    config |= {"architectures": ["CLIPModel"], "dtype": "float32", "torch_dtype": "float32"}
    _write(folder / "config.json", config)
    _write(folder / "preprocessor_config.json", _PREPARATION | {"size": {"shortest_edge": SIDE}})
    weights = {name: p.detach().half().contiguous() for name, p in model.named_parameters()}
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt", **notes})
    partial.chmod(0o644)
    partial.replace(folder / "model.safetensors")


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
