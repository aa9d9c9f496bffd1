"""What mini-clip can tell: captions apart (TA), and looks from their look-alikes (IA)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from cidm_core.diffusers_host.clip import ClipEncoder, load_clip
from cidm_core.mini.draw import WorldScene
from cidm_core.mini.looks import Look, reference_scene
from cidm_core.mini.world import any_scene

from .captions import caption
from .clip_captions import ASPECTS, wrong_caption
from .clip_data import draw_all, round_trip
from .clip_model import TOKENIZER
from .clip_scenes import (
    LOOKS,
    differ,
    family,
    name_colors,
    other_style,
    other_thing,
    view,
)
from .looks import CONCEPTS

SEED = 77001  # no training uses it
PHOTOS_EACH = 8
Show = Callable[[Sequence[WorldScene]], Tensor]


def check_clip(folder: Path, vae: Any, rounds: int = 4) -> dict[str, object]:
    """Return all measures of the mini-clip in a folder, on drawn pictures and via the autoencoder.

    Args:
        folder: Where the model lies.
        vae: mini-sd's autoencoder.
        rounds: How often retrieval is asked; other sample sizes grow with it too. Random looks
            go through the autoencoder in one round only, which takes as long as all the rest.
    """
    encoder = load_clip(folder, "cpu", TOKENIZER)
    report: dict[str, object] = {"training": _training(folder)}
    shows = ("drawn", _drawn(encoder), rounds), ("autoencoder", _through(encoder, vae), 1)
    for name, show, looks in shows:
        report[name] = {
            "retrieval_of_64": retrieval_accuracy(encoder, show, 64, rounds),
            "wrong_captions": wrong_captions(encoder, show, 50 * rounds),
            "identity_auc": identity(show, looks),
        }
    return report


def _training(folder: Path) -> object:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["training"])


def _embed(encoder: ClipEncoder, pixels: Tensor) -> Tensor:
    images = [Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).contiguous().numpy()]
    return F.normalize(encoder.images(images), dim=-1)


def _drawn(encoder: ClipEncoder) -> Show:
    return lambda scenes: _embed(encoder, draw_all(list(scenes)))


def _through(encoder: ClipEncoder, vae: Any) -> Show:
    def show(scenes: Sequence[WorldScene]) -> Tensor:
        parts = draw_all(list(scenes)).split(128)
        return _embed(encoder, torch.cat([round_trip(p, vae, torch.zeros(len(p))) for p in parts]))

    return show


def retrieval_accuracy(
    encoder: ClipEncoder, show: Show, count: int, rounds: int
) -> dict[str, float]:
    """Return how often the right one of `count` captions, and of pictures, is the nearest.

    Scenes are fresh, held-out combinations included, and no two captions are equal.
    """
    rng = random.Random(SEED)
    hits = torch.zeros(2)
    for _ in range(rounds):
        captioned: dict[str, WorldScene] = {}
        while len(captioned) < count:
            scene = name_colors(any_scene(rng))
            captioned[caption(scene, rng)] = scene
        texts = F.normalize(encoder.texts(list(captioned)), dim=-1)
        logits = show(list(captioned.values())) @ texts.T
        goal = torch.arange(count)
        hits += torch.stack([(logits.argmax(dim) == goal).float().mean() for dim in (1, 0)])
    to_text, to_image = (hits / rounds).tolist()
    return {"image_to_text": round(to_text, 4), "text_to_image": round(to_image, 4)}


def wrong_captions(encoder: ClipEncoder, show: Show, count: int) -> dict[str, float]:
    """Return, per aspect, how often a right caption is nearer than one wrong in that aspect."""
    rng = random.Random(SEED + 1)
    shares: dict[str, float] = {}
    for aspect in ASPECTS:
        scenes: list[WorldScene] = []
        texts: list[str] = []
        while len(scenes) < count:
            scene = name_colors(any_scene(rng))
            right, wrong = wrong_caption(scene, aspect, rng.randrange(1 << 30))
            if wrong:
                scenes.append(scene)
                texts += [right, wrong]
        said = F.normalize(encoder.texts(texts), dim=-1).view(count, 2, -1)
        cosines = (show(scenes)[:, None] * said).sum(-1)
        shares[aspect] = round(float((cosines[:, 0] > cosines[:, 1]).float().mean()), 4)
    return shares


def auc(positive: Tensor, negative: Tensor) -> float:
    """Return how often a positive value exceeds a negative one, ties counting half."""
    gap = positive[:, None] - negative[None]
    return float(((gap > 0).float() + 0.5 * (gap == 0).float()).mean())


def identity(show: Show, rounds: int) -> dict[str, object]:
    """Return how well IA against a look's photos tells its other scenes from look-alikes' scenes.

    For each look: PHOTOS_EACH photos, as many other scenes, and as many of each of three
    look-alikes. IA is the mean cosine with the photos. "concepts" are the looks of the benchmark,
    "random" fresh ones; "one_respect" are look-alikes that differ in one respect only (colour,
    texture, pattern's or accent's colour); scenes of "free" views are small, in company or in a
    style too.
    """
    rng = random.Random(SEED + 2)
    objects = [look for look in CONCEPTS.values() if look.thing]
    styles = [look for look in CONCEPTS.values() if look.style]
    count = 8 * rounds
    cases = {
        "concept_objects": ([_alike(look, rng, 3) for look in objects], False),
        "concept_objects_one_respect": ([_alike(look, rng, 1) for look in objects], False),
        "concept_styles": ([_alike(look, rng, 0) for look in styles], False),
        "random_objects": (_families(rng, "object", count), False),
        "random_objects_free": (_families(rng, "object", count), True),
        "random_styles": (_families(rng, "style", count), False),
        "random_styles_free": (_families(rng, "style", count), True),
    }
    return {name: _mean_auc(show, *case, rng) for name, case in cases.items()}


def _families(rng: random.Random, kind: str, count: int) -> list[list[Look]]:
    return [family(rng, kind, fits=lambda _look: True) for _ in range(count)]


def _alike(look: Look, rng: random.Random, respects: int) -> list[Look]:
    """Return a look and three look-alikes."""
    found = [look]
    while len(found) < LOOKS:
        other = other_thing(look, rng, respects) if look.thing else other_style(look, rng)
        if all(differ(other, earlier) for earlier in found):
            found.append(other)
    return found


def _scene(look: Look, free: bool, rng: random.Random) -> WorldScene:
    return view(look, rng, lambda _scene: True) if free else reference_scene(look, rng)[0]


def _mean_auc(
    show: Show, families: list[list[Look]], free: bool, rng: random.Random
) -> dict[str, float]:
    sums = torch.zeros(3)
    for looks in families:
        photos = [reference_scene(looks[0], rng)[0] for _ in range(PHOTOS_EACH)]
        drawn = [_scene(look, free, rng) for look in looks for _ in range(PHOTOS_EACH)]
        z = show([*photos, *drawn])
        alignment = (z[PHOTOS_EACH:] @ z[:PHOTOS_EACH].T).mean(1)
        own, others = alignment[:PHOTOS_EACH], alignment[PHOTOS_EACH:]
        sums += torch.stack([torch.tensor(auc(own, others)), own.mean(), others.mean()])
    names = ("auc", "ia_own", "ia_look_alikes")
    values = (sums / len(families)).tolist()
    return {name: round(value, 4) for name, value in zip(names, values, strict=True)}
