"""The plan: everything sampling needs, computed once per prompt and free of any host.

A host encodes text (`TextEncoder`), installs *attend* from `slots` and `scenes`, and calls *guide*
once per step. Paper: CIDM sections 4.2 (weights) and 4.3 (regions).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..concept import Concept
from ..config import SampleConfig
from ..errors import PromptError
from ..ops import guidance, routing
from ..regions import Region, masks_at
from ..words import contains
from .concept_weights import ConceptEncoder, check_words, named, owners_of, participants, weigher

NEGATIVE, GLOBAL = 0, 1  # rows every scene starts with


class TextEncoder(ConceptEncoder, Protocol):
    """What a host offers: text to layer-wise context, for prompts and for concept tokens."""

    def prompts(self, prompts: Sequence[str], concepts: Sequence[Concept]) -> Tensor:
        """(prompts, layers, tokens, dim), concept words bound to their layer-wise rows."""
        ...

    def owners(self, prompts: Sequence[str], concepts: Sequence[Concept]) -> Tensor:
        """Whose token each one is (prompts, tokens), as `ops.routing.token_weights` takes it."""
        ...


@dataclass(frozen=True)
class Slot:
    """One encoded prompt: context (layers, tokens, dim) and weights (layers, concepts).

    With owners (tokens), keys and values are routed token by token (`ops.routing`).
    """

    prompt: str
    context: Tensor
    weights: Tensor
    relevance: Tensor
    owners: Tensor | None = None

    @property
    def token_weights(self) -> Tensor | None:
        """Weights of keys and values, (layers, tokens, concepts), where tokens are routed."""
        return None if self.owners is None else routing.token_weights(self.weights, self.owners)


@dataclass(frozen=True)
class Scene:
    """The UNet rows of one picture and how their estimates become one.

    Attributes:
        rows: Slot of each row: negative, global, one per estimated region, own negatives.
        regional: Per row, the (slot, mask) pairs regional cross-attention puts in.
        masks: (regions, height, width) at latent size, in 0..1.
        negatives: Per estimated region, the row of its unconditional estimate.
    """

    rows: tuple[int, ...]
    regional: tuple[tuple[tuple[int, int], ...], ...]
    masks: Tensor
    negatives: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Concepts taking part, their weights per slot and layer, and the scenes to draw."""

    concepts: tuple[Concept, ...]
    layers: tuple[str, ...]
    slots: tuple[Slot, ...]
    scenes: tuple[Scene, ...]
    guidance_scale: float
    alpha: float
    region_mode: str
    strength: float
    residual_routing: str = "row"

    def guide(self, estimates: Tensor, scene: int = 0) -> Tensor:
        """Guidance and region noise estimation of one step (Eq. 4 and 5).

        Affine with weights that sum to 1 (mode "partition"), so eps and denoised both work.

        Args:
            estimates: (rows, batch, channels, height, width), rows as in `scenes[scene].rows`.
            scene: Which scene the rows belong to.

        Returns:
            (batch, channels, height, width).
        """
        plan = self.scenes[scene]
        scale = self.guidance_scale
        whole = guidance.classifier_free(estimates[GLOBAL], estimates[NEGATIVE], scale)
        if not plan.negatives:
            return whole
        regions = torch.stack(
            [
                guidance.classifier_free(estimates[GLOBAL + 1 + u], estimates[negative], scale)
                for u, negative in enumerate(plan.negatives)
            ]
        )
        masks = plan.masks.to(estimates.device, estimates.dtype)
        return guidance.combine(whole, regions, masks, self.alpha, self.region_mode)

    @property
    def shared_weights(self) -> bool:
        """Whether all slots weigh the concepts alike, so that they can be merged into W."""
        first = self.slots[0].weights
        return all(torch.equal(slot.weights, first) for slot in self.slots[1:])

    def describe(self) -> str:
        """The weights as text: one line per prompt, mean over layers, largest first."""
        lines: list[str] = []
        for slot in self.slots:
            means = slot.weights.mean(0)
            order = means.argsort(descending=True).tolist()
            shares = ", ".join(f"{self.concepts[i].name} {means[i]:.2f}" for i in order)
            lines.append(f"{slot.prompt or '(empty prompt)'}: {shares or 'base model only'}")
        return "\n".join(lines)


def build_plan(
    encoder: TextEncoder,
    bank: Mapping[str, Concept],
    prompts: Sequence[str],
    regions: Sequence[Region],
    config: SampleConfig,
    latent_size: tuple[int, int],
    latent_px: int,
    layers: tuple[str, ...],
) -> Plan:
    """Bind words, weigh concepts and lay out the UNet rows of one or more pictures.

    Args:
        encoder: The host's text encoder.
        bank: Concepts by name; of a `Bank` only the concepts that take part are read.
        prompts: One prompt per scene.
        regions: Regions of the scene; needs exactly one prompt.
        config: Sampling settings.
        latent_size: (height, width) of the latents.
        latent_px: Pixels per latent cell, for error texts.
        layers: Cross-attention layers of the model in execution order.

    Raises:
        PromptError: If a prompt names a concept word no concept has, or several prompts come with
            regions.
        RegionError: If a region is outside the picture or too small.
    """
    if regions and len(prompts) != 1:
        raise PromptError(f"Regions go with one prompt; {len(prompts)} were given. Drop one side.")
    texts = [config.negative_prompt, *prompts, *(r.prompt for r in regions)]
    texts += [r.negative for r in regions if r.negative is not None]
    texts = list(dict.fromkeys(texts))
    owners = owners_of(bank)
    check_words(texts, owners)
    concepts = participants(bank, named(texts, owners), config)
    contexts = encoder.prompts(texts, concepts)
    weigh_context = weigher(encoder, concepts, config)

    def weigh(text: str, context: Tensor) -> tuple[Tensor, Tensor]:
        present = [any(contains(text, word) for word in c.words) for c in concepts]
        return weigh_context(context, torch.tensor(present))

    routed = config.key_value_routing == "token"
    layout = _Layout(texts, contexts, weigh, encoder.owners(texts, concepts) if routed else None)
    masks = masks_at(regions, *latent_size, config.feather, latent_px)
    scenes = tuple(layout.scene(prompt, regions, masks, config) for prompt in prompts)
    return Plan(
        concepts=concepts,
        layers=layers,
        slots=tuple(layout.slots),
        scenes=scenes,
        guidance_scale=config.guidance_scale,
        alpha=config.alpha,
        region_mode=config.region_mode,
        strength=config.strength,
        residual_routing=config.residual_routing,
    )


Weigh = Callable[[str, Tensor], tuple[Tensor, Tensor]]  # text, context -> relevance, weights


class _Layout:
    """Collects slots, each distinct (prompt, weighing prompt) once, and arranges them in rows."""

    def __init__(
        self, texts: Sequence[str], contexts: Tensor, weigh: Weigh, owners: Tensor | None
    ) -> None:
        self._contexts = dict(zip(texts, contexts, strict=True))
        self._owners = {} if owners is None else dict(zip(texts, owners, strict=True))
        self._weigh = weigh
        self._weights: dict[str, tuple[Tensor, Tensor]] = {}
        self._index: dict[tuple[str, str], int] = {}
        self.slots: list[Slot] = []

    def slot(self, prompt: str, weighed_by: str) -> int:
        """The slot of a prompt whose weights come from another (or the same) prompt."""
        if weighed_by not in self._weights:
            self._weights[weighed_by] = self._weigh(weighed_by, self._contexts[weighed_by])
        key = (prompt, weighed_by)
        if key not in self._index:
            relevance, weights = self._weights[weighed_by]
            self._index[key] = len(self.slots)
            held = self._contexts[prompt], weights, relevance, self._owners.get(prompt)
            self.slots.append(Slot(prompt, *held))
        return self._index[key]

    def scene(
        self, prompt: str, regions: Sequence[Region], masks: Tensor, config: SampleConfig
    ) -> Scene:
        """U + 2 rows: one unconditional estimate serves all regions without an own negative."""
        # The unconditional half runs with the prompt's weights, as merging would make it.
        rows = [self.slot(config.negative_prompt, prompt), self.slot(prompt, prompt)]
        sources = [r.prompt if config.region_weights == "per_region" else prompt for r in regions]
        inserts = [self.slot(r.prompt, s) for r, s in zip(regions, sources, strict=True)]
        if not config.noise_estimation:
            everywhere = tuple((s, u) for u, s in enumerate(inserts))
            inside = everywhere if config.regional_attention else ()
            return Scene(tuple(rows), ((), inside), masks, ())
        negatives: list[int] = []
        own: list[int] = []
        for region, source in zip(regions, sources, strict=True):
            if region.negative is None:
                negatives.append(NEGATIVE)
            else:
                negatives.append(len(rows) + len(regions) + len(own))
                own.append(self.slot(region.negative, source))
        attended = config.regional_attention
        # With regional attention a region's row keeps the global prompt outside its box.
        region_rows = [rows[GLOBAL]] * len(regions) if attended else inserts
        inside = [((s, u),) if attended else () for u, s in enumerate(inserts)]
        return Scene(
            rows=(*rows, *region_rows, *own),
            regional=((), (), *inside, *((),) * len(own)),
            masks=masks,
            negatives=tuple(negatives),
        )
