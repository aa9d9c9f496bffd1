"""Composites on disk: an image folder that is made once and used again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from PIL import Image

from ...composite_options import CompositeOptions
from ...errors import PhotoError
from ...paths import user_path
from ...pictures.files import save_picture
from ...storage.atomic import make_folder, sweep, write_atomic
from ...storage.names import file_stem, name_of_subjects
from ..data import TrainingSubject
from .common import fitting
from .cutouts import CutOut, check_masks, cut_outs
from .scenes import Scene, all_scenes, painted, phrases_of

logger = logging.getLogger(__name__)

COMPOSITES = ".composites"  # in a bank
METADATA = "metadata.jsonl"
_MADE_BY = 1  # goes up where the same inputs come to give other pictures


@dataclass(frozen=True)
class Composite:
    """A picture of one or two things, and its caption.

    Attributes:
        path: A square picture; of "single" a photo, in its own shape.
        text: "a photo of <x1> <x2> on the left and chef on the right"; of "single" the words.
        kind: "single", "global", "region" or "meeting" (`scenes.KINDS`).
        subjects: Numbers of the subjects on it, left to right.
        held_out: Whether it is kept for retrieval, and learning may not see it.
    """

    path: Path
    text: str
    kind: str
    subjects: tuple[int, ...]
    held_out: bool

    @property
    def row(self) -> dict[str, object]:
        """Its line in the folder's metadata."""
        own = {"kind": self.kind, "subjects": list(self.subjects), "held_out": self.held_out}
        return {"file_name": self.path.name, "text": self.text, **own}


def composites(
    subjects: Sequence[TrainingSubject],
    common: Sequence[CutOut],
    options: CompositeOptions,
    folder: str | os.PathLike[str],
    on_picture: Callable[[int, int], None] | None = None,
) -> list[Composite]:
    """The composites of subjects that are learned together; what was made before is kept.

    Whatever decides them (photos, masks, words, common things, options) has a folder of its own,
    with pictures and `metadata.jsonl` as image folders have them. A call after an interruption, or
    a raise in `on_picture`, goes on with the next picture, to the same bits.

    Args:
        subjects: At least one; their photos have masks.
        common: Common things; those that class words name are left out.
        options: What is made of them.
        folder: Where sets of composites are kept, `<bank>/.composites`.
        on_picture: Hears how many of how many are done.

    Raises:
        PhotoError: If a photo has no mask, common things are missing, or nothing is asked for.
    """
    check(subjects, options)
    things = beside(common, subjects, options)
    cut = _cut(subjects, options)
    scenes = all_scenes(subjects, cut, things, options)
    if not scenes:
        raise PhotoError("Nothing can be composed of these subjects as the counts are. Raise one.")
    root = make_folder(user_path(folder), error=PhotoError)
    stem = file_stem(name_of_subjects([each.subject for each in subjects]))
    target = root / f"{stem}-{_digest(subjects, scenes, options)[:12]}"
    sweep(make_folder(target, error=PhotoError))
    found = [_composite(scene, target) for scene in scenes]
    for number, (scene, each) in enumerate(zip(scenes, found, strict=True), start=1):
        if not each.path.exists():
            save_picture(painted(scene, options.side_px), each.path)
        if on_picture is not None:
            on_picture(number, len(scenes))
    _describe(target, found)
    return found


def check(subjects: Sequence[TrainingSubject], options: CompositeOptions) -> None:
    """Whether composites can be made of subjects, as far as it is told without opening a photo.

    Raises:
        PhotoError: If a photo has no mask, two subjects are called the same, or nothing is asked
            for.
    """
    if not subjects or not all(each.photos for each in subjects):
        raise PhotoError("Composites need subjects, and photos of each. Give them.")
    asked = [kind for kind, count in options.counts().items() if count]
    if not asked:
        raise PhotoError("Composites of no kind are asked for. Raise one of the counts above 0.")
    if "meeting" in asked and len(subjects) == 1:
        if not options.beside_common:
            raise PhotoError(
                "Composites of two subjects are all that is asked for, and there is one subject. "
                "Give another, or ask for other kinds (global_pairs, region_pairs)."
            )
        logger.info("There is one subject, so there are no composites of two.")
    phrases_of(subjects)
    if _are_cut(subjects, options):
        check_masks(subjects)


def beside(
    common: Sequence[CutOut], subjects: Sequence[TrainingSubject], options: CompositeOptions
) -> list[CutOut]:
    """The common things that can stand beside the subjects.

    Raises:
        PhotoError: If none can, and some are to.
    """
    things = fitting(common, subjects)
    if not things and options.beside_common:
        raise PhotoError(
            "Composites need common things that stand beside the subjects, and there are none "
            "left: all are called as the subjects are. Give others."
            if common
            else "Composites need common things that stand beside the subjects. Give a folder of "
            "cut-outs such as chef.png, or ask for none (global_pairs 0, region_pairs 0)."
        )
    return things


def _are_cut(subjects: Sequence[TrainingSubject], options: CompositeOptions) -> bool:
    """Whether anything is composed of cut-outs, and not photos alone."""
    return options.beside_common or (options.meeting_pairs > 0 and len(subjects) > 1)


def _cut(subjects: Sequence[TrainingSubject], options: CompositeOptions) -> list[CutOut]:
    """Cut-outs of all subjects, if anything is to be composed of them."""
    if not _are_cut(subjects, options):
        return []
    return [each for number, subject in enumerate(subjects) for each in cut_outs(subject, number)]


def _composite(scene: Scene, target: Path) -> Composite:
    path = target / f"{scene.name}.png"
    return Composite(path, scene.text, scene.kind, scene.subjects, scene.held_out)


def _describe(target: Path, found: Sequence[Composite]) -> None:
    """Write the metadata last: a folder that has it is complete."""
    path = target / METADATA
    data = "".join(json.dumps(each.row) + "\n" for each in found).encode()
    if not path.exists() or path.read_bytes() != data:
        write_atomic(path, data, error=PhotoError)


def _digest(
    subjects: Sequence[TrainingSubject], scenes: Sequence[Scene], options: CompositeOptions
) -> str:
    """A name for all that decides the pictures and what is said of them."""
    chosen = asdict(options)
    facts: Mapping[str, object] = {
        "made by": _MADE_BY,
        "options": {each.name: chosen[each.name] for each in fields(CompositeOptions)},
        "phrases": phrases_of(subjects),
        "scenes": [(s.name, s.text, s.places, s.held_out) for s in scenes],
    }
    digest = hashlib.sha256(json.dumps(facts).encode())
    once: dict[int, Image.Image] = {id(t): t for scene in scenes for t in scene.things}
    for thing in once.values():
        digest.update(f"{thing.mode}{thing.size}".encode())
        digest.update(thing.tobytes())
    return digest.hexdigest()
