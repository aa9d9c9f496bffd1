"""Reading the files of a benchmark folder, with errors that say where and what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cidm_core.errors import CidmError

Box = tuple[float, float, float, float]
_MAX_BYTES = 1_000_000


def content(path: Path, what: str) -> Any:
    """What a YAML or JSON file holds.

    Raises:
        CidmError: If it cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CidmError(f"'{path}' has over {_MAX_BYTES // 1000} kB. Is it {what}?")
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CidmError(f"'{path}' cannot be read as YAML or JSON ({reason}).") from error


def only(where: str, what: str, found: Any, known: Sequence[str]) -> None:
    """Refuse what is no mapping, and keys that nobody reads."""
    if not isinstance(found, Mapping):
        raise CidmError(f"{where}: {what} is {type(found).__name__}; give names and values.")
    if unknown := [str(key) for key in found if key not in known]:
        raise CidmError(
            f"{where}: {what} has {', '.join(unknown)}, which is unknown. Known: "
            f"{', '.join(known)}."
        )


def text(where: str, found: Mapping[str, Any], key: str, what: str) -> str | None:
    """A text, or nothing."""
    value = found.get(key)
    if value is not None and not isinstance(value, str):
        raise CidmError(f"{where}: {key} of {what} is {value!r}; give text, in quotes.")
    return value


def pixels(where: str, scene: Mapping[str, Any], key: str) -> int | None:
    """A length of a scene, or nothing."""
    value = scene.get(key)
    if value is not None and (not isinstance(value, int) or value <= 0):
        raise CidmError(f"{where}: {key} of a scene is {value!r}; give a number of pixels.")
    return value


def box_of(where: str, name: str, box: Any) -> Box:
    """Four numbers."""
    if not isinstance(box, list) or len(box) != 4:
        raise CidmError(f"{where}: {name!r} needs a box [x0, y0, x1, y1] in 0 to 1, not {box!r}.")
    if not all(isinstance(v, int | float) for v in box):
        raise CidmError(f"{where}: the box {box} of {name!r} is not of numbers.")
    return (box[0], box[1], box[2], box[3])
