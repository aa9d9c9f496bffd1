"""Image and text alignment of a bank's concepts (CIDM section 5, IA and TA), and forgetting.

Every concept's weights are stored, so what can be lost is lost at aggregation. The concept alone
is therefore the oracle that an aggregation rule is measured against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from ..concept import Concept
from ..config import SampleConfig
from ..diffusers_host.base import Base
from ..diffusers_host.pipeline import generate
from ..errors import CidmError
from ..images import picture_of
from ..sampling.infuse import asking_for
from ..sampling.strengths import at_strengths
from ..training.data import Photo
from .alignment import image_alignment, pair_similarity, text_alignment
from .drift import ClassDrift
from .encoders import Encoder
from .over_fitting import OverFitting, OverFittings
from .prompts import PROMPTS, fill, write_back
from .report import Report, Score

Prompts = Sequence[str] | Mapping[str, Sequence[str]]
OnPicture = Callable[[int, int], None]  # pictures done, pictures in all
Keep = Callable[[str, str, Sequence[Image.Image]], None]  # concept, prompt, pictures


def evaluate(
    base: Base,
    bank: Mapping[str, Concept],
    clip: Encoder | None = None,
    photos: Mapping[str, Sequence[Photo | Image.Image]] | None = None,
    prompts: Prompts | None = None,
    config: SampleConfig | None = None,
    on_picture: OnPicture | None = None,
    keep: Keep | None = None,
    alone: bool = False,
    class_drift: int = 0,
    over_fitting: int = 0,
) -> Report:
    """Draw concepts, and compare the pictures with photos, prompts and what each draws alone.

    Args:
        base: The model.
        bank: A `Bank`, or concepts by name; all of it takes part in drawing.
        clip: Encoder of pictures and texts (`diffusers_host.clip.load_clip`). With `alone` it may
            be left out, and pixels are compared.
        photos: Reference photos by concept name. Without `alone`, `class_drift` or `over_fitting`,
            concepts that have none are left out.
        prompts: With a gap `<TOK>` or `{}` for the concept: the same for all, or by concept name
            or kind. Default: a few per kind.
        config: Sampling; `num_images` pictures are drawn per prompt. Default: the family's.
        on_picture: Called after every prompt.
        keep: Gets all pictures, to save them; those of a concept alone under "NAME alone".
        alone: Draw every concept again from the same seeds, without the rest of the bank.
        class_drift: Draw that many pictures of each concept's class words, by the model alone and
            with the concept (`drift.ClassDrift`); needs `clip`.
        over_fitting: Draw that many pictures of each concept, of its class words by the model
            alone and of other prompts, and compare (`over_fitting.OverFittings`); needs `clip`.

    Raises:
        CidmError: If there is nothing to compare with, or drawing is not possible.
    """
    photos = photos or {}
    _check(bank, clip, photos, alone, class_drift or over_fitting)
    config = config or SampleConfig.for_family(base.family.sampling)
    bank, config = at_strengths(bank, config.strengths), replace(config, strengths="")
    every = alone or bool(class_drift or over_fitting)
    concepts = {name: bank[name] for name in bank if every or photos.get(name)}
    asked = {name: prompts_for(concept, prompts) for name, concept in concepts.items()}
    total = sum(map(len, asked.values())) * config.num_images * (2 if alone else 1)
    drift = fitting = None
    if class_drift and clip is not None:
        drift = ClassDrift(base, bank, clip, class_drift, config)
        total += drift.work(concepts.values())
    if over_fitting and clip is not None:
        fitting = OverFittings(base, clip, over_fitting, config)
        total += fitting.work(concepts.values())
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if on_picture is not None:
            on_picture(done, total)

    def draw(
        held: Mapping[str, Concept], label: str, prompts: list[str], asking: SampleConfig
    ) -> list[Image.Image]:
        drawn: list[Image.Image] = []
        for prompt in prompts:
            pictures = generate(base, held, prompt, config=asking)
            drawn += pictures
            tell(len(pictures))
            if keep is not None:
                keep(label, prompt, pictures)
        return drawn

    scores, fitted = list[Score](), list[OverFitting]()
    for name, wanted in asked.items():
        asking, itself = asking_for(config, concepts[name]), {name: concepts[name]}
        pictures = draw(bank, name, wanted, asking)
        oracle = draw(itself, f"{name} alone", wanted, asking) if alone else []
        said = [write_back(prompt, [concepts[name]]) for prompt in wanted]
        texts = [each for each in said for _ in range(config.num_images)]
        known = [_picture(photo) for photo in photos.get(name, ())]
        score = _measured(name, pictures, oracle, texts, known, clip)
        scores.append(replace(score, **drift.of(concepts[name], tell)) if drift else score)
        if fitting:
            fitted.append(fitting.of(concepts[name], known, tell))
    return Report(tuple(scores), tuple(fitted))


def _check(
    bank: Mapping[str, Concept],
    clip: Encoder | None,
    photos: Mapping[str, Sequence[object]],
    alone: bool,
    drawn_for: int,
) -> None:
    if not bank:
        raise CidmError("The bank holds no concept yet. Train one first.")
    if strangers := sorted(set(photos) - set(bank)):
        raise CidmError(
            f"There are photos for {', '.join(strangers)}, which the bank does not hold; it has "
            f"{', '.join(bank)}. Name the photos by the concept."
        )
    if drawn_for and clip is None:
        raise CidmError("Class drift and over-fitting are told by a CLIP model. Give one.")
    if not (alone or drawn_for) and (clip is None or not any(photos.values())):
        raise CidmError(
            "No reference photos were given, or no CLIP model. Give both, with photos of at least "
            "one concept, or compare with each concept alone."
        )


def _measured(
    name: str,
    pictures: Sequence[Image.Image],
    alone: Sequence[Image.Image],
    texts: Sequence[str],
    photos: Sequence[Image.Image],
    clip: Encoder | None,
) -> Score:
    """All that can be said of a concept's pictures, and of those it draws alone, if any."""
    found: dict[str, float] = {}
    if alone:
        gaps = [pixel_difference(a, b) for a, b in zip(pictures, alone, strict=True)]
        found["difference"] = float(np.mean(gaps))
        found["unchanged"] = float(np.mean(np.equal(gaps, 0)))
    if clip is None:
        return Score(name, len(pictures), **found)
    said = clip.texts(texts)
    references = clip.images(photos) if photos else None
    seen = {"": clip.images(pictures)}
    if alone:
        seen["_alone"] = clip.images(alone)
        found["similarity"] = float(pair_similarity(*seen.values()))
    for suffix, embeddings in seen.items():
        found[f"text_alignment{suffix}"] = float(text_alignment(embeddings, said))
        if references is not None:
            found[f"image_alignment{suffix}"] = float(image_alignment(embeddings, references))
    return Score(name, len(pictures), **found)


def _picture(photo: Photo | Image.Image) -> Image.Image:
    return photo.image if isinstance(photo, Photo) else picture_of(photo, "Photo")


def pixel_difference(first: Image.Image, second: Image.Image) -> float:
    """Mean absolute difference of two pictures of one size, in 0..1."""
    a, b = (np.asarray(p.convert("RGB"), dtype=np.float64) for p in (first, second))
    return float(np.abs(a - b).mean() / 255)


def prompts_for(concept: Concept, prompts: Prompts | None) -> list[str]:
    """The prompts of one concept, with its words in their gaps.

    Raises:
        CidmError: If there are none for it, or one has no gap.
    """
    if prompts is None:
        chosen: Sequence[str] = PROMPTS[concept.kind]
    elif isinstance(prompts, Mapping):
        chosen = prompts.get(concept.name) or prompts.get(concept.kind) or ()
    else:
        chosen = prompts
    if not chosen:
        raise CidmError(
            f"There is no prompt for {concept.name!r}. Give some under its name or its kind "
            f"({concept.kind})."
        )
    return [fill(prompt, concept) for prompt in chosen]
