"""A CLIP model from local files as an encoder of pictures and texts, for the alignment metrics.

Pictures are prepared here with Pillow as CLIP's own code does, bicubic short edge and centre crop:
the processors of transformers differ between releases and may ask for torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from ..devices import choose_device
from ..errors import HostError
from ..paths import user_path

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MINI_CLIP = "mini-clip"
_MINI_FOLDER = Path(__file__).parent.parent / "mini" / "clip"
_MINI_TOKENIZER = _MINI_FOLDER.parent / "sd" / "tokenizer"  # one vocabulary for both
_BATCH = 32
_FEWEST = 256  # tokens of a real vocabulary: each byte is one
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)
"""What transformers raises over a folder that holds no model, or a damaged one."""
_ADVICE = (
    "Fetch it once with `hf download openai/clip-vit-base-patch32`, give a folder, or, for "
    f"pictures of mini-sd, {MINI_CLIP!r}."
)


class ClipEncoder:
    """Embeddings of a CLIP model, float32 on the CPU, not normalised."""

    def __init__(self, model: Any, tokenizer: Any, preparation: Mapping[str, Any]) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.size = int(model.config.vision_config.image_size)
        self.mean = np.array(preparation.get("image_mean", MEAN), dtype=np.float32)
        self.std = np.array(preparation.get("image_std", STD), dtype=np.float32)

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(pictures, dim)."""
        parts: list[Tensor] = []
        for start in range(0, len(pictures), _BATCH):
            pixels = np.stack([self.prepare(p) for p in pictures[start : start + _BATCH]])
            pixels = torch.from_numpy(pixels).to(self.model.device, self.model.dtype)
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            parts.append(self.model.visual_projection(pooled).float().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(texts, dim)."""
        limit = self.model.config.text_config.max_position_embeddings
        parts: list[Tensor] = []
        for start in range(0, len(texts), _BATCH):
            ids = self.tokenizer(
                list(texts[start : start + _BATCH]),
                padding="max_length",
                truncation=True,
                max_length=limit,
                return_tensors="pt",
            ).to(self.model.device)
            pooled = self.model.text_model(
                input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
            ).pooler_output
            parts.append(self.model.text_projection(pooled).float().cpu())
        return torch.cat(parts)

    def prepare(self, picture: Image.Image) -> NDArray[np.float32]:
        """(3, size, size): short edge resized, centre cropped, normalised."""
        picture = picture.convert("RGB")
        size = self.size
        short, long = min(picture.size), max(picture.size)
        other = int(size * long / short)
        shape = (size, other) if picture.width <= picture.height else (other, size)
        picture = picture.resize(shape, Image.Resampling.BICUBIC)
        return cropped(picture, size, self.mean, self.std)


def load_clip(
    path: str | Path,
    device: str | torch.device | None = None,
    tokenizer: str | Path | None = None,
) -> ClipEncoder:
    """Load a CLIP model offline.

    Args:
        path: A folder as transformers writes it (config.json, model.safetensors, tokenizer files),
            the name of one in the local Hugging Face cache, or "mini-clip", which measures
            mini-sd's pictures.
        device: Default: CUDA, else MPS, else the CPU.
        tokenizer: Folder with vocab.json and merges.txt. Default: the model's own.

    Raises:
        HostError: If it is not there, no CLIP model, damaged, or only a part of one.
    """
    if str(path) == MINI_CLIP:
        path, tokenizer = _MINI_FOLDER, tokenizer or _MINI_TOKENIZER
        if not path.is_dir():
            raise HostError(f"This installation lacks {path}. Install the package again.")
    folder = local_folder(path, "CLIP", _ADVICE)
    try:
        loaded: Any = CLIPModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        splitter = CLIPTokenizer.from_pretrained(tokenizer or folder, local_files_only=True)
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise HostError(
            f"'{path}' is no CLIP model of transformers ({reason}). Give a folder with "
            "config.json, model.safetensors, vocab.json and merges.txt."
        ) from error
    model, told = loaded
    if missing := sorted(told["missing_keys"]):  # they would be random
        raise HostError(
            f"CLIP in '{path}' lacks {len(missing)} weights, such as {missing[0]}. Get all of it "
            "again; a text encoder alone will not do."
        )
    if len(splitter) < _FEWEST:  # transformers makes one up
        raise HostError(
            f"CLIP in '{path}' lacks its tokenizer. Put its vocab.json and merges.txt there."
        )
    return ClipEncoder(model.to(choose_device(device)), splitter, preparation(folder))


def local_folder(path: str | Path, kind: str, advice: str) -> Path:
    """The folder of a model, as given or from the local Hugging Face cache.

    Args:
        path: A folder, or the name of a model in the cache.
        kind: What the message calls it: "CLIP".
        advice: What to do when it is nowhere.

    Raises:
        HostError: If it is a file, or nowhere.
    """
    folder = user_path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise HostError(f"'{folder}' is a file. Give the {kind} model's folder.")
    try:
        return Path(snapshot_download(str(path), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        raise HostError(
            f"There is no {kind} model '{path}', neither as a folder nor in the Hugging Face "
            f"cache. {advice}"
        ) from error


def preparation(folder: Path) -> Mapping[str, Any]:
    """Mean and deviation of the pixels, where the folder names them."""
    try:
        found = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def cropped(
    picture: Image.Image, size: int, mean: NDArray[np.float32], std: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The middle `size` x `size` pixels, normalised: (3, size, size)."""
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    picture = picture.crop((left, top, left + size, top + size))
    pixels = np.asarray(picture, dtype=np.float32) / 255
    return ((pixels - mean) / std).transpose(2, 0, 1)
