"""What methods learn from: batches, what a model made of them, and which a stage asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..sizes import PictureSizes


@dataclass(frozen=True)
class Batch:
    """One micro-step's worth of noisy pictures, on the model's device.

    Attributes:
        latents: Clean latents, (batch, channels, height, width).
        noise: What is added to them, same shape.
        timesteps: Noise levels, (batch,) int64.
        prompts: One per picture; repeats are encoded once.
        image_masks: 1 where the picture is, 0 on padding, (batch, height, width).
        concept_masks: 1 where the concept is; None if no picture of the batch has a mask.
        is_prior: True for prior pictures, (batch,) bool; None if the stage asked for none.
        sizes: Of the pictures, for families that are told; empty: as large as their latents.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    prompts: tuple[str, ...]
    image_masks: Tensor
    concept_masks: Tensor | None = None
    is_prior: Tensor | None = None
    sizes: tuple[PictureSizes, ...] = ()

    @property
    def seen(self) -> Tensor:
        """Where the loss looks: on the picture and, with masks, on the concept alone."""
        masks = self.concept_masks
        return self.image_masks if masks is None else self.image_masks * masks


@dataclass(frozen=True)
class ContrastBatch:
    """Composites of cut-outs and what is said of them, on the model's device (CLIF, stage A).

    Attributes:
        images: CLIP's features of the composites, (pairs, dim).
        prompts: One per composite.
        groups: Equal where one prompt would do for either composite, (pairs,) int64.
        scale: CLIP's own factor of cosines.
        negatives: The prompts with other names in the place of a subject's: true of none of them.
    """

    images: Tensor
    prompts: tuple[str, ...]
    groups: Tensor
    scale: float
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What the model made of a batch.

    Attributes:
        value: The model's output, (batch, channels, height, width).
        target: What it should have been: the noise, or v, as the model predicts.
        attention: Per watched layer, how much each cell attends to each concept word, mean over
            the heads, (batch, height, width, words); empty unless asked for.
        alphas_cumprod: a_t of the batch's noise levels, (batch,).
        prediction_type: "epsilon" or "v_prediction".
    """

    value: Tensor
    target: Tensor
    attention: tuple[Tensor, ...] = ()
    alphas_cumprod: Tensor = field(default_factory=lambda: torch.zeros(0))
    prediction_type: str = "epsilon"


class Source(Protocol):
    """Where batches come from; the same index always gives the same batch."""

    def batch(self, index: int) -> Any:
        """The micro-batch with this number, counted over the whole run."""
        ...


@dataclass(frozen=True)
class PhotoBatches:
    """The usual source: `Batch`es of the photos of all subjects, in shuffled rounds.

    Attributes:
        size: Photos per micro-step over all processes together; None: `config.batch_size`.
        prior: "mixed": each picture is a photo or a prior picture by an even chance; "paired":
            as many prior pictures follow the photos.
        optional: Whether the photos may come alone if nobody gave prior pictures.
        templates: How captions vary; None: `config.templates`.
    """

    size: int | None = None
    prior: Literal["none", "mixed", "paired"] = "none"
    optional: bool = False
    templates: str | None = None


@dataclass(frozen=True)
class CompositeBatches:
    """`ContrastBatch`es of the run's composites, in shuffled rounds.

    Attributes:
        size: Composites per step; every process contrasts all of them.
        phrases: What captions call the subjects.
        names: Other names; in a negative one of them stands in the place of a phrase.
    """

    size: int
    phrases: tuple[str, ...]
    names: tuple[str, ...] = ()
