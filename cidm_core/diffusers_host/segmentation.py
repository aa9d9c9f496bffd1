"""Soft masks of photos by CLIPSeg, from a local folder, made once and kept.

As Infusion's data are made (Zeng et al. 2024, https://arxiv.org/abs/2404.14007): the class words in
each of eleven captions, and the mean over these of what CLIPSeg (Lüddecke and Ecker 2022,
https://arxiv.org/abs/2112.10003) sees of each. Pictures are prepared here with Pillow, because the
processors of transformers may ask for torchvision.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from ..devices import choose_device
from ..errors import HostError, PhotoError
from ..fingerprints import fingerprint
from ..paths import user_path
from ..storage.atomic import make_folder, write_atomic
from ..storage.names import file_stem
from ..training.caption_files import clean
from ..training.data import Photo
from .clip import LOADING_ERRORS, cropped, local_folder, preparation

logger = logging.getLogger(__name__)

MASKS = ".masks"  # in a bank
TEMPLATES = (
    *("a photo of a {}", "a good photo of a {}", "the photo of a {}", "a good photo of the {}"),
    *("image of a {}", "image of the {}", "A photograph of {}", "A {} shown in a photo"),
    *("A photo of {}", "A {}", "{}"),
)
_SIZE = 352  # of pictures and masks, where the folder says nothing
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_UNSURE = 0.1
_ADVICE = "Fetch it once with `hf download CIDAS/clipseg-rd64-refined`, or give its folder."


class Segmenter:
    """Where in a picture something is, in plain words."""

    def __init__(self, model: Any, tokenizer: Any, prepared: Mapping[str, Any]) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        size = prepared.get("size", _SIZE)
        self.size = int(size.get("height", _SIZE) if isinstance(size, Mapping) else size)
        self.mean = np.array(prepared.get("image_mean", _MEAN), dtype=np.float32)
        self.std = np.array(prepared.get("image_std", _STD), dtype=np.float32)
        decoder = self.model.decoder
        self.name = fingerprint([decoder.film_mul.weight, decoder.film_add.weight])

    @torch.no_grad()
    def share(self, picture: Image.Image, class_words: str) -> NDArray[np.float32]:
        """How likely each place is a part of it, (size, size): the mean over the captions."""
        texts = [template.format(class_words) for template in TEMPLATES]
        ids = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        ids = ids.to(self.model.device)
        asked = self.model.get_conditional_embeddings(
            len(texts), input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
        )
        square = picture.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(cropped(square, self.size, self.mean, self.std))[None]
        # The picture is looked at once, for all captions.
        seen = self.model.clip.vision_model(
            pixels.to(self.model.device, self.model.dtype), output_hidden_states=True
        ).hidden_states
        layers = [seen[k + 1].expand(len(texts), -1, -1) for k in self.model.extract_layers]
        logits = self.model.decoder(layers, asked).logits
        return logits.float().sigmoid().mean(0).squeeze().cpu().numpy()


def load_segmenter(path: str | Path, device: str | torch.device | None = None) -> Segmenter:
    """Load a CLIPSeg model offline.

    Args:
        path: A folder as transformers writes it, or the name of one in the local Hugging Face
            cache.
        device: Default: CUDA, else MPS, else the CPU.

    Raises:
        HostError: If it is not there or no CLIPSeg.
    """
    folder = local_folder(path, "CLIPSeg", _ADVICE)
    kind = _kind(folder)
    if kind != "clipseg":
        raise HostError(
            f"'{path}' holds {f'a model of the kind {kind!r}' if kind else 'no model'}, and masks "
            f"are made by CLIPSeg. {_ADVICE}"
        )
    try:
        loaded: Any = CLIPSegForImageSegmentation.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        splitter = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise HostError(f"CLIPSeg in '{path}' cannot be loaded ({reason}). {_ADVICE}") from error
    model, told = loaded
    if missing := sorted(told["missing_keys"]):
        raise HostError(
            f"CLIPSeg in '{path}' lacks {len(missing)} weights, such as {missing[0]}. {_ADVICE}"
        )
    return Segmenter(model.to(choose_device(device)), splitter, preparation(folder))


def _kind(folder: Path) -> str:
    """What its configuration calls a model; "" if there is none."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(found.get("model_type", "")) if isinstance(found, dict) else ""


def with_segments(
    photos: Sequence[Photo],
    class_words: str,
    segmenter: Segmenter,
    folder: str | os.PathLike[str],
    on_photo: Callable[[int, int], None] | None = None,
) -> list[Photo]:
    """The photos with a soft mask each; those that have one keep it.

    Masks are divided by their own maximum and kept as PNG files, of the photo's shape; what was
    made before, of the same photo, words and model, is not made again.

    Args:
        photos: To be masked.
        class_words: What is to be found in them.
        segmenter: From `load_segmenter`.
        folder: Where masks are kept, `<bank>/.masks`.
        on_photo: Hears how many of how many are done.

    Raises:
        PhotoError: If there are no class words, or a photo cannot be used.
    """
    class_words = clean(class_words, "Class words")
    if not class_words:
        raise PhotoError("Masks are made of what the class words name. Give them, such as 'dog'.")
    root, found = make_folder(user_path(folder), error=PhotoError), list[Photo]()
    for number, photo in enumerate(photos, start=1):
        found.append(photo if photo.has_mask else _masked(photo, class_words, segmenter, root))
        if on_photo is not None:
            on_photo(number, len(photos))
    return found


def _masked(photo: Photo, class_words: str, segmenter: Segmenter, root: Path) -> Photo:
    picture = photo.image
    about = [class_words, segmenter.name, *TEMPLATES, str(segmenter.size), str(picture.size)]
    digest = hashlib.sha256("\n".join(about).encode())
    digest.update(picture.tobytes())
    stem = photo.path.stem if photo.path else "photo"
    path = root / f"{file_stem(f'{stem} {digest.hexdigest()[:12]}')}.png"
    if not path.exists():
        share = segmenter.share(picture, class_words)
        if share.max() < _UNSURE:
            logger.warning(
                "CLIPSeg is sure of no %r in %s: it is at most %.0f %% there. Look at the mask "
                "(--show-masks), or paint one.",
                *(class_words, photo.path or "a photo", 100 * share.max()),
            )
        write_atomic(path, _png(share / share.max(), picture.size), error=PhotoError)
    return replace(photo, mask_path=path)


def _png(mask: NDArray[np.float32], size: tuple[int, int]) -> bytes:
    """A soft mask in the shape of its photo, no larger than it was seen."""
    scale = max(mask.shape) / max(size)
    shape = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    scaled = Image.fromarray(mask).resize(shape, Image.Resampling.BILINEAR)
    greys = np.rint(np.asarray(scaled).clip(0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(greys).save(buffer, "PNG")
    return buffer.getvalue()
