"""How far a class is carried off: its pictures by the model alone, and with a concept.

Custom Diffusion (Kumari et al. 2023, https://arxiv.org/abs/2212.04488) compares pictures of the
class by the fine-tuned model with real ones, by the Kernel Inception Distance. Here those of the
base model stand for the real ones, picture by picture from the same seeds, and an encoder of CLIP's
kind for Inception v3; so its numbers cannot be set beside the paper's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import normalize

from ..concept import Concept
from ..config import SampleConfig
from ..diffusers_host.base import Base, changed_weights
from ..diffusers_host.pipeline import make_plan
from ..diffusers_host.prior import class_prompt
from ..errors import CidmError
from ..ops.kernel_distance import kernel_distance
from .drawing import Tell, merged_changes, pictures_of
from .encoders import Encoder


@dataclass
class ClassDrift:
    """Measures what becomes of "photo of a dog" when a concept of a dog is there.

    Attributes:
        base: The model.
        bank: A `Bank`, or concepts by name.
        clip: Encoder of pictures.
        count: Pictures of each kind.
        config: Sampling; picture n has the seed after the n-th.

    Raises:
        CidmError: If the count is 1, from which nothing can be told.
    """

    base: Base
    bank: Mapping[str, Concept]
    clip: Encoder
    count: int
    config: SampleConfig
    _plain: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __post_init__(self) -> None:
        if self.count < 2:
            raise CidmError(
                f"The drift of a class cannot be told from {self.count} picture. Give 2 or more; "
                "with fewer than a hundred it says little."
            )

    def work(self, concepts: Collection[Concept]) -> int:
        """Pictures that all of these need, at most."""
        prompts = {class_prompt(each.class_words, each.kind) for each in concepts}
        return self.count * (len(prompts) + 2 * len(concepts))

    def of(self, concept: Concept, tell: Tell) -> dict[str, float]:
        """`class_drift` in the bank and `class_drift_merged`, by names of `Score`.

        Args:
            concept: Whose class words are drawn.
            tell: Hears how many pictures of the work are done, batch by batch.
        """
        prompt = class_prompt(concept.class_words, concept.kind)
        if prompt not in self._plain:
            self._plain[prompt] = self._drawn({}, prompt, tell)
        found = {"class_drift": 0.0, "class_drift_merged": 0.0}
        # Whose weights do not take part leaves the very same pictures.
        if make_plan(self.base, self.bank, prompt, config=self.config).concepts:
            found["class_drift"] = self._distance(prompt, self._drawn(self.bank, prompt, tell))
        else:
            tell(self.count)
        if changes := list(merged_changes(self.base, concept)):
            with changed_weights(changes):
                merged = self._drawn({}, prompt, tell)
            found["class_drift_merged"] = self._distance(prompt, merged)
        else:
            tell(self.count)
        return found

    def _distance(self, prompt: str, features: Tensor) -> float:
        return float(kernel_distance(self._plain[prompt], features, paired=True))

    def _drawn(self, bank: Mapping[str, Concept], prompt: str, tell: Tell) -> Tensor:
        """Features of the pictures, as long as they have entries: their length says nothing."""
        pictures = pictures_of(self.base, bank, prompt, range(self.count), self.config, tell)
        features = self.clip.images(pictures).double().cpu()
        return normalize(features, dim=-1) * features.shape[-1] ** 0.5
