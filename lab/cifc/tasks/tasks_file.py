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

import yaml

from cidm_core.errors import CidmError
from cidm_core.regions import Region

from .suite import ScenePart, SuiteScene, SuiteTask

NAMES = ("tasks.yaml", "tasks.yml", "tasks.json")
_MAX_BYTES = 1_000_000


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
        _only(self.where, "a scene", scene, ("prompt", "parts", "width_px", "height_px"))
        prompt = _text(self.where, scene, "prompt", "a scene")
        parts = scene.get("parts")
        if not prompt or not isinstance(parts, list) or not parts:
            raise CidmError(f"{self.where}: a scene needs a prompt and a list of parts.")
        sizes = [_size(self.where, scene, key) for key in ("width_px", "height_px")]
        placed = tuple(self._part(part, tasks) for part in parts)
        return SuiteScene(_with_words(prompt, tasks), placed, *sizes)

    def _part(self, part: Any, tasks: Mapping[str, SuiteTask]) -> ScenePart:
        _only(self.where, "a part of a scene", part, ("task", "prompt", "box"))
        name, prompt = (_text(self.where, part, key, "a part") for key in ("task", "prompt"))
        box = part.get("box")
        if name is None or name not in tasks or not prompt or not isinstance(box, list):
            raise CidmError(
                f"{self.where}: a part of a scene needs a task ({', '.join(tasks)}), a prompt and "
                "a box [x0, y0, x1, y1] in 0 to 1."
            )
        if not all(isinstance(v, int | float) for v in box):
            raise CidmError(f"{self.where}: the box {box} of {name!r} is not of numbers.")
        return ScenePart(tasks[name].name, Region(_with_words(prompt, tasks), box=box))


def read_tasks_file(folder: Path) -> TasksFile:
    """The folder's tasks file, if it has one.

    Raises:
        CidmError: If it cannot be read or holds something unknown.
    """
    path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if path is None:
        return TasksFile()
    where, content = f"'{path}'", _content(path)
    _only(where, "the file", content, ("negative_prompt", "tasks", "orders", "scenes"))
    lists = {key: content.get(key) or [] for key in ("tasks", "orders", "scenes")}
    for key, value in lists.items():
        if not isinstance(value, list):
            raise CidmError(f"{where}: {key} is {type(value).__name__}; give a list.")
    if not all(isinstance(order, list) for order in lists["orders"]):
        raise CidmError(f"{where}: every order must be a list of folder names.")
    return TasksFile(
        where,
        _text(where, content, "negative_prompt", "the file"),
        tuple(_entry(where, entry) for entry in lists["tasks"]),
        tuple(lists["orders"]),
        tuple(lists["scenes"]),
    )


def _content(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CidmError(f"'{path}' has over {_MAX_BYTES // 1000} kB. Is it a tasks file?")
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CidmError(f"'{path}' cannot be read as YAML or JSON ({reason}).") from error


def _entry(where: str, entry: Any) -> TaskEntry:
    if isinstance(entry, str):
        return TaskEntry(entry)
    _only(where, "a task", entry, [f.name for f in fields(TaskEntry)])
    texts = {f.name: _text(where, entry, f.name, "a task") for f in fields(TaskEntry)}
    folder = texts.pop("folder")
    if not folder:
        raise CidmError(f"{where}: a task has no folder. Name its folder under images/.")
    return TaskEntry(folder, **texts)


def _only(where: str, what: str, found: Any, known: Sequence[str]) -> None:
    """Refuse what is no mapping, and keys that nobody reads."""
    if not isinstance(found, Mapping):
        raise CidmError(f"{where}: {what} is {type(found).__name__}; give names and values.")
    if unknown := [str(key) for key in found if key not in known]:
        raise CidmError(
            f"{where}: {what} has {', '.join(unknown)}, which is unknown. Known: "
            f"{', '.join(known)}."
        )


def _text(where: str, found: Mapping[str, Any], key: str, what: str) -> str | None:
    value = found.get(key)
    if value is not None and not isinstance(value, str):
        raise CidmError(f"{where}: {key} of {what} is {value!r}; give text, in quotes.")
    return value


def _size(where: str, scene: Mapping[str, Any], key: str) -> int | None:
    value = scene.get(key)
    if value is not None and (not isinstance(value, int) or value <= 0):
        raise CidmError(f"{where}: {key} of a scene is {value!r}; give a number of pixels.")
    return value


def _with_words(prompt: str, tasks: Mapping[str, SuiteTask]) -> str:
    for name, task in tasks.items():
        prompt = prompt.replace("{" + name + "}", task.trigger)
    return prompt
