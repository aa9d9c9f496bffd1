"""Named bundles of training settings, for those who know their card and not the method."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import TrainConfig

# Over the defaults and the family's values; "balanced" is those alone.
_LOW: Mapping[str, object] = {
    "batch_size": 1,
    "gradient_checkpointing": True,
    "precision": "bf16",
    "variants": 8,
}
PRESETS: Mapping[str, Mapping[str, object]] = {
    "least-vram": {**_LOW, "frozen_fp8": True, "park_text_encoders": True},
    "low-vram": _LOW,
    "balanced": {},
    "best": {"accumulation": 2, "variants": 32},
}
NEEDS_GB: Mapping[str, tuple[float, float]] = {
    "least-vram": (2.8, 7.5),
    "low-vram": (3.2, 8.9),
    "balanced": (4.1, 15),
    "best": (4.1, 15),
}
"""Memory of a card that CIDM needs in bf16, by estimate: on SD 1.5, and on SDXL."""


def _needs(name: str) -> str:
    return "{:g} GB on SD 1.5, {:g} on SDXL".format(*NEEDS_GB[name])


PRESET_HELP = (
    "low-vram takes one picture at a time, recomputes activations and computes in bf16 (about "
    f"{_needs('low-vram')}); least-vram also keeps the UNet in 8 bits and the text encoders in "
    f"main memory ({_needs('least-vram')}); balanced keeps the defaults ({_needs('balanced')}); "
    "best sums two batches into a step, as the paper's two GPUs do, and makes twice as many "
    "augmented variants (as much memory)"
)


def presets_of(config: type[TrainConfig]) -> Mapping[str, Mapping[str, object]]:
    """The presets as a method has them."""
    return {name: {**values, **config.presets.get(name, {})} for name, values in PRESETS.items()}
