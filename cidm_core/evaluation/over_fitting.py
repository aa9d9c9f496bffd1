"""How much a concept over-fits: what it does to other prompts, and to the variety of its own.

The metrics of Infusion (Zeng et al. 2024, https://arxiv.org/abs/2404.14007) for a concept of any
method: the latent Fisher divergence and the 2-Wasserstein distance (`ops.overfitting`). Prompts,
timesteps and features are ours, docs/EQUATIONS.md#over-fitting.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ..calls import is_called, name_of
from ..concept import Concept
from ..config import SampleConfig
from ..diffusers_host.base import Base
from ..diffusers_host.pipeline import encode_image
from ..diffusers_host.prior import class_prompt
from ..errors import CidmError
from ..ops.overfitting import gaussian_distance
from ..sampling.infuse import asking_for
from .divergence import Divergence, Divergences, DrawnSet
from .drawing import Tell, pictures_of
from .encoders import Encoder
from .intervals import Measured, measured

OTHERS = (
    "a house at night",
    "a flower on grass",
    "a fish in the sea",
    "a boat on the left",
    "a car on the beach",
    "a cat in the snow",
    "a dog on the right",
    "a cup in the middle",
)
"""Prompts that ask for no concept; one with a concept's class words is left out for that one."""
_Key = tuple[str, range]  # a prompt and the numbers of its pictures


@dataclass(frozen=True)
class OverFitting:
    """What was measured of one concept.

    Attributes:
        concept: Its name.
        method: How it was learned.
        pictures: Of its own prompt, and as many of its class words by the base model.
        others: Pictures of other prompts.
        wasserstein: Distance of the two kinds by their features.
        chance: That of the two halves of the base model's own pictures; what is not above it tells
            nothing.
        elsewhere: Divergence at other prompts, drawn as the concept is drawn here.
        at_class: At the plain class words, likewise.
        elsewhere_merged: At other prompts, with the concept's weights in the model.
        at_class_merged: At the plain class words, likewise.
        likeness: Mean cosine of the concept's pictures to its photos; None without photos.
    """

    concept: str
    method: str
    pictures: int
    others: int
    wasserstein: Measured
    chance: float
    elsewhere: Divergence
    at_class: Divergence
    elsewhere_merged: Divergence
    at_class_merged: Divergence
    likeness: Measured | None = None


@dataclass
class OverFittings:
    """Measures each concept by itself; what the base model draws is drawn once.

    Attributes:
        base: The model.
        clip: Encoder of pictures.
        count: Pictures of each kind.
        config: Sampling; picture n has the seed after the n-th.

    Raises:
        CidmError: If there are fewer pictures than other prompts.
    """

    base: Base
    clip: Encoder
    count: int
    config: SampleConfig
    _sets: dict[_Key, DrawnSet] = field(default_factory=dict[_Key, DrawnSet])

    def __post_init__(self) -> None:
        if self.count < len(OTHERS):
            raise CidmError(
                f"Over-fitting cannot be told from {self.count} pictures. Give {len(OTHERS)} "
                "or more; with fewer than a hundred it says little."
            )

    def work(self, concepts: Collection[Concept]) -> int:
        """Pictures to draw, and to look at with and without the concept."""
        classes = {class_prompt(each.class_words, each.kind) for each in concepts}
        others = {key for each in concepts for key in self._other_keys(each)}
        drawn = self.count * (len(classes) + len(concepts)) + sum(len(some) for _, some in others)
        return drawn + sum(2 * (self.count + self._other_count(each)) for each in concepts)

    def of(self, concept: Concept, photos: Sequence[Image.Image], tell: Tell) -> OverFitting:
        """Measure one concept.

        Args:
            concept: Alone in a bank, so that no other has a part in it.
            photos: Of it, for its likeness; may be none.
            tell: Hears how much more of the work is done.
        """
        here = self._drawn(class_prompt(concept.class_words, concept.kind), range(self.count), tell)
        others = [self._drawn(*key, tell) for key in self._other_keys(concept)]
        bank = {concept.name: concept}
        called = class_prompt(concept.phrase, concept.kind)
        asking = asking_for(self.config, concept)
        pictures = pictures_of(self.base, bank, called, here.numbers, asking, tell)
        features = self._features(pictures)
        likeness = None
        if photos:
            likeness = measured(torch.mean, (features @ self._features(photos).T).mean(1))
        halves = here.features[0::2], here.features[1::2]
        look = partial(Divergences(self.base, self.config).of, concept, tell=tell)
        return OverFitting(
            concept=concept.name,
            method=concept.method,
            pictures=self.count,
            others=sum(len(each.numbers) for each in others),
            wasserstein=measured(gaussian_distance, here.features, features, biased=True),
            chance=float(gaussian_distance(*halves)),
            elsewhere=look(others, merged=False),
            at_class=look([here], merged=False),
            elsewhere_merged=look(others, merged=True),
            at_class_merged=look([here], merged=True),
            likeness=likeness,
        )

    def _other_keys(self, concept: Concept) -> list[_Key]:
        """Other prompts and the numbers of their pictures, the same for every concept."""
        names = [name_of((), s.class_words) for s in concept.subjects if s.class_words.strip()]
        ends = [self.count * k // len(OTHERS) for k in range(len(OTHERS) + 1)]
        keys = [(prompt, range(*ends[k : k + 2])) for k, prompt in enumerate(OTHERS)]
        return [(text, some) for text, some in keys if some and not is_called(text, names)]

    def _other_count(self, concept: Concept) -> int:
        return sum(len(numbers) for _, numbers in self._other_keys(concept))

    def _drawn(self, prompt: str, numbers: range, tell: Tell) -> DrawnSet:
        key = prompt, numbers
        if key not in self._sets:
            pictures = pictures_of(self.base, {}, prompt, numbers, self.config, tell)
            latents = torch.cat([encode_image(self.base, each).cpu() for each in pictures])
            self._sets[key] = DrawnSet(prompt, numbers, self._features(pictures), latents)
        return self._sets[key]

    def _features(self, pictures: Sequence[Image.Image]) -> Tensor:
        return normalize(self.clip.images(pictures).double().cpu(), dim=-1)
