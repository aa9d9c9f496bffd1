"""What encoders of pictures share: their folder, and how pixels become their input.

Pictures are prepared with Pillow: the processors of transformers differ between releases and may
ask for torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from numpy.typing import NDArray
from PIL import Image

from ..errors import HostError


def local_folder(path: str | Path, kind: str, advice: str) -> Path:
    """The folder of a model, as given or from the local Hugging Face cache.

    Args:
        path: A folder, or the name of a model in the cache.
        kind: What the message calls it: "CLIP".
        advice: What to do when it is nowhere.

    Raises:
        HostError: If it is a file, or nowhere.
    """
    folder = Path(path).expanduser()
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
