"""The host's CLIP_VISION as an encoder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...cidm_core.errors import HostError
from .pictures import to_tensor


def picture_features(
    vision: Any, pictures: Sequence[Image.Image], on_picture: Callable[[], None] = lambda: None
) -> Tensor:
    """(pictures, dim), float32; the host scales and crops as CLIP does.

    Args:
        vision: What is on the socket.
        pictures: At least one.
        on_picture: Called after every picture.

    Raises:
        HostError: If it gives no embedding.
    """
    rows: list[Tensor] = []
    for picture in pictures:
        with torch.inference_mode():  # as its weights were made, whatever the caller learns
            found = vision.encode_image(to_tensor(picture)).image_embeds
        if found is None:
            raise HostError(
                "This CLIP vision model gives no picture embedding. Load one of CLIP or SigLIP."
            )
        rows.append(found.float().cpu().reshape(1, -1))
        on_picture()
    return torch.cat(rows)


def picture_projection(vision: Any) -> Tensor | None:
    """What takes its states into the space that texts share, (dim, width); None without one."""
    layer = getattr(vision.model, "visual_projection", None)
    weight = getattr(layer, "weight", None)
    return None if weight is None else weight.detach().float().cpu()
