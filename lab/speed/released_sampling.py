"""How the released CIDM code samples, rebuilt from its description as a yardstick.

Every concept stays its own low-rank branch: each linear layer of each cross-attention makes one
full output per concept, stacks them, and sums them up weighted. The weights depend on the prompt
alone, yet every layer finds them anew in every step, and keys and values are projected every time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.diffusers_host.base import Base
from cidm_core.ops.attention import scaled_dot_product


class ReleasedAttention:
    """Attention processor of one attn2.

    Args:
        layer: diffusers path of the attn2.
        concepts: All concepts of the bank.
        contexts: This layer's text, (rows, tokens, dim); the last row is the conditional one.
        tokens: This layer's encoded concept words, (concepts, words, dim).
    """

    def __init__(
        self, layer: str, concepts: Sequence[Concept], contexts: Tensor, tokens: Tensor
    ) -> None:
        self.contexts, self.tokens = contexts, tokens
        self.branches = {
            projection: [concept.low_rank[f"{layer}.{projection}"] for concept in concepts]
            for projection in ("to_q", "to_k", "to_v", "to_out.0")
        }

    def weights(self) -> Tensor:
        """Fourth power of the mean over words of the largest cosine, divided by the sum."""
        prompt = F.normalize(self.contexts[-1], dim=-1)
        cosine = F.normalize(self.tokens, dim=-1) @ prompt.mT  # (concepts, words, tokens)
        relevance = cosine.amax(-1).mean(-1) ** 4
        return relevance / relevance.abs().sum()

    def project(self, linear: torch.nn.Linear, name: str, x: Tensor, weights: Tensor) -> Tensor:
        each = torch.stack(
            [pair.scale * F.linear(F.linear(x, pair.down), pair.up) for pair in self.branches[name]]
        )
        return linear(x) + (weights[:, None, None, None] * each).sum(0)

    def __call__(self, attn, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        weights = self.weights()
        query = self.project(attn.to_q, "to_q", hidden_states, weights)
        key = self.project(attn.to_k, "to_k", self.contexts, weights)
        value = self.project(attn.to_v, "to_v", self.contexts, weights)
        out = scaled_dot_product(query, key, value, attn.heads)
        return self.project(attn.to_out[0], "to_out.0", out, weights)


@contextmanager
def released(
    base: Base, concepts: Mapping[str, Concept], contexts: Tensor, tokens: Tensor
) -> Iterator[None]:
    """Put the released way on a UNet.

    Args:
        base: The model.
        concepts: The bank.
        contexts: (rows, layers, tokens, dim).
        tokens: (concepts, layers, words, dim).
    """
    modules = [base.unet.get_submodule(layer.path) for layer in base.layers]
    processors = [module.processor for module in modules]
    held = list(concepts.values())
    for index, (module, layer) in enumerate(zip(modules, base.layers, strict=True)):
        module.processor = ReleasedAttention(
            layer.path, held, contexts[:, index].contiguous(), tokens[:, index].contiguous()
        )
    try:
        yield
    finally:
        for module, processor in zip(modules, processors, strict=True):
            module.processor = processor
