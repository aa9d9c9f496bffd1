"""Composites of a run: made in the bank, seen by CLIP; what they say of the words in the end."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..as_text import jsonable
from ..errors import PromptError, TrainingError
from ..methods.base import Method
from ..methods.contrast import WordContrast
from ..ops.contrast import cosines, mean_off_diagonal, retrieval
from ..pictures.distances import distances_picture
from ..pictures.files import save_picture
from ..storage.atomic import write_atomic
from ..training.composites.cutouts import CutOut
from ..training.composites.folder import COMPOSITES, Composite, composites
from ..training.contrast import EncodedComposites
from ..words import replace as replaced
from .contrast import ContrastClip, check_words, encode_composites
from .job import Job

logger = logging.getLogger(__name__)

_MOST_PX = 512  # CLIP looks at 224, or 336


@dataclass(frozen=True, eq=False)
class Contrast:
    """What words are contrasted by.

    Attributes:
        clip: From `contrast.load_contrast_clip`.
        common: Common things that stand beside the subjects on composites.
        composites: Composites made already, in place of new ones (`folder.read_composites`).
        on_made: Hears of the composites before anything is learned from them.
    """

    clip: ContrastClip
    common: Sequence[CutOut] = ()
    composites: Sequence[Composite] = ()
    on_made: Callable[[Sequence[Composite]], object] | None = None

    def facts(self) -> Mapping[str, object]:
        """What of it decides the result."""
        things = [(each.label, _digest(each.picture.tobytes())) for each in self.common]
        given = [
            (each.text, each.held_out, _digest(each.path.read_bytes())) for each in self.composites
        ]
        return {"clip": self.clip.name, "common": things, "composites": given}


def encoded(job: Job, contrast: Contrast, tell: Callable[[int, int], None]) -> EncodedComposites:
    """The run's composites as CLIP sees them.

    Args:
        job: What is learned.
        contrast: By what.
        tell: Hears how many pictures of how many are done: each is made, then seen.

    Raises:
        PhotoError: If none can be made of the photos.
        PromptError: If a caption is too long for its words to be read.
        TrainingError: If too few are left to learn from.
    """
    side = min(_MOST_PX, 2 * job.base.family.resolution_px)
    options = job.composites.composite_options(side)
    held = list(contrast.composites) or composites(
        job.lesson.subjects,
        contrast.common,
        options,
        job.bank.path / COMPOSITES,
        lambda done, total: tell(done, 2 * total),
    )
    if sum(not each.held_out for each in held) < 2:
        raise TrainingError(
            "A contrast needs two composites at least. Give more photos, or raise global_pairs."
        )
    words, captions = job.task.words, dict.fromkeys(each.text for each in held)
    for caption in captions:
        check_words(job.base, caption, words)
    if contrast.on_made is not None and job.processes.rank == 0:
        contrast.on_made(held)
    count = len(held)
    return encode_composites(contrast.clip, held, lambda done: tell(count + done, 2 * count))


@dataclass(frozen=True)
class ContrastReport:
    """What the contrast did to the words.

    Attributes:
        names: Of the subjects, then class words and earlier concepts.
        cosines: Of "a photo of NAME" as CLIP reads it, before and after, each (names, names).
        retrieval: Share of held-out composites whose caption CLIP finds among all captions, before
            and after; NaN without any.
        right_name: The same among the caption and those with any other name in it.
        taught: How many of the names were taught here.
    """

    names: tuple[str, ...]
    cosines: tuple[Tensor, Tensor]
    retrieval: tuple[float, float]
    right_name: tuple[float, float]
    taught: int

    @property
    def facts(self) -> dict[str, object]:
        """For the concept's file."""
        return {
            when: {
                "retrieval": self.retrieval[k],
                "right_name": self.right_name[k],
                "cosine": self._alike(self.cosines[k]),
            }
            for k, when in enumerate(("before", "after"))
        }

    def save(self, folder: Path) -> None:
        """`contrast.json` and `contrast.png` beside the loss."""
        before, after = (each.double().numpy() for each in self.cosines)
        held = {"names": self.names, "cosines": [before.tolist(), after.tolist()]}
        data = json.dumps(jsonable({**self.facts, **held}), indent=1)
        write_atomic(folder / "contrast.json", data.encode(), error=TrainingError)
        lines = [
            f"right caption {self.retrieval[k]:.0%}, right name {self.right_name[k]:.0%}"
            if math.isfinite(self.retrieval[k])
            else ""
            for k in range(2)
        ]
        picture = distances_picture(self.names, before, after, lines=lines)
        save_picture(picture, folder / "contrast.png")

    def _alike(self, square: Tensor) -> float:
        """Mean cosine of what was taught with everything else that was, or with all of one."""
        if self.taught > 1:
            return mean_off_diagonal(square[: self.taught, : self.taught])
        return float(square[0, 1:].mean()) if len(square) > 1 else torch.nan


def report(job: Job, contrast: WordContrast, seen: EncodedComposites) -> ContrastReport | None:
    """How well the words do on composites that they did not learn from; None before the end."""
    if contrast.after is None:
        return None
    own = [subject.phrase for subject in job.task.subjects]
    names = tuple(dict.fromkeys([*own, *contrast.names]))
    held_out = seen.part(held_out=True)
    choices = [named_otherwise(seen.captions[k], own, names) for k in held_out]
    every = list(dict.fromkeys([*seen.captions, *(text for each in choices for text in each)]))
    numbers = {text: k for k, text in enumerate(every)}
    right = torch.tensor([numbers[seen.captions[k]] for k in held_out], dtype=torch.long)
    captions = torch.zeros(len(every), dtype=torch.bool)
    captions[[numbers[text] for text in seen.captions]] = True
    own_choice = torch.zeros(len(held_out), len(every), dtype=torch.bool)
    for row, each in enumerate(choices):
        own_choice[row, [numbers[text] for text in each]] = True
    squares, found, called = list[Tensor](), list[float](), list[float]()
    for rows in (contrast.before, contrast.after):
        squares.append(cosines(contrast.features(rows, [f"a photo of {name}" for name in names])))
        images, texts = seen.images[held_out], contrast.features(rows, every)
        found.append(retrieval(images, texts, right, captions.expand(len(held_out), -1)))
        called.append(retrieval(images, texts, right, own_choice))
    pairs = (squares[0], squares[1]), (found[0], found[1]), (called[0], called[1])
    return ContrastReport(names, *pairs, len(own))


def named_otherwise(caption: str, own: Sequence[str], names: Sequence[str]) -> list[str]:
    """A caption, and the same with every other name in the place of one of its subjects'."""
    phrases = [phrase for phrase in own if phrase in caption]
    others = [replaced(caption, {one: other}) for one in phrases for other in names if other != one]
    return [caption, *others]


def contrast_facts(
    job: Job, method: Method, seen: EncodedComposites | None
) -> Mapping[str, object]:
    """What the contrast did to the words; its picture lies beside the loss."""
    words = getattr(method, "contrast", None)
    try:
        found = report(job, words, seen) if words is not None and seen is not None else None
    except PromptError as error:  # by a longer name a caption can grow too long
        logger.warning("How well the words were told apart is not measured. %s", error)
        found = None
    if found is None:
        return {}
    if job.folder.writes:
        found.save(job.folder.folder)
    return {"contrast": found.facts}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
