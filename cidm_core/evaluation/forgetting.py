"""The forgetting check: the whole bank against each concept alone, same prompts, same seeds.

Every concept's weights are stored, so what can be lost is lost at aggregation. The concept alone
is therefore the oracle that an aggregation rule is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ..concept import Concept
from ..config import SampleConfig
from ..diffusers_host.base import Base
from ..errors import CidmError
from ..training.data import Photo
from .alignment import image_alignment, pair_similarity, text_alignment
from .encoders import Encoder
from .evaluate import Counter, Drawn, Keep, OnPicture, Prompts, draw_concept, prompts_for
from .report import ForgettingReport, Interference


def measure_forgetting(
    base: Base,
    bank: Mapping[str, Concept],
    prompts: Prompts | None = None,
    config: SampleConfig | None = None,
    clip: Encoder | None = None,
    photos: Mapping[str, Sequence[Photo | Image.Image]] | None = None,
    on_picture: OnPicture | None = None,
    keep: Keep | None = None,
) -> ForgettingReport:
    """Draw every concept twice, with the whole bank and alone, and compare.

    Args:
        base: The model.
        bank: A `Bank`, or concepts by name.
        prompts: As in `evaluate`.
        config: Sampling; the aggregation rule under test is `config.weights`.
        clip: Adds similarity and text alignment.
        photos: With `clip`, reference photos by concept name; adds image alignment.
        on_picture: Called after every prompt.
        keep: Gets the pictures, the concept's name followed by "with bank" or "alone".

    Raises:
        CidmError: If the bank is empty, or drawing is not possible.
    """
    concepts = [bank[name] for name in bank]
    if not concepts:
        raise CidmError("The bank holds no concept yet. Train one first.")
    config = config or SampleConfig.for_family(base.family.sampling)
    asked = [prompts_for(concept, prompts) for concept in concepts]
    progress = Counter(2 * sum(map(len, asked)) * config.num_images, on_picture)
    rows: list[Interference] = []
    for concept, each in zip(concepts, asked, strict=True):
        both = draw_concept(
            base, bank, concept, each, config, progress, _labelled(keep, "with bank")
        )
        single = {concept.name: concept}
        alone = draw_concept(
            base, single, concept, each, config, progress, _labelled(keep, "alone")
        )
        known = (photos or {}).get(concept.name) or ()
        rows.append(_compare(concept, both, alone, clip, known))
    return ForgettingReport(tuple(rows))


def _labelled(keep: Keep | None, label: str) -> Keep | None:
    if keep is None:
        return None
    return lambda name, prompt, pictures: keep(f"{name} {label}", prompt, pictures)


def pixel_difference(first: Image.Image, second: Image.Image) -> float:
    """Mean absolute difference of two pictures of one size, in 0..1."""
    a, b = (np.asarray(p.convert("RGB"), dtype=np.float64) for p in (first, second))
    return float(np.abs(a - b).mean() / 255)


def _compare(
    concept: Concept,
    both: Drawn,
    alone: Drawn,
    clip: Encoder | None,
    photos: Sequence[Photo | Image.Image],
) -> Interference:
    pairs = zip(both.pictures, alone.pictures, strict=True)
    gaps = [pixel_difference(a, b) for a, b in pairs]
    plain = Interference(concept.name, float(np.mean(gaps)), float(np.mean(np.equal(gaps, 0))))
    if clip is None:
        return plain
    seen, oracle = clip.images(both.pictures), clip.images(alone.pictures)
    texts = clip.texts(both.texts)
    references = [p.image if isinstance(p, Photo) else p for p in photos]
    known = clip.images(references) if references else None
    return Interference(
        plain.concept,
        plain.difference,
        plain.unchanged,
        similarity=float(pair_similarity(seen, oracle)),
        text_alignment=float(text_alignment(seen, texts)),
        text_alignment_alone=float(text_alignment(oracle, texts)),
        image_alignment=None if known is None else float(image_alignment(seen, known)),
        image_alignment_alone=None if known is None else float(image_alignment(oracle, known)),
    )
