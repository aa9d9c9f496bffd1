"""Batches of composites and captions for words that learn by contrast (CLIF, stage A)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..methods.batches import CompositeBatches, ContrastBatch
from ..ops.seeds import generator
from ..words import replace as replaced
from .captions import caption_variant


@dataclass(frozen=True, eq=False)
class EncodedComposites:
    """Composites as CLIP sees them.

    Attributes:
        images: Features, (composites, dim) float32 on the CPU.
        captions: One per composite.
        held_out: Those that only retrieval is measured on.
        scale: CLIP's factor of cosines, exp(logit_scale).
    """

    images: Tensor
    captions: tuple[str, ...]
    held_out: tuple[bool, ...]
    scale: float

    def part(self, *, held_out: bool) -> list[int]:
        """Numbers of the composites that are learned from, or held out."""
        return [i for i, held in enumerate(self.held_out) if held == held_out]

    @cached_property
    def groups(self) -> Tensor:
        """Per composite the number of its caption, (composites,) int64."""
        numbers = {caption: i for i, caption in enumerate(dict.fromkeys(self.captions))}
        return torch.tensor([numbers[caption] for caption in self.captions])


class CompositeSource:
    """`ContrastBatch`es in shuffled rounds; the same whole batch for every process.

    So composites of all processes are negatives of each other, and the number of processes changes
    nothing: features are made once, and reading some hundred captions costs little.

    Args:
        composites: What is learned from, held-out ones left aside.
        wanted: What the stage asks for.
        seed: Of the draws.
        device: Where the batches go.
        fits: Whether the text encoder reads all words of a caption.
    """

    def __init__(
        self,
        composites: EncodedComposites,
        wanted: CompositeBatches,
        *,
        seed: int,
        device: torch.device,
        fits: Callable[[str], bool],
    ) -> None:
        self._composites, self._wanted, self._seed = composites, wanted, seed
        self._device, self._fits = device, fits
        self._kept = composites.part(held_out=False)
        self._size = min(wanted.size, len(self._kept))
        self._order: tuple[int, list[int]] = (-1, [])  # of the round under way

    def batch(self, index: int) -> ContrastBatch:
        """The batch with this number, counted over the whole run."""
        drawn = [self._place(n) for n in range(index * self._size, (index + 1) * self._size)]
        source = generator(self._seed, "contrast", "words", index)
        prompts, negatives = list[str](), list[str]()
        for number in drawn:
            caption = self._composites.captions[number]
            state = source.get_state()
            prompts.append(self._wrapped(caption, source))
            if other := self._other(caption, source):
                same = torch.Generator().set_state(state)  # in the same template
                wrong = self._wrapped(other, same)
                negatives += [wrong] if self._fits(wrong) else []
        at = torch.tensor(drawn)
        return ContrastBatch(
            images=self._composites.images[at].to(self._device),
            prompts=tuple(prompts),
            groups=self._composites.groups[at].to(self._device),
            scale=self._composites.scale,
            negatives=tuple(dict.fromkeys(negatives)),
        )

    def _place(self, draw: int) -> int:
        turn, place = divmod(draw, len(self._kept))
        if self._order[0] != turn:
            source = generator(self._seed, "contrast", "order", turn)
            order = torch.randperm(len(self._kept), generator=source).tolist()
            self._order = (turn, order)
        return self._kept[self._order[1][place]]

    def _wrapped(self, caption: str, source: torch.Generator) -> str:
        variant = caption_variant(caption, "object", source)
        return variant if self._fits(variant) else caption

    def _other(self, caption: str, source: torch.Generator) -> str:
        """The caption with another name for one of its subjects; "" if there is none."""
        phrases = [each for each in self._wanted.phrases if each in caption]
        chosen = torch.randint(2**31, (2,), generator=source).tolist()
        if not phrases or not self._wanted.names:
            return ""
        phrase = phrases[chosen[0] % len(phrases)]
        other = self._wanted.names[chosen[1] % len(self._wanted.names)]
        return replaced(caption, {phrase: other})
