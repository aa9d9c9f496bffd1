"""Scores per concept, as data and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from PIL import Image

from ..as_text import table
from ..errors import CidmError
from ..pictures.likeness import Point, likeness_picture
from .over_fitting import OverFitting


@dataclass(frozen=True)
class Score:
    """What was measured of one concept; None where an encoder, photos or a comparison is missing.

    Attributes:
        concept: Its name.
        pictures: How many were drawn with the whole bank.
        image_alignment: Mean cosine to the reference photos, in [-1, 1].
        image_alignment_alone: That of the pictures which the concept draws alone.
        text_alignment: CLIPScore against the prompt in plain words, in [0, 2.5].
        text_alignment_alone: That of the pictures which the concept draws alone.
        similarity: Mean cosine of the two pictures of a seed, with the bank and alone.
        difference: Mean absolute difference of their pixels, in 0..1; 0: nothing was forgotten.
        unchanged: Share of the pictures that are equal in every pixel.
        class_drift: How far pictures of the class words are from the base model's where the bank
            is in use (`drift.ClassDrift`); 0: they are the very same.
        class_drift_merged: Likewise with the concept's weights folded into the model.
    """

    concept: str
    pictures: int
    image_alignment: float | None = None
    image_alignment_alone: float | None = None
    text_alignment: float | None = None
    text_alignment_alone: float | None = None
    similarity: float | None = None
    difference: float | None = None
    unchanged: float | None = None
    class_drift: float | None = None
    class_drift_merged: float | None = None


@dataclass(frozen=True)
class Report:
    """Scores of all concepts, in learning order, and how much each over-fits if that was asked."""

    scores: tuple[Score, ...]
    over_fitting: tuple[OverFitting, ...] = ()

    @property
    def mean(self) -> Score:
        """Every concept that was measured has the same share."""
        means: dict[str, float] = {}
        for name in [f.name for f in fields(Score)[2:]]:
            values = [getattr(score, name) for score in self.scores]
            measured = [value for value in values if value is not None]
            if measured:
                means[name] = sum(measured) / len(measured)
        return Score("mean", sum(score.pictures for score in self.scores), **means)

    def to_dict(self) -> dict[str, object]:
        gaps = [score.difference for score in self.scores if score.difference is not None]
        return {
            "concepts": [asdict(score) for score in self.scores],
            "mean": asdict(self.mean),
            "largest_difference": max(gaps, default=None),
            "over_fitting": [asdict(each) for each in self.over_fitting],
        }

    def table(self) -> str:
        """As printed: IA and TA times 100, drift times 1000; no columns without numbers."""
        rows = [_row(score) for score in (*self.scores, self.mean)]
        heads = [head for head in rows[0] if any(row[head] is not None for row in rows)]
        scores = table(heads, [[row[head] for head in heads] for row in rows])
        if not self.over_fitting:
            return scores
        return f"{scores}\n\n{over_fitting_table(self.over_fitting)}"

    def picture(self) -> Image.Image:
        """Likeness against over-fitting, a point for each concept.

        Raises:
            CidmError: If one of the two was not measured.
        """
        return over_fitting_picture(self.over_fitting)


def over_fitting_table(measured: Sequence[OverFitting]) -> str:
    """As printed: a row for each concept, with 95 % intervals."""
    rows = [_fitting_row(each) for each in measured]
    return table(list(rows[0]), [list(row.values()) for row in rows])


def over_fitting_picture(measured: Sequence[OverFitting]) -> Image.Image:
    """Likeness against over-fitting, a point for each concept with photos.

    Raises:
        CidmError: If there are photos of none.
    """
    points = [
        Point(
            each.concept,
            each.method,
            each.likeness.ends,
            {
                "2-Wasserstein distance": each.wasserstein.ends,
                "Fisher divergence of the class words": each.at_class_merged.weighted.ends,
            },
        )
        for each in measured
        if each.likeness is not None
    ]
    if not points:
        raise CidmError("Likeness against over-fitting needs both. Give photos of a concept.")
    return likeness_picture(points)


def _row(score: Score) -> dict[str, object]:
    return {
        "concept": score.concept,
        "IA": _hundredfold(score.image_alignment),
        "IA alone": _hundredfold(score.image_alignment_alone),
        "TA": _hundredfold(score.text_alignment),
        "TA alone": _hundredfold(score.text_alignment_alone),
        "similarity": score.similarity,
        "pixel difference": score.difference,
        "unchanged": score.unchanged,
        "class drift": _thousandfold(score.class_drift),
        "class drift merged": _thousandfold(score.class_drift_merged),
        "pictures": score.pictures,
    }


def _fitting_row(each: OverFitting) -> dict[str, object]:
    return {
        "concept": each.concept,
        "method": each.method,
        "likeness": "-" if each.likeness is None else str(each.likeness),
        "W2": str(each.wasserstein),
        "by chance": each.chance,
        "LFD elsewhere": str(each.elsewhere.weighted),
        "LFD at class": str(each.at_class.weighted),
        "merged, elsewhere": str(each.elsewhere_merged.weighted),
        "merged, at class": str(each.at_class_merged.weighted),
        "pictures": each.pictures,
    }


def _thousandfold(score: float | None) -> float | None:
    return None if score is None else 1000 * score


def _hundredfold(score: float | None) -> float | None:
    return None if score is None else 100 * score
