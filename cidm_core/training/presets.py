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
PRESET_HELP = (
    "low-vram takes one picture at a time, recomputes activations and computes in bf16; least-vram "
    "also keeps the UNet in 8 bits and the text encoders in main memory, for SDXL on 8 GB; "
    "balanced keeps the defaults; best sums two batches into a step, as the paper's two GPUs do, "
    "and makes twice as many augmented variants"
)


def presets_of(config: type[TrainConfig]) -> Mapping[str, Mapping[str, object]]:
    """The presets as a method has them."""
    return {name: {**values, **config.presets.get(name, {})} for name, values in PRESETS.items()}
