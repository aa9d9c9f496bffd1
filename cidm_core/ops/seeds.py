"""Random numbers from seeds: a generator for every purpose, so that no draw depends on another."""

import hashlib

import torch


def generator(seed: int, *labels: int | str) -> torch.Generator:
    """A CPU generator of its own for every (seed, labels); the global ones are never touched."""
    text = "/".join(str(label) for label in (seed, *labels))
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return torch.Generator().manual_seed(number & (2**63 - 1))
