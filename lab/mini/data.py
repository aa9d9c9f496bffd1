"""The training set: captioned pictures drawn once, cached on disk, and served from memory."""

from __future__ import annotations

import json
import logging
import multiprocessing
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cidm_core.mini.draw import draw

from .captions import caption
from .held_out import random_scene

logger = logging.getLogger(__name__)
CAPTIONS_PER_PICTURE = 4
_SHARD = 500


@dataclass(frozen=True)
class Pictures:
    """Drawn pictures, uint8 (N, 32, 32, 3), with CAPTIONS_PER_PICTURE captions each."""

    pixels: NDArray[np.uint8]
    captions: list[list[str]]


def _draw_shard(job: tuple[int, int]) -> tuple[NDArray[np.uint8], list[list[str]]]:
    seed, count = job
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    pixels = np.stack([np.asarray(draw(scene), dtype=np.uint8) for scene in scenes])
    texts = [[caption(scene, rng) for _ in range(CAPTIONS_PER_PICTURE)] for scene in scenes]
    return pixels, texts


def drawn_pictures(count: int, seed: int, cache: Path, workers: int = 2) -> Pictures:
    """Return `count` training pictures; the same (count, seed) always gives the same ones."""
    stem = cache / f"pictures-{count}-{seed}"
    arrays, texts = stem.with_suffix(".npy"), stem.with_suffix(".json")
    if not texts.exists():
        cache.mkdir(parents=True, exist_ok=True)
        shards = -(-count // _SHARD)
        jobs = [(seed * 1_000_003 + i, min(_SHARD, count - i * _SHARD)) for i in range(shards)]
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            parts = pool.map(_draw_shard, jobs, chunksize=1)
        np.save(arrays, np.concatenate([part[0] for part in parts]))
        texts.write_text(json.dumps([text for part in parts for text in part[1]]))
        logger.info("drew %d pictures into %s", count, stem)
    return Pictures(np.load(arrays), json.loads(texts.read_text()))
