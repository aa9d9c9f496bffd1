"""What `cidm train` is asked for: flags before the preset, the preset before the options file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CidmError
from ..training.presets import presets_of
from .flags import given

if TYPE_CHECKING:
    from ..training.data import TrainingSubject


def read_request(args: argparse.Namespace) -> argparse.Namespace:
    """The command line, and where it is silent its options file.

    Adds `settings` (those of flags go first, then the preset's), `of_options` (those of the options
    file alone), `mapping` and `notes`.

    Raises:
        CidmError: If something needed is given by neither.
    """
    from ..methods import method_called

    flags = {key: value for key, value in vars(args).items() if value is not None}
    found: dict[str, Any] = {"words": "", "kind": "object", "prior": None, "mapping": None}
    found |= {"settings": {}, "notes": (), "subjects": None}
    if args.options:
        file = options_of(args)
        found |= {"photos": file.photos_dir, "words": " ".join(file.words), "kind": file.kind}
        found |= {"class_words": file.class_words, "name": file.name, "notes": file.notes}
        found |= {"captions": file.captions_dir, "masks": file.masks_dir}
        found["settings"] = file.settings
        # Replacements name the file's words: other words on the command line end them.
        found["mapping"] = file.mapping or None if "words" not in flags else None
    found = {**vars(args), **found, **flags}
    with_words = method_called(args.method).words == "needed"
    if found["subjects"] and not found["photos"]:
        _refuse_lost(flags)
        return _with_settings(found, args)
    for key in ("photos", *(("words",) if with_words else ()), "class_words"):
        if not found[key]:
            raise CidmError(f"--{key.replace('_', '-')} is missing. Give it, or an --options file.")
    return _with_settings(found, args)


def options_of(args: argparse.Namespace) -> Any:
    """What the options file says; without one nothing but no settings.

    Raises:
        CidmError: If it cannot be read.
    """
    if not args.options:
        return argparse.Namespace(settings={})
    from ..importers.cifc_options import read_options

    return read_options(args.options, processes=int(os.environ.get("WORLD_SIZE", "1")))


def _refuse_lost(flags: Mapping[str, Any]) -> None:
    """Make sure that nothing is said of photos that are not given."""
    for key in ("words", "class_words", "kind", "captions", "masks", "prior"):
        if key in flags:
            raise CidmError(
                f"--{key.replace('_', '-')} is about --photos, which are not given. Write it into "
                f"the subject's row of '{flags['subjects']}', or give --photos of one more subject."
            )


def _with_settings(found: dict[str, Any], args: argparse.Namespace) -> argparse.Namespace:
    from ..methods import method_called

    preset = presets_of(method_called(args.method).Config)[args.preset] if args.preset else {}
    found["of_options"] = found["settings"]
    found["settings"] = {**found["settings"], **preset, **given(args)}
    return argparse.Namespace(**found)


def subjects_of(request: argparse.Namespace) -> list[TrainingSubject]:
    """What is to be learned, with its photos."""
    from ..importers.subjects_file import read_subjects
    from ..training.data import Photo, TrainingSubject
    from ..training.prior_folders import prior_photos

    held: list[TrainingSubject] = []
    if request.photos:
        photos = Photo.from_folder(request.photos, request.captions, request.masks)
        prior: list[Photo] = []
        if request.prior:
            prior = prior_photos(request.prior, request.class_words, request.kind)
        called = request.words, request.class_words, request.kind, request.mapping
        held.append(TrainingSubject(photos, *called, prior))
    return held + (read_subjects(Path(request.subjects)) if request.subjects else [])
