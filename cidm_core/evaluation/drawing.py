"""What the measures of carried-off classes draw with: a run of seeds, and a concept merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from PIL import Image
from torch import Tensor
from torch.nn import Parameter

from ..concept import Concept
from ..config import SampleConfig
from ..diffusers_host.base import Base
from ..diffusers_host.pipeline import generate
from ..updates import FullRank, LowRank

AT_ONCE = 4
Tell = Callable[[int], None]
"""Hears how much more of the work is done."""


def pictures_of(
    base: Base,
    bank: Mapping[str, Concept],
    prompt: str,
    numbers: range,
    config: SampleConfig,
    tell: Tell,
) -> list[Image.Image]:
    """Pictures of a prompt, a few at a time; number n has the seed after the n-th."""
    pictures: list[Image.Image] = []
    for some in batches(numbers):
        alone = replace(config.alone(some.start), num_images=len(some))
        pictures += generate(base, bank, prompt, config=alone)
        tell(len(some))
    return pictures


def batches(numbers: range) -> Iterator[range]:
    """As many numbers as are drawn together."""
    for first in range(0, len(numbers), AT_ONCE):
        yield numbers[first : first + AT_ONCE]


def merged_changes(base: Base, concept: Concept) -> Iterator[tuple[Parameter, Tensor]]:
    """What a concept adds to weights and biases where it is merged at full strength."""
    for path, update in concept.updates.items():
        if isinstance(update, LowRank | FullRank):
            linear = base.module(path)
            yield linear.weight, update.delta
            if isinstance(update, FullRank) and update.bias is not None:
                yield linear.bias, update.bias
