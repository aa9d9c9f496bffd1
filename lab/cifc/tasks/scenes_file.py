"""scenes.json: pictures of several concepts as the paper's figures show them.

    {"concepts": {"V1": "dog", "V3": "cat"},      the figures' names: folders under images/
     "scenes": [{"id": "3.1",
                 "prompt": "anime artwork of a magic castle",
                 "regions": [{"concept": "V1", "prompt": "a dog", "box": [0.02, 0.4, 0.44, 0.87]},
                             …]}]}

Class words stand where a concept's words go. The whole picture's prompt names no concept, as in the
figures. Width and height of a scene may be given (`width_px`, `height_px`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cidm_core.as_text import listed
from cidm_core.errors import CidmError
from cidm_core.regions import Region

from .reading import box_of, content, only, pixels, text
from .suite import ScenePart, SuiteScene, SuiteTask

logger = logging.getLogger(__name__)

NAME = "scenes.json"
_SCENE = ("id", "prompt", "regions", "width_px", "height_px")


def read_scenes(folder: Path, tasks: Mapping[str, SuiteTask]) -> tuple[SuiteScene, ...]:
    """The scenes of a folder whose concepts are all there; the others are told of.

    Args:
        folder: Where the file lies, if there is one.
        tasks: By folder of photos.

    Raises:
        CidmError: If the file cannot be used.
    """
    path = folder / NAME
    if not path.is_file():
        return ()
    where, held = f"'{path}'", content(path, NAME)
    only(where, "the file", held, ("about", "concepts", "scenes"))
    folders, scenes = held.get("concepts"), held.get("scenes")
    if not isinstance(folders, Mapping) or not isinstance(scenes, list):
        raise CidmError(f"{where} needs concepts (names and folders) and a list of scenes.")
    found: list[SuiteScene] = []
    for number, scene in enumerate(scenes, start=1):
        rows = _rows(where, scene, folders)
        missing = {folders[row["concept"]] for row in rows} - tasks.keys()
        if missing:
            name = scene.get("id", number)
            logger.warning(
                "%s: no photos of %s; without scene %s.", where, listed(sorted(missing)), name
            )
            continue
        parts = [_part(where, row, tasks[folders[row["concept"]]]) for row in rows]
        sizes = [pixels(where, scene, key) for key in ("width_px", "height_px")]
        found.append(SuiteScene(scene["prompt"], tuple(parts), *sizes))
    return tuple(found)


def _rows(where: str, scene: Any, folders: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
    """The regions of a scene, each of a known concept."""
    only(where, "a scene", scene, _SCENE)
    rows = scene.get("regions")
    if not text(where, scene, "prompt", "a scene") or not isinstance(rows, list) or not rows:
        raise CidmError(f"{where}: a scene needs a prompt and a list of regions.")
    for row in rows:
        only(where, "a region", row, ("concept", "prompt", "box"))
        if (name := text(where, row, "concept", "a region")) not in folders:
            raise CidmError(f"{where}: a region is of {name!r}; there are {', '.join(folders)}.")
    return rows


def _part(where: str, row: Mapping[str, Any], task: SuiteTask) -> ScenePart:
    """A concept in its box, its words in place of its class words."""
    prompt = text(where, row, "prompt", "a region") or ""
    words = re.compile(rf"\b{re.escape(task.class_words)}\b", re.IGNORECASE)
    if not words.search(prompt):
        raise CidmError(
            f"{where}: the prompt {prompt!r} does not hold {task.class_words!r}, the class words "
            f"of {task.name!r}. Write them where the concept's words go."
        )
    named = words.sub(lambda _: task.trigger, prompt, count=1)
    return ScenePart(task.name, Region(named, box=box_of(where, task.name, row.get("box"))))
