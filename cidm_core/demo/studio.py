"""One concept's way through the demo: photos, training, pictures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..bank import Bank
from ..config import SampleConfig, TrainConfig
from ..diffusers_host.base import Base
from ..diffusers_host.pipeline import generate
from ..diffusers_host.train import train_concept
from ..images import read_image
from ..methods import config_for
from ..mini.draw import draw
from ..mini.looks import Look, reference_scene
from ..pictures.files import save_picture
from ..regions import Region
from ..storage.atomic import make_folder, write_atomic
from ..training.data import Photo
from ..training.progress import Progress

_PHOTOS = 4
WORDS: Mapping[str, str] = {
    "purple-cat": "<pip1> <pip2>",
    "teal-cat": "<tia1> <tia2>",
    "harbour": "<harbour1> <harbour2>",
}
_THING_PROMPTS = (
    "a photo of a {}",
    "a {} on the left, red background",
    "a {} on grass",
    "a {} on the right, in the snow",
)
_STYLE_PROMPTS = ("a {} of a house", "a {} of a fish", "a {} of a flower", "a {} of a boat")
_PICTURES = 4  # of each concept, one per prompt
_PAIRS = 4  # pictures with two regions


@dataclass(frozen=True)
class DemoConcept:
    """One concept's way through the demo."""

    name: str
    words: str
    kind: str
    photos: list[Image.Image]
    after_own: list[Image.Image]
    seconds: float
    after_last: list[Image.Image] = field(default_factory=list[Image.Image])

    @property
    def change(self) -> float:
        """Largest pixel difference, 0..255, between the two columns of pictures."""
        pairs = zip(self.after_own, self.after_last, strict=True)
        gaps = [np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in pairs]
        return float(max(gaps, default=0))


@dataclass(frozen=True)
class Studio:
    """What every step of the demo needs."""

    base: Base
    bank: Bank
    folder: Path
    seed: int
    quick: bool

    @property
    def training(self) -> TrainConfig:
        few: dict[str, object] = {"steps": 6, "variants": 2, "save_every": 0} if self.quick else {}
        return config_for("cidm", self.base.family, **{"seed": self.seed, **few})

    def sampling(self, **given: object) -> SampleConfig:
        few: dict[str, object] = {"steps": 3} if self.quick else {}
        return SampleConfig.for_family(self.base.family.sampling, **few, **given)

    def learn(self, look: Look, on_progress: Callable[[Progress], None] | None) -> DemoConcept:
        """Draw the photos, train, and draw the concept with what is learned so far.

        What an interrupted demo has done already is kept.
        """
        name, kind = look.name, "style" if look.style is not None else "object"
        photos = Photo.from_folder(self._photograph(look))
        if name not in self.bank:
            train_concept(
                self.base,
                self.bank,
                photos,
                words=WORDS[name],
                class_words=look.kind,
                kind=kind,
                name=name,
                config=self.training,
                on_progress=on_progress,
            )
        seconds = self.bank[name].facts.get("seconds")
        return DemoConcept(
            name,
            WORDS[name],
            kind,
            [photo.image for photo in photos],
            self._after_own(name, kind),
            float(seconds) if isinstance(seconds, int | float) else 0.0,
        )

    def _after_own(self, name: str, kind: str) -> list[Image.Image]:
        """Pictures right after the concept's own training, from the disk if they are there."""
        folder = make_folder(self.folder / "pictures" / name)
        paths = [folder / f"after-own-training-{i}.png" for i in range(1, _PICTURES + 1)]
        if all(path.exists() for path in paths):
            return [read_image(path) for path in paths]
        pictures = self.draw(WORDS[name], kind)
        for picture, path in zip(pictures, paths, strict=True):
            save_picture(picture, path)
        return pictures

    def _photograph(self, look: Look) -> Path:
        """A folder of pictures and captions, as a user would bring one."""
        folder = make_folder(self.folder / "photos" / look.name)
        rng = random.Random(f"{self.seed} {look.name}")
        for number in range(1, _PHOTOS + 1):
            scene, caption = reference_scene(look, rng)
            save_picture(draw(scene), folder / f"{number:02}.png")
            write_atomic(folder / f"{number:02}.txt", caption.encode())
        return folder

    def draw(self, words: str, kind: str) -> list[Image.Image]:
        """One picture per prompt; the seed depends on the place in the list only."""
        prompts = _STYLE_PROMPTS if kind == "style" else _THING_PROMPTS
        pictures: list[Image.Image] = []
        for i, prompt in enumerate(prompts):
            config = self.sampling(seed=self.seed + 100 + i)
            pictures += generate(self.base, self.bank, prompt.format(words), config=config)
        return pictures

    def compose(self, prompt: str, regions: Sequence[Region]) -> list[Image.Image]:
        """Several pictures of the prompt with its regions."""
        config = self.sampling(seed=self.seed + 200, num_images=_PAIRS)
        return generate(self.base, self.bank, prompt, regions, config)

    def losses(self, name: str) -> list[dict[str, float]]:
        """The log of a concept's training."""
        log = self.bank.path / ".runs" / name / "log.jsonl"
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
