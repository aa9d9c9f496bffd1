"""GPU memory that learning a concept needs, counted on a CPU.

    python -m lab.speed.memory [--methods NAMES] [--size 512] [--model FILE] [--out FILE] [--quick]

Two real training steps (`train_concept`) on a model of SD 1.5's exact shapes and random weights, or
on a checkpoint. For SDXL: `python tests/tools/make_checkpoint.py FILE --preset sdxl-full`.
Counted: the bytes of weights that the device holds while the UNet computes, those of what learns
with its gradients and moments, and, in the second step, the largest sum of tensors that autograd
keeps for the backward pass at any moment. Not counted: short-lived buffers of single operations
(AdamW's are as large as what learns), the CUDA context (about 0.5 GB) and what other programs hold;
so this is a lower bound, and a GPU needs one to two GB more.

Beside it stands what `memory_needed` says without computing (`cidm train --estimate`), for this
CPU, and what it should have said: the most bytes of tensors that were alive at any moment of the
run, short-lived ones too (`alive_gb`; on a CPU nothing is ever off the device).
"""

import argparse
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import fields
from itertools import product
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cidm_core.bank import Bank
from cidm_core.devices import DTYPES
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.dry_run import memory_needed, without_numbers
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.train import train_concept
from cidm_core.methods import METHODS
from cidm_core.training.data import Photo
from cidm_core.training.presets import presets_of

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


class Living(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, those of `modules` among them."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}
        for module in modules:
            for parameter in module.parameters():
                self._count(parameter)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                self._count(each)
        return found

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._alive:
            self._alive[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.now -= self._alive.pop(key)


class Held:
    """Bytes and storages of the UNet's weights as it computes."""

    def __init__(self, base: Base, weights: set[int]) -> None:
        self.bytes, self._weights = 0, weights
        self._hook = base.unet.register_forward_pre_hook(self._look)

    def _look(self, unet: Any, _inputs: Any) -> None:
        self.bytes = sum(p.nbytes for p in unet.parameters())
        self._weights |= {p.untyped_storage().data_ptr() for p in unet.parameters()}
        self._hook.remove()


class Learned:
    """Bytes of what an optimiser moves, with gradients and moments, read after its steps."""

    def __init__(self, kept: Kept, weights: set[int]) -> None:
        self.bytes, self._kept, self._weights = 0, kept, weights
        self._hook = register_optimizer_step_post_hook(self._look)

    def _look(self, optimiser: Any, _args: Any, _kwargs: Any) -> None:
        learned = [p for group in optimiser.param_groups for p in group["params"]]
        moments = [m for state in optimiser.state.values() for m in state.values()]
        grads = [p.grad for p in learned if p.grad is not None]
        self.bytes = sum(t.nbytes for t in (*learned, *grads, *moments))
        found = {p.untyped_storage().data_ptr() for p in learned}
        if not found <= self._weights:
            # The first step counted what learns as if the graph alone held it.
            self._weights |= found
            self._kept.peak = self._kept.now

    def remove(self) -> None:
        self._hook.remove()


def count_memory(
    base: Base, method: str, preset: str, precision: str, size_px: int
) -> dict[str, object]:
    modules = (base.unet, base.vae, *base.text_encoders)
    for module in modules:
        module.to(DTYPES[precision])
    base.dtype = DTYPES[precision]
    weights = {p.untyped_storage().data_ptr() for m in modules for p in m.parameters()}
    unet, kept = Held(base, weights), Kept(weights)
    learned, made = Learned(kept, weights), METHODS[method].Config
    # Prior pictures of the model's own would be drawn first; they come like any photo.
    settings = {"variants": 1, "accumulation": 1, "save_every": 0, "prior_images": 0, "steps": 2}
    # Of several stages the last holds most.
    settings |= {"resolution_px": size_px, "initializers": "1+2", "stages": "weights"}
    values = {**presets_of(made)[preset], **settings, "precision": precision}
    names = {field.name for field in fields(made)}
    known = {key: value for key, value in values.items() if key in names}
    config = made(**known)
    picture = Image.effect_noise((size_px, size_px), 60).convert("RGB")
    photos = [Photo.from_image(picture, "a photo of a dog in a house")] * 2
    plain = getattr(METHODS[method], "on_request", False)
    subject = {"words": "" if plain else "<d1> <d2>", "class_words": "dog"}
    living = Living(modules)
    with tempfile.TemporaryDirectory() as folder, counted(kept), living:
        train_concept(base, Bank(folder), photos, method=method, config=config, **subject)
    learned.remove()
    said = memory_needed(without_numbers(base), method, config, device=base.device)
    # The VAE is parked while learning, and with some presets the text encoders are, too.
    texts = () if config.park_text_encoders else base.text_encoders
    model = unet.bytes + sum(p.nbytes for module in texts for p in module.parameters())
    return {
        "method": method,
        "preset": preset,
        "precision": precision,
        "size_px": size_px,
        "weights_gb": round(model / GB, 3),
        "learned_gb": round(learned.bytes / GB, 3),
        "kept_for_backward_gb": round(kept.peak / GB, 2),
        "sum_gb": round((model + learned.bytes + kept.peak) / GB, 3),
        "alive_gb": round(living.peak / GB, 3),
        "estimate_gb": round(said.counted / GB, 3),
        "estimate_of_alive": round(said.counted / living.peak, 3),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="memory", description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=",".join(METHODS), help="by commas; default: all")
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
    for preset, method in product(options.presets.split(","), options.methods.split(",")):
        name, _, precision = preset.partition(":")
        rows.append(count_memory(base, method, name, precision or "bf16", size_px))
        print(rows[-1], flush=True)
    write(options.out, "memory", command, {"timing": "nothing is timed", "rows": rows})


if __name__ == "__main__":
    main()
