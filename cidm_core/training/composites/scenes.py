"""What is on each composite, and where: the augmentations G, R and M of CLIF.

Lin et al. 2024 (https://arxiv.org/abs/2405.06914), method figure: a subject beside a common thing
(G, here "global"), a part of a subject beside a common thing (R, "region"), two subjects (M,
"meeting"). Beside these, photos as they are under the words alone ("single"). Sizes, counts and
chances are ours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import torch
from PIL import Image

from ...composite_options import CompositeOptions
from ...errors import PhotoError
from ...ops.seeds import generator
from ...words import canonical
from ..data import TrainingSubject
from .captions import side_caption
from .cutouts import CutOut

logger = logging.getLogger(__name__)

KINDS = ("single", "global", "region", "meeting")
LOWEST, HIGHEST = 0.30, 0.65  # of the canvas
_SWAPPED = 0.5
_HELD_OUT = 10  # every tenth

Box = tuple[int, int, int, int]
"""x, y, width and height in pixels."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A composite before it is drawn.

    Attributes:
        name: Of its file, without the ending.
        kind: One of `KINDS`.
        text: Its caption.
        subjects: Numbers of the subjects on it, left to right.
        things: RGBA cut-outs, left and right; of "single" the one photo.
        places: Where the cut-outs stand.
        held_out: Whether learning may not see it.
    """

    name: str
    kind: str
    text: str
    subjects: tuple[int, ...]
    things: tuple[Image.Image, ...]
    places: tuple[Box, ...] = ()
    held_out: bool = False


def phrases_of(subjects: Sequence[TrainingSubject]) -> list[str]:
    """What captions call each subject.

    Raises:
        PhotoError: If two are called the same.
    """
    phrases = [canonical(each.subject.phrase) for each in subjects]
    if twice := [phrase for phrase in phrases if phrases.count(phrase) > 1]:
        raise PhotoError(
            f"Two subjects are called {twice[0]!r}, and composites tell them apart by their words. "
            "Give each words of its own."
        )
    return phrases


def all_scenes(
    subjects: Sequence[TrainingSubject],
    cut: Sequence[CutOut],
    common: Sequence[CutOut],
    options: CompositeOptions,
) -> list[Scene]:
    """Every composite that the options ask for, kind by kind.

    Args:
        subjects: Those of the composites.
        cut: Cut-outs of all subjects.
        common: Common things; may be none if nothing is to stand beside one.
        options: Counts, side and seed.
    """
    draws = _Draws(phrases_of(subjects), cut, common, options)
    kinds: dict[str, Callable[[], Iterator[Scene]]] = {
        "single": lambda: _singles(subjects, draws.phrases, options.side_px),
        "global": lambda: draws.beside_common("global", parts=False),
        "region": lambda: draws.beside_common("region", parts=True),
        "meeting": draws.meetings,
    }
    found: list[Scene] = []
    for kind, count in options.counts().items():
        each = kinds[kind]() if count else iter(())
        found += [replace(scene, held_out=is_held_out(number)) for number, scene in enumerate(each)]
    return found


def is_held_out(number: int) -> bool:
    """Whether the n-th composite of its kind, from 0, is kept for retrieval: every tenth."""
    return number % _HELD_OUT == _HELD_OUT - 1


def painted(scene: Scene, side_px: int) -> Image.Image:
    """The composite, white around its things; of a single photo the photo."""
    if not scene.places:
        return scene.things[0]
    canvas = Image.new("RGB", (side_px, side_px), "white")
    for thing, (x, y, width, height) in zip(scene.things, scene.places, strict=True):
        scaled = thing.resize((width, height), Image.Resampling.LANCZOS)
        canvas.paste(scaled, (x, y), scaled)
    return canvas


def _shrunk(photo: Image.Image, side_px: int) -> Image.Image:
    """The photo with its shorter side at `side_px`, or as it is if that is smaller."""
    scale = side_px / min(photo.size)
    if scale >= 1:
        return photo
    size = round(photo.width * scale), round(photo.height * scale)
    return photo.resize(size, Image.Resampling.LANCZOS)


def _singles(
    subjects: Sequence[TrainingSubject], phrases: Sequence[str], side_px: int
) -> Iterator[Scene]:
    for number, subject in enumerate(subjects):
        for index, photo in enumerate(subject.photos, start=1):
            name = f"single-{number + 1}-{index:04}"
            shown = _shrunk(photo.image, side_px)
            yield Scene(name, "single", phrases[number], (number,), (shown,))


@dataclass(frozen=True, eq=False)
class _Draws:
    """Draws of cut-outs and places; each composite has a generator of its own."""

    phrases: Sequence[str]
    cut: Sequence[CutOut]
    common: Sequence[CutOut]
    options: CompositeOptions

    def beside_common(self, kind: str, *, parts: bool) -> Iterator[Scene]:
        """A subject, or part of one, and a common thing, on either side by an even chance."""
        for number, phrase in enumerate(self.phrases):
            own = [each for each in self.cut if each.subject == number and bool(each.name) == parts]
            if not own:
                logger.warning(
                    "%s has no parts that could be cut out; there are no composites of them.",
                    phrase,
                )
                continue
            for index in range(1, self.options.counts()[kind] + 1):
                draw = generator(self.options.seed, "composites", kind, number, index)
                one, other = _one_of(own, draw), _one_of(self.common, draw)
                swapped = float(torch.rand((), generator=draw)) < _SWAPPED
                pair = (other, one) if swapped else (one, other)
                yield self._scene(f"{kind}-{number + 1}-{index:04}", kind, pair, draw)

    def meetings(self) -> Iterator[Scene]:
        """Two subjects; there are as many with the one on the left as with the other."""
        wholes = [
            [each for each in self.cut if each.subject == number and not each.name]
            for number in range(len(self.phrases))
        ]
        for left, right in permutations(range(len(wholes)), 2):
            for index in range(1, self.options.meeting_pairs + 1):
                draw = generator(self.options.seed, "composites", "meeting", left, right, index)
                pair = (_one_of(wholes[left], draw), _one_of(wholes[right], draw))
                name = f"meeting-{left + 1}-{right + 1}-{index:04}"
                yield self._scene(name, "meeting", pair, draw)

    def _scene(
        self, name: str, kind: str, pair: tuple[CutOut, CutOut], draw: torch.Generator
    ) -> Scene:
        side = self.options.side_px
        half = side // 2
        places = tuple(
            _place(thing.picture.size, left, half, side, draw)
            for thing, left in zip(pair, (0, side - half), strict=True)
        )
        text = side_caption(*(thing.called(self.phrases) for thing in pair))
        subjects = tuple(thing.subject for thing in pair if thing.subject is not None)
        return Scene(name, kind, text, subjects, tuple(thing.picture for thing in pair), places)


def _place(size: tuple[int, int], left: int, half: int, side: int, draw: torch.Generator) -> Box:
    """Anywhere in a half of the canvas, 30 to 65 % of it high; lower if it is too wide for that."""
    ratio = size[0] / size[1]
    highest = max(1, math.floor(min(HIGHEST * side, half / ratio)))
    lowest = min(math.ceil(LOWEST * side), highest)
    height = lowest + _below(highest - lowest + 1, draw)
    width = min(half, max(1, round(height * ratio)))
    x, y = _below(half - width + 1, draw), _below(side - height + 1, draw)
    return left + x, y, width, height


def _one_of(things: Sequence[CutOut], draw: torch.Generator) -> CutOut:
    return things[_below(len(things), draw)]


def _below(count: int, draw: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=draw))
