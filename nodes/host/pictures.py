"""Pictures between Pillow and the host's IMAGE tensors, and what a node shows on itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ...cidm_core.images import picture_of
from . import comfy as host


def to_tensor(picture: Image.Image) -> Tensor:
    """(1, height, width, 3) in 0..1, the host's IMAGE."""
    values = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values)[None]


def to_pictures(images: Tensor) -> list[Image.Image]:
    """Pictures of an IMAGE batch (pictures, height, width, channels)."""
    return [picture_of(each.clamp(0, 1), "Picture") for each in images]


def shown(
    cls: type[io.ComfyNode], *, text: str = "", image: Tensor | None = None
) -> dict[str, Any]:
    """The `ui` of a node output: a picture and a text on the node, both kept in the history.

    The node needs `io.Hidden.unique_id`: only messages show text on every kind of node.
    """
    found: dict[str, Any] = {}
    if image is not None:
        found |= ui.PreviewImage(image).as_dict()
    if text:
        found |= ui.PreviewText(text).as_dict()
        host.say_on_node(text, host.node_id_of(cls))
    return found
