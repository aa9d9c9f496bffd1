"""Small things tests need: concepts with random weights."""

import torch

from cidm_core.concept import Concept, Subject
from cidm_core.families import PROJECTIONS
from cidm_core.updates import LowRank


def random_concept(
    model,
    words: str,
    seed: int,
    *,
    rank: int = 2,
    size: float = 0.3,
    class_words: str = "thing",
    kind: str = "object",
    **changes,
):
    """A concept of random factors and tokens that fits `model`."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    updates = {}
    for layer in model.layers:
        for projection in PROJECTIONS:
            out_features, in_features = layer.shape(projection)
            updates[f"{layer.path}.{projection}"] = LowRank(
                down=rand(rank, in_features) * size / in_features**0.5,
                up=rand(out_features, rank) * size,
                alpha=float(rank),
            )
    parts = tuple(words.split())
    rows = {
        row.name: rand(len(parts), len(model.layers), row.dim) * 0.05
        for row in model.family.encoders
    }
    values = {
        "name": parts[0].strip("<>"),
        "subjects": (Subject(parts, class_words, kind),),
        "family": model.family.name,
        "base": model.fingerprint,
        "layers": tuple(layer.path for layer in model.layers),
        "updates": updates,
        "rows": rows,
    }
    return Concept(**{**values, **changes})
