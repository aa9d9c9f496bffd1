"""The flags of `cidm train` about concept masks: given, made by CLIPSeg, shown before learning."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import Console

if TYPE_CHECKING:
    from ..training.data import TrainingSubject


def add_segments(group: Any) -> None:
    """--segment and --show-masks."""
    group.add_argument(
        "--segment",
        metavar="PATH",
        help="A CLIPSeg model, folder or cached name, that makes soft masks of the photos which "
        "have none, from the class words; they are kept in BANK/.masks.",
    )
    group.add_argument(
        "--show-masks",
        metavar="FILE",
        help="Picture of the photos with their masks, written before learning starts.",
    )


def masked(
    subjects: Sequence[TrainingSubject], args: argparse.Namespace, console: Console
) -> list[TrainingSubject]:
    """The subjects with the masks that were asked for, which are shown where that was asked for.

    Raises:
        CidmError: If no masks can be made, or the sheet not be written.
    """
    from ..pictures.files import picture_path

    sheet = picture_path(args.show_masks) if args.show_masks else None
    found = _segmented(subjects, args, console) if args.segment else list(subjects)
    if sheet is not None:
        _show(found, sheet, console)
    return found


def _segmented(
    subjects: Sequence[TrainingSubject], args: argparse.Namespace, console: Console
) -> list[TrainingSubject]:
    from ..diffusers_host.segmentation import MASKS, load_segmenter, with_segments
    from ..paths import user_path
    from .progress_bar import ProgressBar

    segmenter = load_segmenter(args.segment, args.device)
    folder = user_path(args.bank) / MASKS
    with ProgressBar(enabled=console.shows_progress) as bar:

        def tell(done: int, total: int) -> None:
            bar.update(done, total, verb="Masking")

        return [
            replace(s, photos=with_segments(s.photos, s.class_words, segmenter, folder, tell))
            for s in subjects
        ]


def _show(subjects: Sequence[TrainingSubject], path: Path, console: Console) -> None:
    from ..pictures.files import save_picture
    from ..pictures.masks import MaskedPhoto, masks_picture

    photos = [photo.loaded() for subject in subjects for photo in subject.photos]
    rows = [
        MaskedPhoto(each.path.name if each.path else "", each.image, each.mask_values)
        for each in photos
    ]
    title = " and ".join(subject.class_words for subject in subjects)
    save_picture(masks_picture(rows, f"Masks of {title}"), path)
    console.note(f"The masks are shown in {path}.")
