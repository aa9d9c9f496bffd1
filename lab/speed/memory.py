"""GPU memory that learning a concept needs, counted on a CPU.

    python -m lab.speed.memory [--size 512] [--model FILE] [--out FILE] [--quick]

One real training step (`train_concept`) on a model of SD 1.5's exact shapes and random weights, or
on a checkpoint. For SDXL: `python tests/tools/make_checkpoint.py FILE --preset sdxl-full`.
Counted: the bytes of weights that the device holds while the UNet computes, and the largest sum of
tensors that autograd keeps for the backward pass at any moment. Not counted: short-lived buffers of
single operations, the CUDA context (about 0.5 GB) and what other programs hold; so this is a lower
bound, and a GPU needs one to two GB more.
"""

import argparse
import tempfile
from typing import Any

from PIL import Image
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from cidm_core.bank import Bank
from cidm_core.config import TrainConfig
from cidm_core.devices import DTYPES
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.train import train_concept
from cidm_core.training.data import Photo
from cidm_core.training.presets import PRESETS

from .measure import parse, write
from .models import PROPORTIONS, Proportions, make_proportional

SD15 = Proportions((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 64)
GB = 1e9
PRESETS_COUNTED = "balanced:fp32,balanced:bf16,low-vram:bf16,least-vram:bf16"


class Kept:
    """Bytes of distinct storages that the graph holds, apart from weights; and their peak."""

    def __init__(self, weights: set[int]) -> None:
        self._weights, self._holders = weights, dict[int, int]()
        self.now = self.peak = 0

    def add(self, storage: Any) -> None:
        key = storage.data_ptr()
        if key in self._weights:
            return
        count = self._holders.get(key, 0)
        if count == 0:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        self._holders[key] = count + 1

    def drop(self, storage: Any) -> None:
        key = storage.data_ptr()
        if key in self._weights or key not in self._holders:
            return
        self._holders[key] -= 1
        if self._holders[key] == 0:
            del self._holders[key]
            self.now -= storage.nbytes()


class SavedTensor:
    """A tensor that the graph keeps; when the graph lets go of it, it is counted no more."""

    def __init__(self, kept: Kept, tensor: Tensor) -> None:
        self.tensor, self._kept = tensor.detach(), kept
        kept.add(tensor.untyped_storage())

    def __del__(self) -> None:
        self._kept.drop(self.tensor.untyped_storage())


def counted(kept: Kept) -> saved_tensors_hooks:
    """Whatever autograd saves meanwhile is counted."""
    return saved_tensors_hooks(lambda t: SavedTensor(kept, t), lambda saved: saved.tensor)


class Held:
    """Bytes and storages of the UNet's weights as it computes."""

    def __init__(self, base: Base, weights: set[int]) -> None:
        self.bytes, self._weights = 0, weights
        self._hook = base.unet.register_forward_pre_hook(self._look)

    def _look(self, unet: Any, _inputs: Any) -> None:
        self.bytes = sum(p.nbytes for p in unet.parameters())
        self._weights |= {p.untyped_storage().data_ptr() for p in unet.parameters()}
        self._hook.remove()


def count_memory(base: Base, preset: str, precision: str, size_px: int) -> dict[str, object]:
    modules = (base.unet, base.vae, *base.text_encoders)
    for module in modules:
        module.to(DTYPES[precision])
    base.dtype = DTYPES[precision]
    weights = {p.untyped_storage().data_ptr() for m in modules for p in m.parameters()}
    unet, kept = Held(base, weights), Kept(weights)
    values = {**PRESETS[preset], "precision": precision, "variants": 1, "resolution_px": size_px}
    config = TrainConfig(steps=1, save_every=0, **values)
    picture = Image.effect_noise((size_px, size_px), 60).convert("RGB")
    photos = [Photo.from_image(picture, "a photo of a dog in a house")]
    with tempfile.TemporaryDirectory() as folder, counted(kept):
        train_concept(
            base, Bank(folder), photos, words="<d1> <d2>", class_words="dog", config=config
        )
    # The VAE is parked while learning, and with some presets the text encoders are, too.
    texts = () if config.park_text_encoders else base.text_encoders
    model = unet.bytes + sum(p.nbytes for module in texts for p in module.parameters())
    return {
        "preset": preset,
        "precision": precision,
        "size_px": size_px,
        "weights_gb": round(model / GB, 3),
        "kept_for_backward_gb": round(kept.peak / GB, 2),
        "sum_gb": round((model + kept.peak) / GB, 2),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="memory", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="of the photos, in px; default 512")
    parser.add_argument("--model", help="checkpoint to learn on; default: SD 1.5's shapes")
    parser.add_argument("--presets", default=PRESETS_COUNTED, help="preset:precision, by commas")
    options, command = parse(parser, argv, rounds=False)
    size_px = 64 if options.quick else options.size
    if options.model:
        base = load_base(options.model, device="cpu", dtype="bf16")
    else:
        base = make_proportional(PROPORTIONS["tiny"] if options.quick else SD15)
    rows = []
    for preset in options.presets.split(","):
        name, _, precision = preset.partition(":")
        rows.append(count_memory(base, name, precision or "bf16", size_px))
        print(rows[-1], flush=True)
    write(options.out, "memory", command, {"timing": "nothing is timed", "rows": rows})


if __name__ == "__main__":
    main()
