"""Parts of a diffusers folder: their configuration, their weights, the names in these."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..checkpoints.text_encoders import clip_names
from ..checkpoints.weights import Weights, open_sharded, open_weights
from ..errors import HostError

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_OLD_VAE = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_vae_name(key: str) -> str:
    """What folders of before 2023 call a tensor of the VAE's attention."""
    return re.sub("|".join(_OLD_VAE), lambda match: _OLD_VAE[match[0]], key)


def new_vae_name(key: str) -> str:
    """What today's diffusers calls it."""
    ours = {theirs: name for name, theirs in _OLD_VAE.items()}
    return re.sub(rf"(?<=\.)({'|'.join(ours)})(?=\.)", lambda match: ours[match[0]], key)


def text_names(key: str) -> tuple[str, ...]:
    """With and without the inner level that transformers 5 dropped."""
    return clip_names(key, "")


def part_of(folder: Path) -> Weights:
    """The weights of one part; whole before fp16, safetensors before pickles.

    Raises:
        HostError: If there are none.
    """
    for ending in (".safetensors", ".bin"):
        for variant in ("", ".fp16"):
            for stem in _STEMS:
                if (path := folder / f"{stem}{variant}{ending}").is_file():
                    return open_weights(path)
                index = folder / f"{stem}{ending}.index{variant}.json"
                if ending == ".safetensors" and index.is_file():
                    return open_sharded(index)
    inside = ", ".join(sorted(entry.name for entry in folder.iterdir()))
    raise HostError(
        f"{folder} has no weights ({_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors); it holds "
        f"{inside}. The download is incomplete; get the folder again."
    )


def json_of(path: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
        HostError: If it cannot be read, or is none.
    """
    try:
        found: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise HostError(f"{path} cannot be read ({error}). Get the folder again.") from error
    if not isinstance(found, dict):
        raise HostError(f"{path} is no configuration. Get the folder again.")
    return found
