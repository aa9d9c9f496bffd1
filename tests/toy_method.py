"""A toy method: a vector per cross-attention layer, added to the values of the class words.

Of no paper: the smallest method with several stages, the example of CONTRIBUTING.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cidm_core.config import TrainConfig
from cidm_core.methods.base import Stage
from cidm_core.methods.group import Group
from cidm_core.ops.diffusion import masked_mse
from cidm_core.ops.schedules import linear_decay
from cidm_core.settings import setting
from cidm_core.updates import ValueResidual


@dataclass(frozen=True, kw_only=True)
class ToyConfig(TrainConfig):
    """How the toy learns."""

    lr: float = setting(0.02, "Learning rate of the vectors.", low=0.0, high=1.0, advanced=False)
    rough: float = setting(0.5, "Share of the steps in the first stage.", low=0.0, high=1.0)


class Toy:
    """A `Method`: the first stage looks everywhere, the second at the photo and not its frame."""

    name, Config = "toy", ToyConfig
    words, modifier, prior, several = "unused", False, "unused", False

    def __init__(self, task, config, old, host):
        del old  # earlier concepts stay as they are without our help
        self._task, self._config, self._host = task, config, host
        zeros = {f"{at.path}.to_v": torch.zeros(at.width) for at in task.layers}
        self._vectors = Group("vectors", {p: zero.to(host.device) for p, zero in zeros.items()})
        self.updates = {p: ValueResidual(vector) for p, vector in self._vectors.tensors.items()}

    def stages(self):
        rates, steps = {self._vectors: self._config.lr}, self._config.steps
        rough = round(self._config.rough * steps)
        return [
            Stage("rough", rough, rates, lambda batch: self._losses(batch, masked=False)),
            Stage("fine", steps - rough, rates, self._losses, schedule=linear_decay),
        ]

    def _losses(self, batch, masked=True):
        found = self._host.predict(batch, {}, watch=False)
        mask = batch.image_masks if masked else None
        return {"denoise": masked_mse(found.value, found.target, mask)}

    def state(self):
        return {}

    def load_state(self, _):
        pass

    def result(self, facts):
        return self._task.concept(self.name, self._config, facts, self.updates, {})
