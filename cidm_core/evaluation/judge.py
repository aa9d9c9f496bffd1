"""Scores of finished pictures, whoever drew them: IA, TA, presence, and distance from a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ..as_text import table
from ..errors import CidmError
from ..ops.overfitting import gaussian_distance
from ..pictures.scores import presence_picture, scores_picture
from ..pictures.sheets import stack
from ..regions import Region
from .alignment import image_alignment, text_alignment
from .encoders import Encoder
from .intervals import Measured, measured
from .presence import crop, present, similarities

_LEAST_PAIRED = 0.05  # mean cosine of pictures and texts that one CLIP read


@dataclass(frozen=True)
class Place:
    """What stands in one region, over all pictures.

    Attributes:
        prompt: What the region should show.
        concept: Name of the concept that belongs into it.
        cosines: Mean similarity to each concept's photos.
        share: In what share of the pictures its own concept is the nearest.
    """

    prompt: str
    concept: str
    cosines: tuple[float, ...]
    share: float


@dataclass(frozen=True)
class Judgement:
    """Scores of a batch of pictures.

    Attributes:
        concepts: Names of the concepts, in the order of their photos.
        scores: Name and IA of each concept; with regions, of each region with its own concept.
        places: With regions: what stands in each.
        text_alignment: CLIPScore against the prompts; None without prompts.
        warning: What speaks against the numbers, or nothing.
        from_class: How far the pictures are from those of the class words; None without these.
    """

    concepts: tuple[str, ...]
    scores: tuple[tuple[str, float], ...]
    places: tuple[Place, ...] = ()
    text_alignment: float | None = None
    warning: str = ""
    from_class: ClassDistance | None = None

    @property
    def image_alignment(self) -> float:
        """Mean of all scores."""
        return sum(score for _, score in self.scores) / len(self.scores)

    @property
    def presence(self) -> float | None:
        """Mean share of regions whose own concept is the nearest; None without regions."""
        if not self.places:
            return None
        return sum(place.share for place in self.places) / len(self.places)

    def table(self) -> str:
        """As printed: IA and TA times 100, presence in percent."""
        if self.places:
            rows = [_row(k, place, self.concepts) for k, place in enumerate(self.places)]
            lines = [table(("region", "concept", "IA", "nearest", "present %"), rows)]
        else:
            scores = [(name, 100 * score) for name, score in self.scores]
            lines = [table(("concept", "IA"), scores)]
        if self.text_alignment is not None:
            lines.append(f"TA {100 * self.text_alignment:.3f}")
        if self.from_class is not None:
            lines.append(str(self.from_class))
        return "\n".join([*lines, *([self.warning] if self.warning else [])])

    def picture(self) -> Image.Image:
        """The scores as a chart, and with regions which concept is in which."""
        rows = [(f"IA {name}", score) for name, score in self.scores]
        if self.text_alignment is not None:
            rows.append(("TA", self.text_alignment))
        if not self.places:
            return scores_picture(rows)
        regions = [f"{k}. {place.prompt}" for k, place in enumerate(self.places, start=1)]
        cosines, shares = zip(*((place.cosines, place.share) for place in self.places), strict=True)
        places = presence_picture(regions, self.concepts, cosines, shares)
        return stack([scores_picture(rows), places])


@dataclass(frozen=True)
class ClassDistance:
    """2-Wasserstein distance of pictures of a concept and of its class, by their features.

    Attributes:
        distance: With its interval.
        chance: That of the two halves of the class pictures; None if there are fewer than four.
        counts: Pictures of the concept, and of the class.
    """

    distance: Measured
    chance: float | None
    counts: tuple[int, int]

    def __str__(self) -> str:
        chance = "" if self.chance is None else f", by chance {self.chance:.3f}"
        own, plain = self.counts
        return f"W2 {self.distance}{chance} ({own} and {plain} pictures)"


def _row(k: int, place: Place, concepts: Sequence[str]) -> tuple[object, ...]:
    nearest = max(range(len(concepts)), key=lambda j: place.cosines[j])
    own = 100 * place.cosines[k]
    return k + 1, place.concept, own, concepts[nearest], 100 * place.share


def judge(
    encoder: Encoder,
    pictures: Sequence[Image.Image],
    photos: Mapping[str, Sequence[Image.Image]],
    regions: Sequence[Region] = (),
    texts: Sequence[str] = (),
    plain: Sequence[Image.Image] = (),
) -> Judgement:
    """Compare pictures with the photos of concepts and with texts.

    Args:
        encoder: Of pictures, and of texts if there are any.
        pictures: What was drawn.
        photos: Reference photos by concept; the k-th concept belongs into the k-th region.
        regions: Judges each region's part of the pictures on its own; else the pictures whole.
        texts: For each picture, its prompt in plain words; none: no TA.
        plain: Pictures of the class words by the model alone; none: no distance from them.

    Raises:
        CidmError: If there is no picture or no photo, more regions than concepts, a text too few or
            too many, or pictures that are too few for a distance.
    """
    _check(len(pictures), photos, len(regions), len(texts))
    names = tuple(photos)
    known = [encoder.images(each) for each in photos.values()]
    places = _places(encoder, pictures, regions, names, known)
    scores = tuple((place.concept, place.cosines[k]) for k, place in enumerate(places))
    if places and not texts and not plain:
        return Judgement(names, scores, places)
    seen = encoder.images(pictures)
    scores = scores or tuple(
        (name, float(image_alignment(seen, each))) for name, each in zip(names, known, strict=True)
    )
    found = Judgement(names, scores, places, from_class=_from_class(encoder, seen, plain))
    if not texts:
        return found
    said = encoder.texts(texts)
    warning = _pairing(seen, said)
    return replace(found, text_alignment=float(text_alignment(seen, said)), warning=warning)


def _from_class(
    encoder: Encoder, seen: Tensor, plain: Sequence[Image.Image]
) -> ClassDistance | None:
    if not plain:
        return None
    own, others = (normalize(each.double(), dim=-1) for each in (seen, encoder.images(plain)))
    chance = float(gaussian_distance(others[0::2], others[1::2])) if len(others) > 3 else None
    found = measured(gaussian_distance, own, others, biased=True)
    return ClassDistance(found, chance, (len(own), len(others)))


def _check(pictures: int, photos: Mapping[str, Sequence[object]], regions: int, texts: int) -> None:
    if not pictures or not photos or not all(photos.values()):
        raise CidmError("Pictures and reference photos are needed. Give at least one of each.")
    if regions > len(photos):
        raise CidmError(
            f"There are more regions ({regions}) than concepts with photos ({len(photos)}). Give "
            "photos for the concept of each region, in the order of the regions."
        )
    if texts not in (0, pictures):
        raise CidmError(f"Texts ({texts}) and pictures ({pictures}) differ. Give one for each.")


def _places(
    encoder: Encoder,
    pictures: Sequence[Image.Image],
    regions: Sequence[Region],
    names: Sequence[str],
    known: Sequence[Tensor],
) -> tuple[Place, ...]:
    if not regions:
        return ()
    crops = [encoder.images([crop(each, region) for each in pictures]) for region in regions]
    cosines = similarities(crops, known)
    means = cosines.mean(0).tolist()
    shares = present(cosines).float().mean(0).tolist()
    return tuple(
        Place(region.prompt, name, tuple(row), share)
        for region, name, row, share in zip(regions, names, means, shares, strict=False)
    )


def _pairing(pictures: Tensor, texts: Tensor) -> str:
    """A warning if pictures and texts do not seem to be of one CLIP.

    Raises:
        CidmError: If they cannot be, because their widths differ.
    """
    if pictures.shape[-1] != texts.shape[-1]:
        raise CidmError(
            f"Pictures are {pictures.shape[-1]} numbers each, texts {texts.shape[-1]}: the two "
            "encoders are not of one CLIP. Take both from the same model, or leave the texts out."
        )
    # Any text is a little like any picture in one CLIP, 0.1 to 0.3; strangers are around 0.
    if float(image_alignment(pictures, texts)) > _LEAST_PAIRED:
        return ""
    return (
        "Pictures and texts have nothing in common, so TA says little: take picture and text "
        "encoder, with its text projection, from the same CLIP."
    )
