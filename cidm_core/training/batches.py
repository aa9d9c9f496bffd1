"""Batches from cached latents: every draw comes from a generator seeded by (seed, step).

So a resumed run needs no generator state, and each process takes its slice of one and the same
batch, however many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import PromptError, TrainingError
from ..methods.base import Batch, PhotoBatches, Source
from ..ops.diffusion import noise_with_offset
from ..ops.seeds import generator
from .captions import caption_variant
from .processes import Processes


@dataclass(frozen=True)
class Latents:
    """The cache: `variants` seeded augmentations of each photo, encoded once.

    Photos without a concept mask have ones there.

    Attributes:
        clean: (photos, variants, channels, height, width), in the model's units.
        image_masks: 1 where the photo is, 0 on padding, (photos, variants, height, width).
        concept_masks: 1 where the concept is; None if no photo has a mask.
    """

    clean: Tensor
    image_masks: Tensor
    concept_masks: Tensor | None


@dataclass(frozen=True)
class CachedPhotos:
    """Photos that batches are drawn from.

    Attributes:
        latents: From the host's cache.
        captions: Bound captions, one per photo.
        kinds: What each photo shows, which chooses its caption templates; "" keeps the caption as
            it stands.
        label: Keeps the draws of different sources apart.
    """

    latents: Latents
    captions: Sequence[str]
    kinds: Sequence[str]
    label: str = "concept"


@dataclass(frozen=True)
class Draws:
    """Settings of a source: see `TrainConfig`.

    Attributes:
        size: Pictures per micro-step, over all processes together.
        timesteps: Noise levels are drawn from 0 to this, exclusive.
    """

    seed: int
    size: int
    timesteps: int
    noise_offset: float


class CachedSource:
    """Batches of photos from their latents and captions.

    Args:
        photos: What to draw from.
        draws: Settings.
        device: Where the batches go.
        processes: Who shares each batch.
        check: Raises PromptError for a caption that does not fit the text encoder.

    Raises:
        TrainingError: If the batch cannot be shared evenly.
    """

    def __init__(
        self,
        photos: CachedPhotos,
        draws: Draws,
        device: torch.device,
        processes: Processes,
        check: Callable[[str], object],
    ) -> None:
        if draws.size % processes.count:
            raise TrainingError(
                f"batch_size {draws.size} cannot be shared by {processes.count} processes. Use a "
                f"multiple of {processes.count}."
            )
        self._photos, self._draws = photos, draws
        self._device, self._processes, self._check = device, processes, check
        self._fits: dict[str, bool] = {}
        self._round: tuple[int, list[int]] = (-1, [])

    def batch(self, index: int) -> Batch:
        """This process's share of the micro-batch with this number, counted over the whole run."""
        size, cache = self._draws.size, self._photos.latents
        photos = torch.tensor([self._photo(index * size + i) for i in range(size)])
        prompts = self._prompts(photos.tolist(), self._generator("words", index))
        source = self._generator("tensors", index)
        variants = torch.randint(cache.clean.shape[1], (size,), generator=source)
        timesteps = torch.randint(self._draws.timesteps, (size,), generator=source)
        like = cache.clean.new_empty(size, *cache.clean.shape[2:])
        noise = noise_with_offset(like, self._draws.noise_offset, source)
        mine = _share(size, self._processes)
        at = (photos[mine], variants[mine])
        concept = cache.concept_masks
        return Batch(
            latents=cache.clean[at].to(self._device),
            noise=noise[mine].to(self._device),
            timesteps=timesteps[mine].to(self._device),
            prompts=tuple(prompts[mine]),
            image_masks=cache.image_masks[at].to(self._device),
            concept_masks=None if concept is None else concept[at].to(self._device),
        )

    def _generator(self, what: str, number: int) -> torch.Generator:
        return generator(self._draws.seed, self._photos.label, what, number)

    def _photo(self, draw: int) -> int:
        """Photos come in shuffled rounds, so that each is seen equally often."""
        count = len(self._photos.captions)
        turn, place = divmod(draw, count)
        if self._round[0] != turn:
            source = self._generator("order", turn)
            self._round = (turn, torch.randperm(count, generator=source).tolist())
        return self._round[1][place]

    def _prompts(self, photos: Sequence[int], source: torch.Generator) -> list[str]:
        return [self._prompt(i, source) for i in photos]

    def _prompt(self, photo: int, source: torch.Generator) -> str:
        caption, kind = self._photos.captions[photo], self._photos.kinds[photo]
        if not kind:
            return caption
        variant = caption_variant(caption, kind, source)
        # Shuffling may push the concept word beyond the token limit: then as the user wrote it.
        return variant if self._is_readable(variant) else caption

    def _is_readable(self, prompt: str) -> bool:
        if prompt not in self._fits:
            try:
                self._check(prompt)
                self._fits[prompt] = True
            except PromptError:
                self._fits[prompt] = False
        return self._fits[prompt]


def _share(size: int, processes: Processes) -> slice:
    """This process's rows of a whole batch."""
    share = size // processes.count
    return slice(processes.rank * share, (processes.rank + 1) * share)


class PairedSource:
    """As many prior pictures after the photos of each batch."""

    def __init__(self, photos: CachedSource, prior: CachedSource) -> None:
        self._photos, self._prior = photos, prior

    def batch(self, index: int) -> Batch:
        """Photos first."""
        return _joined(self._photos.batch(index), self._prior.batch(index))


class MixedSource:
    """Each picture of a batch is a photo or a prior picture by an even chance.

    Args:
        photos: Batches of photos.
        prior: Batches of prior pictures, of the same size.
        draws: Settings of both.
        processes: Who shares each batch.
    """

    def __init__(
        self, photos: CachedSource, prior: CachedSource, draws: Draws, processes: Processes
    ) -> None:
        self._photos, self._prior = photos, prior
        self._draws, self._processes = draws, processes

    def batch(self, index: int) -> Batch:
        """As many pictures as a batch of either."""
        size, source = self._draws.size, generator(self._draws.seed, "mixed", index)
        wanted = (torch.rand(size, generator=source) < 0.5)[_share(size, self._processes)]
        both = _joined(self._photos.batch(index), self._prior.batch(index))
        rows = torch.arange(len(wanted)) + wanted * len(wanted)
        return _rows(both, rows)


def _joined(photos: Batch, prior: Batch) -> Batch:
    """Photos, then prior pictures."""
    pairs = [(photos, False), (prior, True)]
    masks = None
    if photos.concept_masks is not None or prior.concept_masks is not None:
        masks = torch.cat([
            torch.ones_like(each.image_masks) if each.concept_masks is None else each.concept_masks
            for each, _ in pairs
        ])  # fmt: skip
    flags = [torch.full_like(each.timesteps, is_prior) for each, is_prior in pairs]
    return Batch(
        latents=torch.cat([photos.latents, prior.latents]),
        noise=torch.cat([photos.noise, prior.noise]),
        timesteps=torch.cat([photos.timesteps, prior.timesteps]),
        prompts=photos.prompts + prior.prompts,
        image_masks=torch.cat([photos.image_masks, prior.image_masks]),
        concept_masks=masks,
        is_prior=torch.cat(flags).bool(),
    )


def _rows(batch: Batch, rows: Tensor) -> Batch:
    """Some pictures of a batch."""
    at = rows.to(batch.latents.device)
    tensors = {name: t[at] for name, t in vars(batch).items() if isinstance(t, Tensor)}
    return replace(batch, prompts=tuple(batch.prompts[i] for i in rows.tolist()), **tensors)


@dataclass(frozen=True)
class PhotoSources:
    """Makes the source that a stage asks for.

    Attributes:
        photos: Photos of all subjects.
        prior: Prior pictures; None if the caller gave none.
        draws: Settings; a stage may ask for another size.
        device: Where the batches go.
        processes: Who shares each batch.
        check: Raises PromptError for a caption that does not fit the text encoder.
    """

    photos: CachedPhotos
    prior: CachedPhotos | None
    draws: Draws
    device: torch.device
    processes: Processes
    check: Callable[[str], object]

    def open(self, wanted: PhotoBatches | Source) -> Source:
        """A method's own source as it is; the photos as the stage wants them.

        Raises:
            TrainingError: If it wants prior pictures, and there are none.
        """
        if not isinstance(wanted, PhotoBatches):
            return wanted
        draws = replace(self.draws, size=wanted.size or self.draws.size)
        photos = self._source(self.photos, draws)
        if wanted.prior == "none":
            return photos
        if self.prior is None:
            raise TrainingError(
                "This method learns from prior pictures, too, but none were given. Give pictures "
                "of the class, such as other dogs."
            )
        prior = self._source(self.prior, draws)
        if wanted.prior == "paired":
            return PairedSource(photos, prior)
        return MixedSource(photos, prior, draws, self.processes)

    def _source(self, photos: CachedPhotos, draws: Draws) -> CachedSource:
        return CachedSource(photos, draws, self.device, self.processes, self.check)
