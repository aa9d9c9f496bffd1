"""What `cidm evaluate` and `cidm benchmark` share: photos, prompts and kept pictures by concept."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BankError, CidmError

if TYPE_CHECKING:
    from PIL import Image

    from ..bank import Bank
    from ..evaluation.evaluate import Keep, Prompts
    from ..training.data import Photo


def add_inputs(parser: argparse.ArgumentParser) -> Any:
    """--bank, --prompts, --photos, --keep, --clip; returns their group."""
    what = parser.add_argument_group("what")
    what.add_argument("--bank", required=True, metavar="DIR", help="Folder of concepts.")
    what.add_argument(
        "--photos",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="Reference photos of a concept; repeatable. Without NAME: a folder with one folder "
        "per concept.",
    )
    what.add_argument(
        "--prompts",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="Prompts, one per line, with <TOK> or {} where the concept goes; repeatable. NAME is "
        "a concept or a kind. Default: four simple ones.",
    )
    what.add_argument("--keep", metavar="DIR", help="Save all pictures there.")
    return what


def open_bank(path: str) -> Bank:
    """The bank, which must be there.

    Raises:
        BankError: If it is not.
    """
    from ..bank import Bank

    bank = Bank(path)
    if not len(bank):
        raise BankError(f"Bank '{bank.path}' holds no concept. Train one with `cidm train` first.")
    return bank


def read_photos(given: Sequence[str], bank: Bank) -> dict[str, list[Photo]]:
    """Reference photos by concept name.

    Raises:
        CidmError: If a folder is missing or fits no concept.
    """
    from ..training.data import Photo

    folders: dict[str, Path] = {}
    for text in given:
        name, _, folder = text.rpartition("=")
        if name:
            folders[name] = Path(folder)
            continue
        inside = {name: Path(folder) / name for name in bank}
        found = {name: path for name, path in inside.items() if path.is_dir()}
        if not found:
            raise CidmError(
                f"'{folder}' has no folder named as a concept ({', '.join(bank)}). "
                "Name the concept: --photos NAME=DIR."
            )
        folders |= found
    return {name: Photo.from_folder(path) for name, path in folders.items()}


def read_prompt_files(given: Sequence[str]) -> Prompts | None:
    """Prompts for all concepts, or by concept name or kind.

    Raises:
        CidmError: If files with and without a name are mixed, or one cannot be read.
    """
    from ..evaluation.prompts import read_prompts

    pairs = [text.rpartition("=") for text in given]
    if not pairs:
        return None
    if len({bool(name) for name, _, _ in pairs}) > 1:
        raise CidmError("Give every --prompts file a name (NAME=FILE), or none of them.")
    if pairs[0][0]:
        return {name: read_prompts(Path(file)) for name, _, file in pairs}
    return [prompt for _, _, file in pairs for prompt in read_prompts(Path(file))]


def keeper(folder: str | None) -> Keep | None:
    """Saves pictures as FOLDER/concept/0001 prompt.png."""
    if folder is None:
        return None
    from ..pictures.files import make_folder, save_picture
    from ..storage.names import file_stem

    root = make_folder(Path(folder).expanduser())
    counts: dict[str, int] = {}

    def keep(name: str, prompt: str, pictures: Sequence[Image.Image]) -> None:
        target = make_folder(root / file_stem(name))
        for picture in pictures:
            counts[name] = counts.get(name, 0) + 1
            words = re.sub(r"[^\w]+", "_", prompt).strip("_")[:60]
            path = target / f"{counts[name]:04}_{words}.png"
            save_picture(picture, path, {"prompt": prompt})

    return keep
