"""What tests of learning share: a small model with random weights, photos, a quick call."""

import functools
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch
from tools.make_checkpoint import write_diffusers

from cidm_core.bank import Bank
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.train import train_concept
from cidm_core.methods.cidm import CidmConfig
from cidm_core.training.data import Photo

CAPTIONS = ("a photo of a dog, sitting", "a dog in the street", "a dog, red house, tree")


@functools.cache
def small_folder():
    """A diffusers folder of mini-sd's family with random weights."""
    folder = Path(tempfile.mkdtemp(prefix="cidm-tests-")) / "small"
    write_diffusers(folder, "mini", "fp32")
    return folder


@functools.cache
def small_base():
    return load_base(small_folder(), device="cpu", dtype="fp32")


def photos(count=3, size=(40, 32), masks=False, seed=0):
    """Pictures of noise; with masks, the concept is in the left half."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        mask = np.zeros((size[1], size[0]), dtype=np.float32)
        mask[:, : size[0] // 2] = 1
        made.append(Photo.from_image(pixels, CAPTIONS[i % 3], mask if masks else None))
    return made


def config(**given):
    values = {"steps": 6, "batch_size": 1, "resolution_px": 32, "variants": 2, "save_every": 0}
    values |= {"lr_lora": 1e-3, "token_norm_limit": 100.0}
    return CidmConfig(**{**values, **given})


def learn(folder, words="<dog1> <dog2>", base=None, given=None, **options):
    """`train_concept` with everything filled in; `given` holds settings."""
    bank = folder if isinstance(folder, Bank) else Bank(folder)
    options = {"class_words": "dog", "config": config(**(given or {})), **options}
    taught = options.pop("photos", None) or photos()
    return train_concept(base or small_base(), bank, taught, words=words, **options)


def weights(base):
    """Copies of all weights and buffers, and the identity of every module."""
    parts = {"unet": base.unet, "vae": base.vae, "text": base.text_encoders[0]}
    tensors = {
        f"{part}.{name}": tensor.detach().clone()
        for part, module in parts.items()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }
    modules = {
        f"{part}.{name}": (id(child), child.training)
        for part, module in parts.items()
        for name, child in module.named_modules()
    }
    return tensors, modules


def same_weights(before, after):
    assert before[1] == after[1]
    assert before[0].keys() == after[0].keys()
    for name, tensor in before[0].items():
        assert torch.equal(tensor, after[0][name]), name


def same_concept(a, b):
    """Bit-equality of all that was learned."""
    assert a.low_rank.keys() == b.low_rank.keys()
    for key, pair in a.low_rank.items():
        assert torch.equal(pair.down, b.low_rank[key].down), key
        assert torch.equal(pair.up, b.low_rank[key].up), key
    for name, rows in a.rows.items():
        assert torch.equal(rows, b.rows[name]), name


def state_digest(concept):
    """A checksum of all that was learned, to compare across processes."""
    digest = hashlib.sha256()
    for key in sorted(concept.low_rank):
        digest.update(concept.low_rank[key].down.numpy().tobytes())
        digest.update(concept.low_rank[key].up.numpy().tobytes())
    for name in sorted(concept.rows):
        digest.update(concept.rows[name].numpy().tobytes())
    return digest.hexdigest()
