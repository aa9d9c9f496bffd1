"""What a stage asks for, opened: photos, photos beside prior pictures, composites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import TrainingError
from ..methods.batches import CompositeBatches, PhotoBatches, Source
from .batches import CachedPhotos, CachedSource, Draws, PriorSource
from .contrast import CompositeSource, EncodedComposites
from .data import Photo


@dataclass(frozen=True)
class Sources:
    """Makes the source that a stage asks for.

    Attributes:
        photos: Photos of all subjects.
        prior: Prior pictures; None if the caller gave none.
        draws: How they are drawn; a stage may ask for another size.
        retold: The photos with their captions in other templates.
        composites: Of cut-outs; None where no words learn by contrast.
    """

    photos: CachedPhotos
    prior: CachedPhotos | None
    draws: Draws
    retold: Callable[[str], Sequence[Photo]]
    composites: EncodedComposites | None = None

    def open(self, wanted: PhotoBatches | CompositeBatches | Source) -> Source:
        """A method's own source as it is; photos and composites as the stage wants them.

        Raises:
            TrainingError: If it needs prior pictures or composites, and there are none.
        """
        if isinstance(wanted, CompositeBatches):
            return self._composites(wanted)
        if not isinstance(wanted, PhotoBatches):
            return wanted
        draws = replace(self.draws, size=wanted.size or self.draws.size)
        told = None if wanted.templates is None else self.retold(wanted.templates)
        photos = self.photos if told is None else replace(self.photos, photos=told)
        if wanted.prior == "none" or (self.prior is None and wanted.optional):
            return CachedSource(photos, draws)
        if self.prior is None:
            raise TrainingError(
                "This method learns from prior pictures, too, but none were given. Give pictures "
                "of the class, such as other dogs."
            )
        return PriorSource(photos, self.prior, draws, mixed=wanted.prior == "mixed")

    def _composites(self, wanted: CompositeBatches) -> Source:
        if self.composites is None:
            raise TrainingError(
                "The words are to learn by contrast, and there are no composites to learn from. "
                "Give CLIP and photos with masks, or leave the contrast out."
            )
        return CompositeSource(
            self.composites,
            wanted,
            seed=self.draws.seed,
            device=self.draws.device,
            fits=self.draws.fits,
        )
