"""The embedded models' folders in diffusers' layout, which all its versions load alike."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from .model import Denoiser
from .tokenizer import write_vocabulary


def save_model(
    folder: Path, vae: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer
) -> None:
    """Write all parts in half precision; files are replaced in one move, so readers stay safe."""
    halved = copy.deepcopy(denoiser).half()
    pipeline = halved.pipeline(copy.deepcopy(vae).half(), tokenizer)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pipeline.save_pretrained(scratch, safe_serialization=True)
        _suit_all_versions(Path(scratch))
        for file in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            target = folder / file.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.chmod(0o644)
            file.replace(target)


def _suit_all_versions(folder: Path) -> None:
    """Make a folder written by transformers 5 load alike in 4.50 and later."""
    for tokenizer in folder.glob("tokenizer*"):
        write_vocabulary(tokenizer)
    for encoder in folder.glob("text_encoder*"):
        weights = encoder / "model.safetensors"
        # Version 5 leaves the prefix out, accepts it, and version 4 draws random weights without.
        named = {_prefixed(name): tensor for name, tensor in load_file(weights).items()}
        save_file(named, weights, metadata={"format": "pt"})
        # Otherwise transformers would load half precision while diffusers loads float32.
        _edit(encoder / "config.json", {"dtype": "float32", "torch_dtype": "float32"})
    _edit(folder / "vae" / "config.json", {"_name_or_path": ""})


def _prefixed(name: str) -> str:
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def _edit(config: Path, entries: dict[str, str]) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | entries, indent=2) + "\n")
