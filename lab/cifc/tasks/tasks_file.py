"""tasks.yaml or tasks.json: what a benchmark folder says about its concepts.

negative_prompt: blurry, low quality
tasks:                          # in learning order
  - folder: dog                 # under images/ and captions/
    name: V1-dog                # all the rest is optional
    words: <dog1> <dog2>
    class_words: dog
    kind: object                # object, human or style
    prompts: pet                # evaluation_prompts/test_pet.txt
orders:                         # default: as listed
  - [dog, cat, painting]
scenes:
  - prompt: a {dog} and a {cat} in a room       # {folder} stands for its words
    width_px: 1024
    height_px: 512
    parts:
      - {task: dog, prompt: "a {dog}, sitting", box: [0, 0.2, 0.5, 1]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cidm_core.errors import CidmError
from cidm_core.regions import Region

from .reading import box_of, content, only, pixels, text
from .suite import ScenePart, SuiteScene, SuiteTask

NAMES = ("tasks.yaml", "tasks.yml", "tasks.json")


@dataclass(frozen=True)
class TaskEntry:
    """What the file says about one concept; None: to be guessed."""

    folder: str
    name: str | None = None
    words: str | None = None
    class_words: str | None = None
    kind: str | None = None
    prompts: str | None = None


@dataclass(frozen=True)
class TasksFile:
    """The file's content; empty without a file."""

    where: str = ""
    negative_prompt: str | None = None
    entries: tuple[TaskEntry, ...] = ()
    asked_orders: tuple[Sequence[Any], ...] = ()
    asked_scenes: tuple[Mapping[str, Any], ...] = field(default=())

    def orders(self, folders: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Orders as indices into `folders`.

        Raises:
            CidmError: If an order names a folder that is none.
        """
        found: list[tuple[int, ...]] = []
        for order in self.asked_orders:
            if strangers := [name for name in order if name not in folders]:
                raise CidmError(
                    f"{self.where}: an order names {strangers[0]!r}; the folders are "
                    f"{', '.join(folders)}."
                )
            found.append(tuple(folders.index(name) for name in order))
        return tuple(found) or (tuple(range(len(folders))),)

    def scenes(self, tasks: Sequence[SuiteTask]) -> tuple[SuiteScene, ...]:
        """The scenes, with the concepts' words in place of `{folder}`.

        Raises:
            CidmError: If a scene lacks something or names a task that is none.
        """
        folders = [entry.folder for entry in self.entries]
        by_name = dict(zip(folders, tasks, strict=False)) | {task.name: task for task in tasks}
        return tuple(self._scene(scene, by_name) for scene in self.asked_scenes)

    def _scene(self, scene: Mapping[str, Any], tasks: Mapping[str, SuiteTask]) -> SuiteScene:
        only(self.where, "a scene", scene, ("prompt", "parts", "width_px", "height_px"))
        prompt = text(self.where, scene, "prompt", "a scene")
        parts = scene.get("parts")
        if not prompt or not isinstance(parts, list) or not parts:
            raise CidmError(f"{self.where}: a scene needs a prompt and a list of parts.")
        sizes = [pixels(self.where, scene, key) for key in ("width_px", "height_px")]
        placed = tuple(self._part(part, tasks) for part in parts)
        return SuiteScene(_with_words(prompt, tasks), placed, *sizes)

    def _part(self, part: Any, tasks: Mapping[str, SuiteTask]) -> ScenePart:
        only(self.where, "a part of a scene", part, ("task", "prompt", "box"))
        name, prompt = (text(self.where, part, key, "a part") for key in ("task", "prompt"))
        box = part.get("box")
        if name is None or name not in tasks or not prompt or not isinstance(box, list):
            raise CidmError(
                f"{self.where}: a part of a scene needs a task ({', '.join(tasks)}), a prompt and "
                "a box [x0, y0, x1, y1] in 0 to 1."
            )
        placed = box_of(self.where, name, box)
        return ScenePart(tasks[name].name, Region(_with_words(prompt, tasks), box=placed))


def read_tasks_file(folder: Path) -> TasksFile:
    """The folder's tasks file, if it has one.

    Raises:
        CidmError: If it cannot be read or holds something unknown.
    """
    path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if path is None:
        return TasksFile()
    where, held = f"'{path}'", content(path, "a tasks file")
    only(where, "the file", held, ("negative_prompt", "tasks", "orders", "scenes"))
    lists = {key: held.get(key) or [] for key in ("tasks", "orders", "scenes")}
    for key, value in lists.items():
        if not isinstance(value, list):
            raise CidmError(f"{where}: {key} is {type(value).__name__}; give a list.")
    if not all(isinstance(order, list) for order in lists["orders"]):
        raise CidmError(f"{where}: every order must be a list of folder names.")
    return TasksFile(
        where,
        text(where, held, "negative_prompt", "the file"),
        tuple(_entry(where, entry) for entry in lists["tasks"]),
        tuple(lists["orders"]),
        tuple(lists["scenes"]),
    )


def _entry(where: str, entry: Any) -> TaskEntry:
    if isinstance(entry, str):
        return TaskEntry(entry)
    only(where, "a task", entry, [f.name for f in fields(TaskEntry)])
    texts = {f.name: text(where, entry, f.name, "a task") for f in fields(TaskEntry)}
    folder = texts.pop("folder")
    if not folder:
        raise CidmError(f"{where}: a task has no folder. Name its folder under images/.")
    return TaskEntry(folder, **texts)


def _with_words(prompt: str, tasks: Mapping[str, SuiteTask]) -> str:
    for name, task in tasks.items():
        prompt = prompt.replace("{" + name + "}", task.trigger)
    return prompt
