"""A look at the composites before anything is learned from them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ...images import read_image
from ...pictures.composites import Captioned, composites_picture
from .folder import Composite
from .scenes import KINDS

_ROWS = {
    "single": "Photos (single)",
    "global": "Whole beside a common thing (global)",
    "region": "Part beside a common thing (region)",
    "meeting": "Two subjects (meeting)",
}


def preview(found: Sequence[Composite], each: int = 5) -> Image.Image:
    """A sheet with some composites of each kind, spread over all of them.

    Raises:
        PhotoError: If one cannot be read.
    """
    kinds = {kind: [one for one in found if one.kind == kind] for kind in KINDS}
    held = sum(one.held_out for one in found)
    rows = {
        _ROWS[kind]: [Captioned(read_image(one.path), one.text) for one in _spread(own, each)]
        for kind, own in kinds.items()
    }
    counts = ", ".join(f"{len(own)} {kind}" for kind, own in kinds.items() if own)
    return composites_picture(rows, subtitle=f"{counts}; {held} of them held out for retrieval.")


def _spread(found: Sequence[Composite], count: int) -> list[Composite]:
    """So many of them, from the first on, evenly spread."""
    count = min(count, len(found))
    return [found[k * len(found) // count] for k in range(count)]
