"""The benchmark on real photos: a folder in the layout of the public CIFC data.

    images/dog/01.jpg …             one folder of photos per concept
    captions/dog/01.txt …           captions, same-named; or beside the photos
    evaluation_prompts/test_pet.txt, test_plushy.txt, test_style.txt
    negative_prompt.txt             optional
    tasks.yaml (or tasks.json)      optional: what cannot be guessed, see `tasks_file`
    scenes.json                     optional: the scenes of the paper's figures, see `scenes_file`

Without a tasks file the concepts keep the paper's order, class words are found in the captions,
and a concept is a style if its captions say "<class words> of".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cidm_core.errors import CidmError
from cidm_core.evaluation.prompts import read_prompts
from cidm_core.training.data import Photo

from .scenes_file import read_scenes
from .suite import Suite, SuiteTask
from .tasks_file import TaskEntry, TasksFile, read_tasks_file

PAPER_ORDER = (
    *("dog", "duck_toy", "cat", "backpack", "teddybear"),
    *("painting", "dog2", "drawing", "cat2", "ink_painting"),
)
PETS = ("dog", "puppy", "cat", "kitten", "rabbit", "hamster", "bird", "parrot", "horse", "pet")
# File names to look for, by what the concept is; the first that is there is read.
PROMPT_FILES: Mapping[str, tuple[str, ...]] = {
    "pet": ("test_pet.txt", "test_object.txt", "test_plushy.txt"),
    "object": ("test_plushy.txt", "test_object.txt", "test_pet.txt"),
    "human": ("test_human.txt", "test_object.txt"),
    "style": ("test_style.txt",),
}


def folder_suite(path: Path) -> Suite:
    """Read a folder of photos, captions and prompts.

    Args:
        path: The folder; its layout is described above.

    Raises:
        CidmError: If a part of it is missing or unusable; the message names it.
    """
    images = path / "images"
    if not images.is_dir():
        raise CidmError(
            f"'{path}' holds no folder 'images'. The benchmark needs images/CONCEPT/*.jpg, "
            "captions/CONCEPT/*.txt and evaluation_prompts/test_*.txt there."
        )
    settings = read_tasks_file(path)
    entries = settings.entries or tuple(TaskEntry(name) for name in _folders(images))
    if not entries:
        raise CidmError(f"'{images}' holds no folder. Put each concept's photos into one.")
    tasks = tuple(_task(path, entry) for entry in entries)
    by_folder = {entry.folder: task for entry, task in zip(entries, tasks, strict=True)}
    return Suite(
        path.resolve().name,
        tasks,
        settings.orders([entry.folder for entry in entries]),
        (*settings.scenes(tasks), *read_scenes(path, by_folder)),
        _negative_prompt(path, settings),
    )


def _folders(images: Path) -> list[str]:
    """Names of the concepts' folders: those of the paper in its order, then the others."""
    found = [f.name for f in images.iterdir() if f.is_dir() and not f.name.startswith(".")]
    known = {name: place for place, name in enumerate(PAPER_ORDER)}
    return sorted(found, key=lambda name: (known.get(name, len(known)), name))


def _task(path: Path, entry: TaskEntry) -> SuiteTask:
    photos = _photos(path, entry)
    captions = [photo.caption for photo in photos]
    class_words = entry.class_words or guess_class_words(entry.folder, captions)
    if not any(captions):  # nobody wrote one, so the folder's name has to do
        class_words = " ".join(re.sub(r"[\W_]+|\d+$", " ", entry.folder).split())
        photos = tuple(replace(photo, caption=class_words) for photo in photos)
    if not class_words:
        raise CidmError(
            f"The captions of '{entry.folder}' do not name what it is: '{captions[0][:60]}'. "
            f"Write tasks.yaml in '{path}' with class_words for it, such as 'dog'."
        )
    kind = entry.kind or ("style" if _says_style(class_words, captions) else "object")
    words = entry.words or _words(entry.folder)
    prompts = read_prompts(_prompt_file(path, entry, kind, class_words))
    return SuiteTask(entry.name or entry.folder, kind, words, class_words, photos, tuple(prompts))


def _photos(path: Path, entry: TaskEntry) -> tuple[Photo, ...]:
    captions = path / "captions" / entry.folder
    folder = path / "images" / entry.folder
    if not folder.is_dir():
        raise CidmError(f"The tasks file asks for '{entry.folder}'; there is no folder '{folder}'.")
    given = captions if captions.is_dir() else None
    return tuple(Photo.from_folder(folder, given, class_words=entry.class_words))


def guess_class_words(folder: str, captions: Sequence[str]) -> str:
    """The words of the captions that spell the folder's name: "teddy bear" for "teddybear".

    A number at the end of the name does not count ("dog2"). Empty if no caption has them.
    """
    letters = re.sub(r"[\W_]+|\d+$", "", folder)
    if not letters:
        return ""
    pattern = re.compile(r"\b" + r"[\s_-]*".join(map(re.escape, letters)) + r"\b", re.IGNORECASE)
    found = [match.group().lower() for text in captions if (match := pattern.search(text))]
    return max(sorted(set(found)), key=found.count) if found else ""


def _says_style(class_words: str, captions: Sequence[str]) -> bool:
    said = [f"{class_words} of ".lower() in f"{text} ".lower() for text in captions]
    return sum(said) * 2 > len(said)


def _words(folder: str) -> str:
    stem = re.sub(r"\W+", "_", folder).strip("_").lower() or "concept"
    return f"<{stem}1> <{stem}2>"


def _prompt_file(path: Path, entry: TaskEntry, kind: str, class_words: str) -> Path:
    """The file of its evaluation prompts: its own, else that of its sort."""
    folder = path / "evaluation_prompts"
    if entry.prompts:
        names: tuple[str, ...] = (entry.prompts, f"test_{entry.prompts}.txt")
    else:
        pet = kind == "object" and class_words.lower().split()[-1] in PETS
        names = (f"test_{entry.folder}.txt", *PROMPT_FILES["pet" if pet else kind])
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CidmError(
        f"There are no prompts for '{entry.folder}': '{folder}' holds none of {', '.join(names)}. "
        "Put one there, one prompt per line with <TOK> for the concept."
    )


def _negative_prompt(path: Path, settings: TasksFile) -> str:
    file = path / "negative_prompt.txt"
    if settings.negative_prompt is not None or not file.is_file():
        return settings.negative_prompt or ""
    return " ".join(read_prompts(file))
