"""The plan: everything sampling needs, computed once per prompt and free of any host.

A host encodes text (`TextEncoder`), installs *attend* from the slots and scenes (`layer_updates`,
`regional`), and calls *guide* once per step. Paper: CIDM sections 4.2 (weights) and 4.3 (regions).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..calls import is_called
from ..concept import Concept
from ..config import SampleConfig
from ..errors import PromptError
from ..ops import guidance
from ..regions import Region, masks_at
from ..storage.compatibility import BaseModel, check_fit
from ..text import TextContext
from .concept_weights import (
    ConceptEncoder,
    callers_of,
    check_words,
    named,
    participants,
    weigher,
)
from .infuse import Requests
from .layout import RegionTexts, Scene, guide, layout
from .slots import Slot
from .streams import Phase, Streams, streams_of
from .strengths import acting_weights, at_strengths, read_strengths, strength_note, unheard

logger = logging.getLogger(__name__)


class TextEncoder(ConceptEncoder, Protocol):
    """What a host offers: text to context, for prompts and for concept tokens."""

    def prompts(self, prompts: Sequence[str], concepts: Sequence[Concept]) -> Sequence[TextContext]:
        """Encoded prompts, concept words bound to their rows."""
        ...


@dataclass(frozen=True, eq=False)
class Plan:
    """Concepts taking part, their weights per slot and layer, and the scenes to draw.

    Attributes:
        concepts: In the order of the weights.
        layers: diffusers paths of the attn2 modules in execution order.
        slots: Encoded prompts.
        scenes: One per picture.
        masks: Where the regions are, (regions, height, width) at latent size, in 0..1.
        config: Settings of sampling.
        streams: What value residuals make of slots and rows.
    """

    concepts: tuple[Concept, ...]
    layers: tuple[str, ...]
    slots: tuple[Slot, ...]
    scenes: tuple[Scene, ...]
    masks: Tensor
    config: SampleConfig
    streams: Streams = field(default_factory=Streams)

    @property
    def all_slots(self) -> tuple[Slot, ...]:
        """The slots, and those that further rows need."""
        return (*self.slots, *self.streams.twins)

    def arranged(self, phase: Phase) -> tuple[Scene, ...]:
        """The scenes with all rows that run; `guide` reads the first, as many as in `scenes`."""
        return tuple(self.streams.arranged(scene, phase) for scene in self.scenes)

    def guide(self, estimates: Tensor, scene: int = 0) -> Tensor:
        """Guidance and region noise estimation of one step; see `layout.guide`.

        Args:
            estimates: (rows, batch, channels, height, width), rows as in `scenes[scene].rows`.
            scene: Which scene the rows belong to.

        Returns:
            (batch, channels, height, width).
        """

        def guided(row: int, negative: int) -> Tensor:
            scale = self.config.guidance_scale
            return guidance.classifier_free(estimates[row], estimates[negative], scale)

        return guide(self.scenes[scene], guided, self.masks, self.config)

    @property
    def shared_weights(self) -> bool:
        """Whether all slots weigh the concepts alike, so that they can be merged into W."""
        first = self.slots[0].weights
        return all(torch.equal(slot.weights, first) for slot in self.slots[1:])

    def describe(self) -> str:
        """The weights as text: one line per prompt, mean over layers, largest first."""
        return "\n".join(
            f"{slot.prompt or '(empty prompt)'}: {weights_in_words(self.concepts, slot.weights)}"
            for slot in self.slots
        )


def weights_in_words(concepts: Sequence[Concept], weights: Tensor) -> str:
    """Names of concepts and the mean over layers of their weights as they act, largest first.

    Args:
        concepts: The concepts.
        weights: psi(M) of a prompt, (layers, concepts).
    """
    means = acting_weights(concepts, weights).mean(0)
    order = means.argsort(descending=True).tolist()
    held = ((concepts[i], means[i]) for i in order)
    shares = ", ".join(f"{each.name} {mean:.2f}{strength_note(each)}" for each, mean in held)
    return shares or "the base model draws alone"


def build_plan(
    encoder: TextEncoder,
    bank: Mapping[str, Concept],
    prompts: Sequence[str],
    regions: Sequence[Region],
    config: SampleConfig,
    model: BaseModel,
    latent_size: tuple[int, int],
) -> Plan:
    """Bind words, weigh concepts and lay out the UNet rows of one or more pictures.

    Args:
        encoder: The host's text encoder.
        bank: Concepts by name; of a `Bank` only the concepts that take part are read.
        prompts: One prompt per scene.
        regions: Regions of the scene; needs exactly one prompt.
        config: Sampling settings.
        model: What will draw.
        latent_size: (height, width) of the latents.

    Raises:
        FamilyError: If a concept does not fit the model.
        PromptError: If a prompt names a concept word no concept has, several prompts come with
            regions, or settings name a concept that the bank does not have.
        RegionError: If a region is outside the picture or too small.
    """
    if regions and len(prompts) != 1:
        raise PromptError(f"Regions go with one prompt; {len(prompts)} were given. Drop one side.")
    texts = [config.negative_prompt, *prompts, *(r.prompt for r in regions)]
    texts += [r.negative for r in regions if r.negative is not None]
    texts = list(dict.fromkeys(texts))
    bank = at_strengths(bank, config.strengths)
    requests = Requests.of(config.infuse, bank)
    requests.check_kinds(bank)
    drawn = [*prompts, *(region.prompt for region in regions)]
    requests.check_said(drawn)
    callers = {**callers_of(bank), **requests.callers}
    check_words(texts, callers, bank)
    found = participants(bank, named(texts, callers), config)
    concepts = tuple(requests.bind(concept) for concept in found)
    check_fit(concepts, model, allow_other_base=config.allow_other_base)
    slots = _Slots(encoder, texts, concepts, config, len(model.layers))
    for prompt in drawn:
        requests.check_read(prompt, slots.contexts[prompt])
    pairs = [RegionTexts(region.prompt, region.negative) for region in regions]
    scenes = tuple(
        layout(prompt, config.negative_prompt, pairs, config, slots.slot) for prompt in prompts
    )
    streams = streams_of(concepts, slots.found, config)
    idle = unheard(read_strengths(config.strengths), concepts)
    for told in filter(None, (*streams.unheard, idle)):
        logger.warning("%s", told)
    return Plan(
        concepts=concepts,
        layers=tuple(layer.path for layer in model.layers),
        slots=tuple(slots.found),
        scenes=scenes,
        masks=masks_at(regions, *latent_size, config.feather, model.family.latent_px),
        config=config,
        streams=streams,
    )


class _Slots:
    """Each distinct (prompt, weighing prompt) once, in the order of asking."""

    def __init__(
        self,
        encoder: TextEncoder,
        texts: Sequence[str],
        concepts: tuple[Concept, ...],
        config: SampleConfig,
        layers: int,
    ) -> None:
        self.contexts = dict(zip(texts, encoder.prompts(texts, concepts), strict=True))
        self._concepts, self._layers = concepts, layers
        self._weigh = weigher(encoder, concepts, config)
        self._weights: dict[str, tuple[Tensor, Tensor]] = {}
        self._index: dict[tuple[str, str], int] = {}
        self.found: list[Slot] = []

    def slot(self, prompt: str, weighed_by: str) -> int:
        """The slot of a prompt whose weights come from another (or the same) prompt."""
        if weighed_by not in self._weights:
            self._weights[weighed_by] = self._weighed(weighed_by)
        key = (prompt, weighed_by)
        if key not in self._index:
            relevance, weights = self._weights[weighed_by]
            self._index[key] = len(self.found)
            self.found.append(Slot(prompt, self.contexts[prompt], weights, relevance))
        return self._index[key]

    def _weighed(self, text: str) -> tuple[Tensor, Tensor]:
        states = self.contexts[text].states.expand(self._layers, -1, -1)
        present = [is_called(text, concept.names) for concept in self._concepts]
        return self._weigh(states, torch.tensor(present))
