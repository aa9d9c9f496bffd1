"""Scores of drawn pictures, picture by picture, and a name for everything that decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.start import TOLD
from cidm_core.evaluation.alignment import image_alignment, text_alignment
from cidm_core.evaluation.encoders import Encoder
from cidm_core.evaluation.presence import crop, similarities
from cidm_core.regions import Region

from .intervals import bootstrap
from .measures import Doubles, correlations, cosines, pixels
from .tasks.suite import Suite, SuiteTask

Table = list[list[float]]
_DIGITS = 6
# Settings that there were once, at the only value left of them: pictures keep their names.
_GONE = {"residual_routing": "row"}
# Settings that came later, at the value that leaves pictures as they were before.
_LATER: dict[str, object] = {
    "eta": 0,
    "infuse": "",
    "strengths": "",
    "residual_share": 1,
    "second_stream": 1,
    "residual_layers": "all",
    "key_residuals": True,
}


@dataclass(frozen=True)
class Scores:
    """Of one concept's pictures; each table is (prompts, pictures per prompt).

    Attributes:
        ia: Mean cosine to the concept's photos.
        ta: CLIPScore against the prompt in plain words.
        nearest: Index of the task whose photos are the most similar.
        copy: Largest cosine with any single photo of the concept.
        pixel: Largest correlation of pixels with any single photo of the concept.
        dino: As `ia` from DINO features; empty without DINO.
    """

    ia: Table
    ta: Table
    nearest: Table
    copy: Table
    pixel: Table
    dino: Table

    def first(self, images: int) -> Scores:
        """Only the first pictures of every prompt."""
        return Scores(*([row[:images] for row in table] for table in self._tables()))

    def joined(self, more: Scores) -> Scores:
        """With further pictures of the same prompts."""
        pairs = zip(self._tables(), more._tables(), strict=True)
        return Scores(*([a + b for a, b in zip(*pair, strict=True)] for pair in pairs))

    def _tables(self) -> tuple[Table, ...]:
        return self.ia, self.ta, self.nearest, self.copy, self.pixel, self.dino

    @property
    def images(self) -> int:
        return len(self.ia[0])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Judge:
    """The encoders, and what they see in the photos of all tasks.

    Args:
        clip: Of pictures and texts.
        dino: Of pictures; optional.
        suite: The tasks.
    """

    def __init__(self, clip: Encoder, dino: Any, suite: Suite) -> None:
        self.clip, self.dino, self.suite = clip, dino, suite
        self._names = [task.name for task in suite.tasks]
        self._photos = [_photos(clip, task) for task in suite.tasks]
        self._pixels = [pixels([photo.image for photo in task.photos]) for task in suite.tasks]
        self._dino = [] if dino is None else [_photos(dino, task) for task in suite.tasks]

    def score(
        self, task: SuiteTask, pictures: Sequence[Image.Image], texts: Sequence[str]
    ) -> Scores:
        """Scores of one concept's pictures.

        Args:
            task: The concept they should show.
            pictures: Prompt by prompt, equally many of each.
            texts: For each prompt, its plain words.
        """
        own = self._names.index(task.name)
        images = len(pictures) // len(texts)
        seen, said = self.clip.images(pictures), self.clip.texts(texts)
        alike = similarities([seen], self._photos)[:, 0]
        ta = [float(text_alignment(seen[[n]], said[[n // images]])) for n in range(len(seen))]
        copy = cosines(seen, self._photos[own]).max(axis=1)
        pixel = correlations(pixels(pictures), self._pixels[own]).max(axis=1)
        return Scores(
            ia=_table(alike[:, own].tolist(), images),
            ta=_table(ta, images),
            nearest=_table(alike.argmax(1).tolist(), images),
            copy=_table(copy.tolist(), images),
            pixel=_table(pixel.tolist(), images),
            dino=self._dino_scores(own, pictures, images),
        )

    def _dino_scores(self, own: int, pictures: Sequence[Image.Image], images: int) -> Table:
        if self.dino is None:
            return [[] for _ in range(len(pictures) // images)]
        seen = self.dino.images(pictures)
        scores = [float(image_alignment(one[None], self._dino[own])) for one in seen]
        return _table(scores, images)

    def places(self, regions: Sequence[Region], pictures: Sequence[Image.Image]) -> Tensor:
        """(pictures, regions, tasks): mean cosine of each region's part with each task's photos."""
        parts = [[crop(picture, region) for picture in pictures] for region in regions]
        return similarities([self.clip.images(each) for each in parts], self._photos)

    def text_scores(self, pictures: Sequence[Image.Image], text: str) -> list[float]:
        """CLIPScore of each picture with one text."""
        seen, said = self.clip.images(pictures), self.clip.texts([text])
        return [round(float(text_alignment(one[None], said)), _DIGITS) for one in seen]

    def index(self, name: str) -> int:
        return self._names.index(name)

    def natural(self, index: int) -> tuple[float, float]:
        """Largest cosine, and correlation of pixels, of any two photos of a task (1: one photo)."""
        seen, raw = self._photos[index], self._pixels[index]
        return _largest(cosines(seen, seen)), _largest(correlations(raw, raw))


def _largest(square: Doubles) -> float:
    """Off the diagonal."""
    count = len(square)
    return float(square[~np.eye(count, dtype=bool)].max()) if count > 1 else 1.0


def _photos(encoder: Any, task: SuiteTask) -> Tensor:
    return encoder.images([photo.image for photo in task.photos])


def _table(values: Sequence[float], images: int) -> Table:
    flat = [round(float(value), _DIGITS) for value in values]
    return [flat[n : n + images] for n in range(0, len(flat), images)]


def content_key(
    base: str,
    how: str,
    concepts: Sequence[Concept],
    weights: Sequence[Sequence[Sequence[float]]],
    prompts: Sequence[str],
    config: SampleConfig,
    judged: str,
) -> str:
    """A name for everything that decides pictures and their scores; equal names, equal pictures.

    Cells that share it are drawn once. How many pictures there are is left out: picture n of a
    prompt starts from seed + n, whatever else is drawn.

    Args:
        base: Fingerprint of the model.
        how: Which way of drawing.
        concepts: Those that take part, in their order, with all that they have learned.
        weights: For each prompt, layer by layer, how much of each concept is taken (Eq. 3).
        prompts: With concept words.
        config: Sampling.
        judged: Encoders, and the concept asked for.
    """
    # The benchmark draws from pure noise, where the open default of `denoise` is all of it.
    denoise = 1.0 if config.denoise is None else config.denoise
    settings = {**_GONE, **config.to_dict(), "num_images": 0, "denoise": denoise}
    del settings["recipe"]  # a word for values that are there
    for name in TOLD:  # what is not given is the picture's own, as before there were such settings
        if settings[name] is None:
            del settings[name]
    for name, usual in _LATER.items():  # likewise
        if settings[name] == usual:
            del settings[name]
    shares = [[[round(w, _DIGITS) for w in layer] for layer in prompt] for prompt in weights]
    held = [digest(concept) for concept in concepts]
    parts = [base, how, held, shares, list(prompts), settings, judged]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def digest(concept: Concept) -> str:
    """A name for what a concept is: its words, tokens and low-rank weights."""
    sha = hashlib.sha256(json.dumps([concept.words, concept.class_words]).encode())
    for name, rows in sorted(concept.rows.items()):
        _feed(sha, name, rows)
    for path, pair in sorted(concept.low_rank.items()):
        _feed(sha, f"{path} {pair.alpha}", pair.down, pair.up)
    return sha.hexdigest()


def suite_digest(suite: Suite) -> str:
    """A name for all photos, captions and prompts of a suite's tasks."""
    sha = hashlib.sha256()
    for task in suite.tasks:
        about = [task.kind, task.words, task.class_words, task.prompts]
        sha.update(json.dumps([*about, [photo.caption for photo in task.photos]]).encode())
        for photo in task.photos:
            sha.update(photo.image.tobytes())
    return sha.hexdigest()[:16]


def encoder_digest(encoder: Any) -> str:
    """A name for an encoder's weights; nothing for one that is no module inside."""
    model = getattr(encoder, "model", None)
    if model is None:
        return ""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        _feed(sha, name, tensor)
    return sha.hexdigest()[:16]


def _feed(sha: Any, name: str, *tensors: Tensor) -> None:
    sha.update(name.encode())
    for tensor in tensors:
        sha.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).tobytes())


def by_prompt(table: Table) -> list[float]:
    """Mean over the pictures of each prompt."""
    return [sum(row) / len(row) for row in table]


def intervals(held: Sequence[Scores], tasks: Sequence[SuiteTask]) -> dict[str, dict[str, float]]:
    """IA and TA as means over tasks with their intervals; tasks with the same prompts share draws.

    Args:
        held: Of each task's pictures.
        tasks: In the same order.
    """
    categories = [task.prompts for task in tasks]
    return {
        m: bootstrap([by_prompt(getattr(each, m)) for each in held], categories).to_dict()
        for m in ("ia", "ta")
    }
