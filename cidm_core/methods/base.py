"""What a method is: named parameters, the losses of a batch, penalties of its own, a concept.

The loop (`training.loop`) drives any `Method`; a `Host` answers its questions about the model.
Neither knows the other, and neither does a method know which host it runs on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..concept import Concept
from ..config import TrainConfig
from ..families import CrossAttention


@dataclass(frozen=True)
class Task:
    """The concept to be learned and the model it is learned on (see `Concept`)."""

    name: str
    words: tuple[str, ...]
    class_words: str
    kind: str
    family: str
    base: str
    layers: tuple[CrossAttention, ...]


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
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    prompts: tuple[str, ...]
    image_masks: Tensor
    concept_masks: Tensor | None = None


@dataclass(frozen=True)
class Prediction:
    """What the model made of a batch.

    Attributes:
        value: The model's output, (batch, channels, height, width).
        target: What it should have been: the noise, or v, as the model predicts.
        attention: Per watched layer, how much each cell attends to each concept word, mean over
            the heads, (batch, height, width, words); empty unless asked for.
    """

    value: Tensor
    target: Tensor
    attention: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Adapter:
    """Trainable low-rank factors on one linear layer: down (rank, in), up (out, rank)."""

    down: nn.Parameter
    up: nn.Parameter
    alpha: float


class Host(Protocol):
    """What a method may ask of the model."""

    @property
    def device(self) -> torch.device: ...

    def embeddings(self, text: str) -> dict[str, Tensor]:
        """The frozen token embeddings of plain words: encoder -> (tokens, dim)."""
        ...

    def predict(self, batch: Batch, tokens: Mapping[str, Tensor], watch: bool) -> Prediction:
        """Run text encoders and UNet.

        Args:
            batch: Noisy pictures.
            tokens: Concept embeddings, encoder -> (words, layers, dim).
            watch: Whether the attention of the concept words is wanted too.
        """
        ...


class Group:
    """Named parameters in one flat buffer.

    Clipping, AdamW, averaging over processes and the finite check are then one operation each
    instead of one per tensor. `tensors` are views of the buffer, and so are their gradients.
    """

    def __init__(self, name: str, lr: float, tensors: Mapping[str, Tensor]) -> None:
        self.name, self.lr = name, lr
        self.flat = nn.Parameter(
            torch.cat([t.detach().float().flatten() for t in tensors.values()])
        )
        self.grad = torch.zeros_like(self.flat.data)
        self.frozen = False
        self.tensors: dict[str, nn.Parameter] = {}
        start = 0
        for key, tensor in tensors.items():
            end = start + tensor.numel()
            view = nn.Parameter(self.flat.data[start:end].view(tensor.shape))
            view.grad = self.grad[start:end].view(tensor.shape)
            self.tensors[key] = view
            start = end

    def freeze(self) -> None:
        """Stop learning for good."""
        self.frozen = True
        for tensor in self.tensors.values():
            tensor.requires_grad_(False)


class Method(Protocol):
    """How a concept is learned. New methods implement this; the loop does not change."""

    prior_weight: float
    """Weight of prior preservation; above 0 the run needs prior photos (Custom Diffusion)."""

    @property
    def groups(self) -> Sequence[Group]:
        """All parameters, one group per learning rate."""
        ...

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Low-rank weights by path of the linear layer, all of one rank and alpha."""
        ...

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss terms of a batch; their sum is what is minimised."""
        ...

    def penalties(self) -> dict[str, Tensor]:
        """Weighted terms that need no batch; added once per optimiser step."""
        ...

    def gauges(self) -> dict[str, Tensor]:
        """Numbers the method wants to see before each update (read with the losses, one sync)."""
        ...

    def before_update(self, gauges: Mapping[str, float]) -> None:
        """Decide on the gauges, for example to freeze a group."""
        ...

    def after_update(self, factor: float) -> None:
        """Whatever follows an optimiser step; `factor` is the learning rate's decay."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the groups."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...

    def result(self, facts: Mapping[str, object]) -> Concept:
        """The concept as learned so far."""
        ...


class MakeMethod(Protocol):
    """A row of METHODS: builds a method for a task from settings, earlier concepts and a host."""

    def __call__(
        self, task: Task, config: TrainConfig, old: Collection[Concept], host: Host
    ) -> Method: ...
