"""Parameters that learn together, in one flat buffer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Group:
    """Named parameters in one flat buffer.

    Clipping, AdamW, averaging over processes and the finite check are then one operation each
    instead of one per tensor. `tensors` are views of the buffer, and so are their gradients.
    """

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.name = name
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
        self.learn(False)

    def learn(self, wanted: bool) -> None:
        """Ask for gradients, or for none, from now on; a frozen group never gets any."""
        for tensor in self.tensors.values():
            tensor.requires_grad_(wanted and not self.frozen)
