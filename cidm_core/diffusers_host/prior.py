"""Prior pictures that the base model draws itself, kept and used again.

Custom Diffusion (Kumari et al. 2023, https://arxiv.org/abs/2212.04488): 200 of "photo of a {class}"
by 50 steps of DDIM with eta 1 and guidance 6. Picture n has the seed of its number and is drawn
among the same neighbours every time, so a set that was interrupted becomes the same set.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .. import __version__
from ..config import KINDS, SampleConfig
from ..errors import PhotoError
from ..paths import user_path
from ..pictures.files import save_picture
from ..storage.atomic import make_folder, write_atomic
from ..storage.names import file_stem
from ..training.caption_files import clean
from ..training.data import Photo
from ..training.loop import Stopped
from ..training.prior_folders import prior_photos
from ..training.progress import OnProgress, Pace, Progress
from .base import Base
from .pipeline import generate
from .start import picture_px

PRIORS = ".prior"  # in a bank
COUNT = 200
SAMPLING: Mapping[str, object] = {
    "scheduler": "ddim",
    "eta": 1.0,
    "steps": 50,
    "guidance_scale": 6.0,
}
_PROMPTS = {"object": "photo of a {}", "human": "photo of a {}", "style": "a {}"}
_AT_ONCE = 4
_FACTS = ".prior.json"  # hidden: a reader of the folder looks for captions in other .json files
_CAPTIONS = "captions.txt"
# They change how long drawing takes, and not what is drawn.
_COSMETIC = ("num_images", "rows_at_once", "execution", "allow_other_base")


def class_prompt(class_words: str, kind: str) -> str:
    """What the base model is asked for: "photo of a dog", for styles "a ink painting"."""
    return _PROMPTS[kind].format(class_words)


def draw_prior(
    base: Base,
    folder: str | os.PathLike[str],
    class_words: str,
    kind: str = "object",
    *,
    count: int = COUNT,
    prompt: str | None = None,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
    **sampling: object,
) -> list[Photo]:
    """Prior pictures of a class by the base model alone; what was drawn before is not drawn again.

    Args:
        base: The model.
        folder: Where sets of prior pictures are kept, `<bank>/.prior`. Each model, prompt and
            settings have a folder of their own in it, which nothing overwrites.
        class_words: What is to be drawn: "dog".
        kind: "object", "style" or "human"; chooses the prompt.
        count: Pictures. A set may grow; of a larger one the first are taken.
        prompt: Instead of "photo of a {class words}", for styles "a {class words}". It is the
            caption, too.
        on_progress: Hears of the pictures, phase "drawing".
        should_stop: Asked in every step; True ends the work with `Stopped`.
        sampling: Settings of `SampleConfig` instead of `SAMPLING` and the family's.

    Raises:
        PhotoError: If the class words or the count cannot be used, or the set's folder holds
            something else.
        HostError: If the model cannot draw so.
        Stopped: If `should_stop` said so; the pictures drawn so far are kept.
    """
    class_words = clean(class_words, "Class words")
    if not class_words or count < 1 or kind not in KINDS:
        raise PhotoError(
            f"{count} prior pictures of the {kind} {class_words!r} cannot be drawn. Give class "
            f"words, a count of 1 or more, and a kind of {', '.join(KINDS)}."
        )
    text = clean(prompt or class_prompt(class_words, kind), "The prompt of prior pictures")
    config = SampleConfig.for_family(base.family.sampling, **{**SAMPLING, **sampling})
    width, height = picture_px(base, config)
    config = replace(config, width_px=width, height_px=height)
    prior = _Prior(base, user_path(folder), class_words, text, config)
    prior.claim()
    prior.draw(count, on_progress, should_stop)
    return prior_photos(prior.folder, class_words, kind)[:count]


@dataclass(frozen=True)
class _Prior:
    """A set of pictures that one model draws of one prompt with one choice of settings."""

    base: Base
    root: Path
    class_words: str
    prompt: str
    config: SampleConfig

    @property
    def facts(self) -> dict[str, object]:
        """What decides the pictures."""
        settings = self.config.to_dict()
        return {
            "prompt": self.prompt,
            "fingerprint": self.base.fingerprint,
            "prediction_type": self.base.prediction_type,
            # Both hosts say it in their own words, and then draw other pictures.
            "schedule": _digest(self.base.scheduler_config),
            "settings": {key: settings[key] for key in settings if key not in _COSMETIC},
        }

    @property
    def folder(self) -> Path:
        return self.root / f"{file_stem(self.class_words)}-{_digest(self.facts)}"

    def path(self, number: int) -> Path:
        """File of a picture, counted from 0."""
        return self.folder / f"{number + 1:04}.png"

    def claim(self) -> None:
        """Write down what the folder is for, or make sure that it is for this.

        Raises:
            PhotoError: If it is for something else.
        """
        make_folder(self.folder, error=PhotoError)
        path = self.folder / _FACTS
        if not path.exists():
            about = {"model": self.base.name, "version": __version__, **self.facts}
            write_atomic(path, json.dumps(about, indent=2).encode(), error=PhotoError)
            return
        try:
            found = json.loads(path.read_text("utf-8"))
            fits = all(found.get(key) == value for key, value in self.facts.items())
        except (OSError, ValueError, AttributeError):
            fits = False
        if not fits:
            raise PhotoError(
                f"'{path}' does not say that the pictures beside it are of {self.prompt!r} by "
                f"{self.base.name}. Move that folder away, and they are drawn anew."
            )

    def draw(
        self, count: int, on_progress: OnProgress | None, should_stop: Callable[[], bool] | None
    ) -> None:
        """Draw the pictures that are missing, and write the captions."""
        pace = Pace()

        def tell(speed: float = 0.0) -> None:
            done = sum(self.path(number).exists() for number in range(count))
            left = (count - done) / speed if speed else math.nan
            if on_progress is not None:
                on_progress(Progress(done, count, remaining_seconds=left, phase="drawing"))

        def check(*_: object) -> None:
            if should_stop is not None and should_stop():
                raise Stopped(self._stopped)

        tell()
        for first in range(0, count, _AT_ONCE):
            # A part of them would have other neighbours, whose number can change the last bit.
            numbers = range(first, first + _AT_ONCE)
            missing = [n for n in numbers if n < count and not self.path(n).exists()]
            if not missing:
                continue
            self._draw(first, missing, check)
            tell(pace.tick() * _AT_ONCE)
        self._caption()

    def _draw(self, first: int, missing: list[int], check: Callable[..., None]) -> None:
        start = replace(self.config.alone(first), num_images=_AT_ONCE)
        try:
            pictures = generate(self.base, {}, self.prompt, config=start, on_step=check)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(self._stopped) from error
        for number in missing:
            alone = self.config.alone(number)
            facts = {"prompt": self.prompt, "model": self.base.name, "seed": alone.seed}
            facts |= {"settings": alone.to_dict(), "version": __version__}
            save_picture(pictures[number - first], self.path(number), facts)

    @property
    def _stopped(self) -> str:
        return (
            f"Stopped while prior pictures were drawn, which are kept in '{self.folder}'; the same "
            "call goes on with the next. Nothing was learned yet."
        )

    def _caption(self) -> None:
        """One file for all pictures that are there, also those beyond the count."""
        names = sorted(path.name for path in self.folder.glob("[0-9]*.png"))
        path = self.folder / _CAPTIONS
        # A run that was stopped may have drawn pictures and written nothing of them.
        held = path.read_bytes() if path.exists() else b""
        if any(name.encode() not in held for name in names):
            text = "".join(f"{name}: {self.prompt}\n" for name in names)
            write_atomic(path, text.encode(), error=PhotoError)


def _digest(value: object) -> str:
    """A short name for plain values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
