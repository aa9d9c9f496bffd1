"""Common things that the base model draws itself, cut out, kept and used again.

CLIF (Lin et al. 2024, https://arxiv.org/abs/2405.06914), method figure: "A photo of a chef" and the
like, by the model that is to learn. They are drawn and kept as prior pictures are (see `prior`),
which Custom Diffusion's settings make: the paper says nothing of its own.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..as_text import with_article
from ..errors import PhotoError
from ..paths import user_path
from ..training.composites.common import label_of
from ..training.composites.cutouts import CutOut, cut_out
from ..training.data import Photo
from ..training.progress import OnProgress, Progress
from .base import Base
from .prior import draw_prior
from .segmentation import Segmenter, with_segments

logger = logging.getLogger(__name__)

COMMON = ".common"  # in a bank
_MASKS = "masks"
# The paper's first six.
NAMES = (
    *("chef", "wizard", "doctor", "dog", "jean jacket", "stool"),
    *("cat", "horse", "robot", "backpack", "teapot", "bicycle"),
)
EACH = 4
_PROMPT = "a photo of {}"


def draw_common_things(
    base: Base,
    folder: str | os.PathLike[str],
    segmenter: Segmenter | None,
    names: Sequence[str] = NAMES,
    *,
    each: int = EACH,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
    **sampling: object,
) -> list[CutOut]:
    """Cut-outs of things the base model knows; what was drawn before is not drawn again.

    Args:
        base: The model.
        folder: Where they are kept, `<bank>/.common`. Each model, thing and settings have a folder
            of their own in it, and masks are in `masks`.
        segmenter: Finds the things in the pictures; from `segmentation.load_segmenter`.
        names: What captions call them, "chef"; leave out what is to be learned (`common.unlike`).
        each: Pictures of each.
        on_progress: Hears of the pictures of all things, phase "drawing".
        should_stop: Asked in every step; True ends the work with `Stopped`.
        sampling: Settings of `SampleConfig` instead of the prior pictures'.

    Raises:
        PhotoError: If there is no segmenter, a name cannot be used, or no thing can be cut out.
        HostError: If the model cannot draw so.
        Stopped: If `should_stop` said so; the pictures drawn so far are kept.
    """
    if segmenter is None:
        raise PhotoError(
            "Common things that the model draws must be cut out, and nothing is given that makes "
            "masks. Give a CLIPSeg model (--segment), or a folder of cut-outs such as chef.png."
        )
    root, found = user_path(folder), list[CutOut]()
    labels = [label_of(name) for name in names]
    for number, label in enumerate(labels):
        photos = draw_prior(
            base,
            root,
            label,
            "object",
            count=each,
            prompt=_PROMPT.format(with_article(label)),
            on_progress=_of_all(on_progress, number * each, len(labels) * each),
            should_stop=should_stop,
            **sampling,
        )
        masked = with_segments(photos, label, segmenter, root / _MASKS)
        found += [cut for photo in masked if (cut := _cut(photo, label)) is not None]
    if not found:
        raise PhotoError(
            f"CLIPSeg cuts nothing out of what {base.name} draws. Look at the pictures in "
            f"'{root}', or give a folder of cut-outs such as chef.png."
        )
    return found


def _of_all(tell: OnProgress | None, done: int, total: int) -> OnProgress | None:
    """Progress of one thing as that of all of them."""
    if tell is None:
        return None

    def heard(event: Progress) -> None:
        left = event.steps - event.step
        pace = event.remaining_seconds / left if left else math.nan
        step = done + event.step
        tell(replace(event, step=step, steps=total, remaining_seconds=pace * (total - step)))

    return heard


def _cut(photo: Photo, label: str) -> CutOut | None:
    photo = photo.loaded()
    assert photo.mask_values is not None
    picture = cut_out(photo.image, photo.mask_values)
    if picture is None:
        logger.warning("No %s can be cut out of %s; it is left out.", label, photo.path)
        return None
    return CutOut(picture, label=label)
