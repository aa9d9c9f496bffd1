"""What a picture and text encoder must offer; hosts bring their own (`diffusers_host.clip`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image
from torch import Tensor


class Encoder(Protocol):
    """Pictures and texts as embeddings in one space."""

    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(pictures, dim), not normalised."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(texts, dim), not normalised; what is too long is cut."""
        ...
