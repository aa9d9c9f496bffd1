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
        found = vision.encode_image(to_tensor(picture)).image_embeds
        if found is None:
            raise HostError(
                "This CLIP vision model gives no picture embedding. Load one of CLIP or SigLIP."
            )
        rows.append(found.float().cpu().reshape(1, -1))
        on_picture()
    return torch.cat(rows)
