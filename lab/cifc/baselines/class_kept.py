"""Class preservation: with the class words in the concept's place nothing may change.

Known from LoRA trainers as differential output preservation. An idea the ablations try: what is
learned should hang on the concept's words, and leave the rest of the picture to the prompt.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.methods.base import Batch, Host, Task
from cidm_core.methods.cidm import Cidm, CidmConfig
from cidm_core.ops.diffusion import masked_mse
from cidm_core.updates import LowRank
from cidm_core.words import replace as replace_words

from .lwf import refuse_recomputing, swapped


class ClassKept(Cidm):
    """Adds `weight * mean (eps(z_t, class) - eps_base(z_t, class))^2` to the denoising loss.

    Takes about twice the time.

    Args:
        task: What is learned.
        config: Settings.
        old: Earlier concepts.
        host: The model.
        weight: Of the preservation.

    Raises:
        TrainingError: If activations are to be recomputed.
    """

    name = "class_kept"

    def __init__(
        self,
        task: Task,
        config: CidmConfig,
        old: Collection[Concept],
        host: Host,
        *,
        weight: float,
    ) -> None:
        refuse_recomputing(config, "Class preservation")
        super().__init__(task, config, old, host)
        self._weight = weight
        self._trigger = {" ".join(task.words): task.subjects[0].class_words}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss and preservation."""
        prompts = tuple(replace_words(prompt, self._trigger) for prompt in batch.prompts)
        plain = replace(batch, prompts=prompts)
        tokens = {name: group.tensors["rows"].detach() for name, group in self._tokens.items()}
        nothing = {
            path: LowRank(pair.down.detach(), torch.zeros_like(pair.up), pair.alpha)
            for path, pair in self.updates.items()
        }
        with torch.no_grad(), swapped(self.updates, nothing):
            before = self._host.predict(plain, tokens, False).value
        now = self._host.predict(plain, tokens, False).value
        kept = self._weight * masked_mse(now, before, batch.image_masks)
        return super().losses(batch) | {"class": kept}
