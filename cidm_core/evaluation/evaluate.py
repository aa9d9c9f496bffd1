"""Image and text alignment of every concept of a bank (CIDM section 5, IA and TA)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from ..concept import Concept
from ..config import SampleConfig
from ..diffusers_host.base import Base
from ..diffusers_host.pipeline import generate
from ..errors import CidmError
from ..training.data import Photo
from .alignment import image_alignment, text_alignment
from .encoders import Encoder
from .prompts import PROMPTS, fill, write_back
from .report import Report, Score

Prompts = Sequence[str] | Mapping[str, Sequence[str]]
OnPicture = Callable[[int, int], None]  # pictures done, pictures in all
Keep = Callable[[str, str, Sequence[Image.Image]], None]  # concept, prompt, pictures


@dataclass(frozen=True)
class Drawn:
    """What was drawn of one concept: pictures, and for each the prompt in plain words."""

    pictures: list[Image.Image]
    texts: list[str]


def evaluate(
    base: Base,
    bank: Mapping[str, Concept],
    clip: Encoder,
    photos: Mapping[str, Sequence[Photo | Image.Image]],
    prompts: Prompts | None = None,
    config: SampleConfig | None = None,
    on_picture: OnPicture | None = None,
    keep: Keep | None = None,
) -> Report:
    """Draw every concept that has photos, and compare the pictures with photos and prompts.

    Args:
        base: The model.
        bank: A `Bank`, or concepts by name; all of it takes part in drawing.
        clip: Encoder of pictures and texts (`diffusers_host.clip.load_clip`).
        photos: Reference photos by concept name.
        prompts: With a gap `<TOK>` or `{}` for the concept: the same for all, or by concept name
            or kind. Default: a few per kind.
        config: Sampling; `num_images` pictures are drawn per prompt. Default: the family's.
        on_picture: Called after every prompt.
        keep: Gets all pictures, to save them.

    Raises:
        CidmError: If there is no photo for any concept, or drawing is not possible.
    """
    if strangers := sorted(set(photos) - set(bank)):
        raise CidmError(
            f"There are photos for {', '.join(strangers)}, which the bank does not hold; it has "
            f"{', '.join(bank)}. Name the photos by the concept."
        )
    if not any(photos.values()):
        raise CidmError("No reference photos were given. Give photos of at least one concept.")
    config = config or SampleConfig.for_family(base.family.sampling)
    concepts = [bank[name] for name in bank if photos.get(name)]
    asked = {concept.name: prompts_for(concept, prompts) for concept in concepts}
    progress = Counter(sum(map(len, asked.values())) * config.num_images, on_picture)
    scores: list[Score] = []
    for concept in concepts:
        drawn = draw_concept(base, bank, concept, asked[concept.name], config, progress, keep)
        seen = clip.images(drawn.pictures)
        known = clip.images([_picture(photo) for photo in photos[concept.name]])
        scores.append(
            Score(
                concept.name,
                float(image_alignment(seen, known)),
                float(text_alignment(seen, clip.texts(drawn.texts))),
                len(drawn.pictures),
            )
        )
    return Report(tuple(scores))


class Counter:
    """Counts pictures over all concepts."""

    def __init__(self, total: int, on_picture: OnPicture | None) -> None:
        self.done, self.total, self._tell = 0, total, on_picture

    def add(self, count: int) -> None:
        self.done += count
        if self._tell is not None:
            self._tell(self.done, self.total)


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


def draw_concept(
    base: Base,
    bank: Mapping[str, Concept],
    concept: Concept,
    prompts: Sequence[str],
    config: SampleConfig,
    progress: Counter,
    keep: Keep | None = None,
) -> Drawn:
    """All pictures of one concept."""
    drawn = Drawn([], [])
    for prompt in prompts:
        pictures = generate(base, bank, prompt, config=config)
        drawn.pictures.extend(pictures)
        drawn.texts.extend([write_back(prompt, [concept])] * len(pictures))
        progress.add(len(pictures))
        if keep is not None:
            keep(concept.name, prompt, pictures)
    return drawn


def _picture(photo: Photo | Image.Image) -> Image.Image:
    return photo.image if isinstance(photo, Photo) else photo.convert("RGB")
