"""Scores per concept, as data and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..as_text import table


@dataclass(frozen=True)
class Score:
    """One concept's alignment; both as reported in the field when multiplied by 100.

    Attributes:
        concept: Its name.
        image_alignment: Mean cosine to the reference photos, in [-1, 1].
        text_alignment: CLIPScore against the prompt in plain words, in [0, 2.5].
        pictures: How many were drawn.
    """

    concept: str
    image_alignment: float
    text_alignment: float
    pictures: int


@dataclass(frozen=True)
class Report:
    """Scores of all concepts; the mean gives every concept the same share."""

    scores: tuple[Score, ...]

    @property
    def mean(self) -> Score:
        count = len(self.scores)
        return Score(
            "mean",
            sum(s.image_alignment for s in self.scores) / count,
            sum(s.text_alignment for s in self.scores) / count,
            sum(s.pictures for s in self.scores),
        )

    def to_dict(self) -> dict[str, object]:
        return {"concepts": [asdict(s) for s in self.scores], "mean": asdict(self.mean)}

    def table(self) -> str:
        """As printed: IA and TA times 100."""
        rows = [
            (s.concept, 100 * s.image_alignment, 100 * s.text_alignment, s.pictures)
            for s in (*self.scores, self.mean)
        ]
        return table(("concept", "IA", "TA", "pictures"), rows)


@dataclass(frozen=True)
class Interference:
    """What the rest of the bank does to one concept, against the concept alone (the oracle).

    Attributes:
        concept: Its name.
        difference: Mean absolute difference of the pixels, in 0..1; 0: nothing was forgotten.
        unchanged: Share of the pictures that are equal in every pixel.
        similarity: Mean cosine of the two pictures of a seed; None without an encoder.
        text_alignment: With the whole bank; None without an encoder.
        text_alignment_alone: With the concept alone.
        image_alignment: With the whole bank; None without an encoder or photos.
        image_alignment_alone: With the concept alone.
    """

    concept: str
    difference: float
    unchanged: float
    similarity: float | None = None
    text_alignment: float | None = None
    text_alignment_alone: float | None = None
    image_alignment: float | None = None
    image_alignment_alone: float | None = None


@dataclass(frozen=True)
class ForgettingReport:
    """Interference at aggregation, concept by concept in learning order."""

    rows: tuple[Interference, ...]

    def to_dict(self) -> dict[str, object]:
        worst = max((row.difference for row in self.rows), default=0.0)
        return {"concepts": [asdict(row) for row in self.rows], "largest_difference": worst}

    def table(self) -> str:
        """As printed; columns without numbers are left out."""
        head = ["concept", "pixel difference", "unchanged", "similarity", "TA", "TA alone"]
        head += ["IA", "IA alone"]
        rows = [_scaled(row) for row in self.rows]
        kept = [k for k in range(len(head)) if any(row[k] is not None for row in rows)]
        return table([head[k] for k in kept], [[row[k] for k in kept] for row in rows])


def _scaled(row: Interference) -> Sequence[object]:
    scores = (row.text_alignment, row.text_alignment_alone)
    scores += (row.image_alignment, row.image_alignment_alone)
    hundredfold = [None if score is None else 100 * score for score in scores]
    return row.concept, row.difference, row.unchanged, row.similarity, *hundredfold
