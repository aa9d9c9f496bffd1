"""Batches from cached latents: every draw comes from a generator seeded by (seed, step).

So a resumed run needs no generator state, and each process takes its slice of one and the same
batch, however many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PromptError, TrainingError
from ..methods.base import Batch
from ..methods.start import generator
from ..ops.diffusion import noise_with_offset
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
class Draws:
    """Settings of a source: see `TrainConfig`.

    Attributes:
        size: Pictures per micro-step, over all processes together.
        timesteps: Noise levels are drawn from 0 to this, exclusive.
    """

    seed: int
    size: int
    kind: str
    timesteps: int
    noise_offset: float


class CachedSource:
    """Batches of one concept from its latents and captions.

    Args:
        latents: From the host's cache.
        captions: Bound captions, one per photo.
        draws: Settings.
        device: Where the batches go.
        processes: Who shares each batch.
        check: Raises PromptError for a caption that does not fit the text encoder.
        label: Keeps the draws of different sources apart.

    Raises:
        TrainingError: If the batch cannot be shared evenly.
    """

    def __init__(
        self,
        latents: Latents,
        captions: Sequence[str],
        draws: Draws,
        device: torch.device,
        processes: Processes,
        check: Callable[[str], object],
        label: str = "concept",
    ) -> None:
        if draws.size % processes.count:
            raise TrainingError(
                f"batch_size {draws.size} cannot be shared by {processes.count} processes. Use a "
                f"multiple of {processes.count}."
            )
        self._latents, self._captions, self._draws = latents, tuple(captions), draws
        self._device, self._processes, self._check = device, processes, check
        self._label = label
        self._fits: dict[str, bool] = {}
        self._round: tuple[int, list[int]] = (-1, [])

    def batch(self, index: int) -> Batch:
        """This process's share of the micro-batch with this number, counted over the whole run."""
        size, cache = self._draws.size, self._latents
        photos = torch.tensor([self._photo(index * size + i) for i in range(size)])
        prompts = self._prompts(
            photos.tolist(), generator(self._draws.seed, self._label, "words", index)
        )
        source = generator(self._draws.seed, self._label, "tensors", index)
        variants = torch.randint(cache.clean.shape[1], (size,), generator=source)
        timesteps = torch.randint(self._draws.timesteps, (size,), generator=source)
        like = cache.clean.new_empty(size, *cache.clean.shape[2:])
        noise = noise_with_offset(like, self._draws.noise_offset, source)
        mine = self._mine(size)
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

    def _mine(self, size: int) -> slice:
        share = size // self._processes.count
        return slice(self._processes.rank * share, (self._processes.rank + 1) * share)

    def _photo(self, draw: int) -> int:
        """Photos come in shuffled rounds, so that each is seen equally often."""
        count = len(self._captions)
        turn, place = divmod(draw, count)
        if self._round[0] != turn:
            source = generator(self._draws.seed, self._label, "order", turn)
            self._round = (turn, torch.randperm(count, generator=source).tolist())
        return self._round[1][place]

    def _prompts(self, photos: Sequence[int], source: torch.Generator) -> list[str]:
        variants = [caption_variant(self._captions[i], self._draws.kind, source) for i in photos]
        # Shuffling may push the concept word beyond the token limit: then as the user wrote it.
        return [
            variant if self._is_readable(variant) else self._captions[i]
            for i, variant in zip(photos, variants, strict=True)
        ]

    def _is_readable(self, prompt: str) -> bool:
        if prompt not in self._fits:
            try:
                self._check(prompt)
                self._fits[prompt] = True
            except PromptError:
                self._fits[prompt] = False
        return self._fits[prompt]
