"""Class preservation: with the class words in the concept's place nothing may change.

Known from LoRA trainers as differential output preservation. An idea the ablations try: what is
learned should hang on the concept's words, and leave the rest of the picture to the prompt.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cidm_core.methods.batches import Batch
from cidm_core.ops.diffusion import masked_mse
from cidm_core.updates import LowRank
from cidm_core.words import replace as replace_words

from .base import Baseline, swapped


class ClassKept(Baseline):
    """Adds `weight * mean (eps(z_t, class) - eps_base(z_t, class))^2` to the denoising loss.

    Takes about twice the time.
    """

    name = "class_kept"
    asks_again = True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising loss and preservation."""
        trigger = {" ".join(self._task.words): self._task.subjects[0].class_words}
        prompts = tuple(replace_words(prompt, trigger) for prompt in batch.prompts)
        plain = replace(batch, prompts=prompts)
        tokens = {name: rows.detach() for name, rows in self._rows.live.items()}
        nothing = {
            path: LowRank(pair.down.detach(), torch.zeros_like(pair.up), pair.alpha)
            for path, pair in self.updates.items()
        }
        with torch.no_grad(), swapped(self.updates, nothing):
            before = self._host.predict(plain, tokens, False).value
        now = self._host.predict(plain, tokens, False).value
        kept = self._weight * masked_mse(now, before, batch.image_masks)
        return super().losses(batch) | {"class": kept}
