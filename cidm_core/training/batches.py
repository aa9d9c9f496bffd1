"""Batches from cached latents: every draw comes from a generator seeded by (seed, step).

So a resumed run needs no generator state, and each process takes its slice of one and the same
batch, however many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import PromptError
from ..methods.batches import Batch
from ..ops.diffusion import noise_with_offset
from ..ops.seeds import generator
from ..sizes import PictureSizes
from .captions import caption_variant
from .data import Photo
from .processes import Processes, share_of


@dataclass(frozen=True)
class Latents:
    """The cache: for each photo its seeded augmentations, encoded once.

    Photos may differ in shape. Those without a concept mask have ones there.

    Attributes:
        clean: Of each photo (variants, channels, height, width), in the model's units.
        image_masks: 1 where the photo is, 0 on padding, (variants, height, width).
        concept_masks: 1 where the concept is; None if no photo has a mask.
        sizes: What SDXL is told of each variant.
        phrases: What goes before the caption of each variant; mostly "".
    """

    clean: Sequence[Tensor]
    image_masks: Sequence[Tensor]
    concept_masks: Sequence[Tensor] | None
    sizes: Sequence[Sequence[PictureSizes]]
    phrases: Sequence[Sequence[str]]

    @cached_property
    def alike(self) -> list[list[int]]:
        """Photos of the same shape, which can share a batch."""
        found: dict[tuple[int, ...], list[int]] = {}
        for photo, latents in enumerate(self.clean):
            found.setdefault(tuple(latents.shape[1:]), []).append(photo)
        return list(found.values())


@dataclass(frozen=True)
class CachedPhotos:
    """Photos with bound captions that batches are drawn from, and their latents.

    Attributes:
        latents: From the host's cache.
        photos: Their captions are varied by templates for their kind.
        label: Keeps the draws of different sources apart.
    """

    latents: Latents
    photos: Sequence[Photo]
    label: str = "concept"


@dataclass(frozen=True)
class Draws:
    """How batches are drawn.

    Attributes:
        seed: Of all of them.
        size: Pictures per micro-step, over all processes together.
        timesteps: Noise levels are drawn from 0 to this, exclusive.
        noise_offset: Size of the per-channel offset.
        device: Where the batches go.
        processes: Who shares each batch.
        check: Raises PromptError for a caption that does not fit the text encoder.
    """

    seed: int
    size: int
    timesteps: int
    noise_offset: float
    device: torch.device
    processes: Processes
    check: Callable[[str], object]
    _known: dict[str, bool] = field(default_factory=dict[str, bool])

    @property
    def mine(self) -> slice:
        """This process's rows of a whole batch."""
        return share_of(self.size, self.processes)

    def fits(self, prompt: str) -> bool:
        """Whether the text encoder reads the words of a caption."""
        if prompt not in self._known:
            try:
                self.check(prompt)
                self._known[prompt] = True
            except PromptError:
                self._known[prompt] = False
        return self._known[prompt]


class CachedSource:
    """Batches of photos from their latents and captions.

    Raises:
        TrainingError: If a batch cannot be shared evenly.
    """

    def __init__(self, photos: CachedPhotos, draws: Draws) -> None:
        self._photos, self._draws, self._mine = photos, draws, draws.mine
        self._orders: dict[str, tuple[int, list[int]]] = {}
        self._of_subjects = [_of_subjects(shape, photos.photos) for shape in photos.latents.alike]

    def batch(self, index: int) -> Batch:
        """This process's share of the micro-batch with this number, counted over the whole run."""
        draws, mine, size = self._draws, self._mine, self._draws.size
        cache = self._photos.latents
        photos = self._places(index)
        source = self._generator("tensors", index)
        first = cache.clean[photos[0]]
        variants = torch.randint(len(first), (size,), generator=source)
        timesteps = torch.randint(draws.timesteps, (size,), generator=source)
        like = first.new_empty(size, *first.shape[1:])
        noise = noise_with_offset(like, draws.noise_offset, source)
        drawn = list(zip(photos, variants.tolist(), strict=True))
        words = self._generator("words", index)
        prompts = [self._prompt(photo, variant, words) for photo, variant in drawn]
        at = drawn[mine]

        def taken(held: Sequence[Tensor]) -> Tensor:
            return torch.stack([held[photo][variant] for photo, variant in at]).to(draws.device)

        return Batch(
            latents=taken(cache.clean),
            noise=noise[mine].to(draws.device),
            timesteps=timesteps[mine].to(draws.device),
            prompts=tuple(prompts[mine]),
            image_masks=taken(cache.image_masks),
            concept_masks=None if cache.concept_masks is None else taken(cache.concept_masks),
            sizes=tuple(cache.sizes[photo][variant] for photo, variant in at),
        )

    def _generator(self, what: str, number: int) -> torch.Generator:
        return generator(self._draws.seed, self._photos.label, what, number)

    def _places(self, index: int) -> list[int]:
        """The photos of a batch, all of one shape.

        They come in shuffled rounds, so that each is seen equally often: shapes in rounds, in which
        each has as many turns as it has photos, and the photos of a shape in rounds of their own.
        Subjects take turns, whether they have few photos or many.
        """
        alike, size = self._photos.latents.alike, self._draws.size
        turns = [shape for shape, photos in enumerate(alike) for _ in photos]
        turn, place = divmod(index, len(turns))
        shape, before = 0, index
        if len(alike) > 1:
            order = [turns[i] for i in self._order("shapes", turn, len(turns))]
            shape = order[place]
            before = turn * len(alike[shape]) + order[:place].count(shape)
        draws = range(before * size, (before + 1) * size)
        return [self._photo(shape, draw) for draw in draws]

    def _photo(self, shape: int, draw: int) -> int:
        """The photo of this shape whose turn it is."""
        held = self._of_subjects[shape]
        number, subject = divmod(draw, len(held))
        photos, label = held[subject], f"order {shape}" if shape else "order"
        turn, place = divmod(number, len(photos))
        label += f" of {subject}" if subject else ""
        return photos[self._order(label, turn, len(photos))[place]]

    def _order(self, what: str, turn: int, count: int) -> list[int]:
        if self._orders.get(what, (-1, []))[0] != turn:
            source = self._generator(what, turn)
            self._orders[what] = (turn, torch.randperm(count, generator=source).tolist())
        return self._orders[what][1]

    def _prompt(self, photo: int, variant: int, source: torch.Generator) -> str:
        caption = self._caption(self._photos.photos[photo], source)
        phrase = self._photos.latents.phrases[photo][variant]
        prompt = phrase + caption
        return prompt if phrase and self._draws.fits(prompt) else caption

    def _caption(self, photo: Photo, source: torch.Generator) -> str:
        if not photo.kind:
            return photo.caption
        variant = caption_variant(photo.caption, photo.kind, source)
        # Shuffling may push the concept word beyond the token limit: then as the user wrote it.
        return variant if self._draws.fits(variant) else photo.caption


def _of_subjects(numbers: Sequence[int], photos: Sequence[Photo]) -> list[list[int]]:
    """Numbers of photos by the subject they belong to."""
    found: dict[int, list[int]] = {}
    for number in numbers:
        found.setdefault(photos[number].subject, []).append(number)
    return list(found.values())


class PriorSource:
    """Photos, and as many prior pictures after them; mixed: of each pair one, by an even chance."""

    def __init__(
        self, photos: CachedPhotos, prior: CachedPhotos, draws: Draws, *, mixed: bool
    ) -> None:
        self._photos, self._prior = CachedSource(photos, draws), CachedSource(prior, draws)
        self._draws, self._mixed = draws, mixed

    def batch(self, index: int) -> Batch:
        """This process's share of the micro-batch with this number."""
        both = _joined(self._photos.batch(index), self._prior.batch(index))
        if not self._mixed:
            return both
        source = generator(self._draws.seed, "mixed", index)
        wanted = (torch.rand(self._draws.size, generator=source) < 0.5)[self._draws.mine]
        return _rows(both, torch.arange(len(wanted)) + wanted * len(wanted))


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
        sizes=photos.sizes + prior.sizes,
    )


def _rows(batch: Batch, rows: Tensor) -> Batch:
    """Some pictures of a batch."""
    at = rows.to(batch.latents.device)
    tensors = {name: t[at] for name, t in vars(batch).items() if isinstance(t, Tensor)}
    kept = rows.tolist()
    prompts = tuple(batch.prompts[i] for i in kept)
    return replace(batch, prompts=prompts, sizes=tuple(batch.sizes[i] for i in kept), **tensors)
