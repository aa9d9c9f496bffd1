"""The host's CLIP_VISION and CLIP as one encoder of pictures and texts, for the metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...cidm_core.errors import HostError
from ..host import comfy as host
from ..host.clip_text import text_embedding
from ..host.clip_vision import picture_features

_TEXT_MODEL = (
    "Text alignment needs the text encoder of the very CLIP that CLIP vision is of, with its text "
    "projection: put CLIP's whole file (such as model.safetensors of clip-vit-large-patch14) into "
    "models/text_encoders and models/clip_vision and load it with Load CLIP and Load CLIP Vision. "
    "Or disconnect clip."
)


class HostEncoder:
    """`evaluation.encoders.Encoder` over a CLIP_VISION and, for texts, the CLIP of the same model.

    `on_picture` is called after every picture.
    """

    def __init__(
        self, vision: Any, clip: Any = None, on_picture: Callable[[], None] = lambda: None
    ) -> None:
        self.vision, self.clip, self.on_picture = vision, clip, on_picture

    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(pictures, dim), float32; the host scales and crops as CLIP does."""
        return picture_features(self.vision, pictures, self.on_picture)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(texts, dim), float32: the projected embedding of each text's first 77 tokens.

        Raises:
            HostError: If the CLIP has no text projection.
        """
        rows: dict[str, Tensor] = {}
        for text in texts:
            if text not in rows:
                found = text_embedding(self.clip, text)
                if found is None or not found.isfinite().all() or not found.any():
                    raise HostError(f"This CLIP has no text projection. {_TEXT_MODEL}")
                rows[text] = found.float().cpu().reshape(1, -1)
        return torch.cat([rows[text] for text in texts])


def progress_of(cls: Any, total: int) -> Callable[[], None]:
    """Moves the node's progress bar one picture on; a cancelled prompt ends there."""
    done, node_id = iter(range(1, total + 1)), host.node_id_of(cls)
    return lambda: host.show_progress(next(done, total), total, None, node_id)
