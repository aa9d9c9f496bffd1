"""Lists of regions in the forms that hosts and their users write.

Rows of our own are `{"box": [x0, y0, x1, y1], "prompt": ...}` in shares of the picture, or
`{"mask": "file.png", "prompt": ...}`, each with an optional "negative". ComfyUI's Create Bounding
Boxes gives `elements`, `{"bbox": [ymin, xmin, ymax, xmax]}` in thousandths with a description, and
`bboxes`, frames of `{x, y, width, height}` in pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RegionError
from ..masks import read_mask
from ..regions import Box, Region, each_region, parse_region

_GRID = 1000  # of an element's coordinates
_FORM = (
    'Give boxes of the core\'s Create Bounding Boxes, or JSON such as [{"box": [0.1, 0.2, 0.5, '
    '0.9], "prompt": "a dog"}].'
)
_OWN = {"prompt", "desc", "text", "box", "mask", "negative"}


@dataclass(frozen=True, eq=False)
class Area:
    """Where a region is, and what its author wrote to it.

    Attributes:
        box: As shares of the picture, (x0, y0, x1, y1); or
        mask: An array (height, width).
        text: A prompt, or "".
        negative: A negative prompt of its own.
    """

    box: Box | None = None
    mask: Any = None
    text: str = ""
    negative: str | None = None

    def region(self, line: str = "") -> Region:
        """The region, with another prompt if one is given."""
        if not (line or self.text):
            raise RegionError("it has no prompt. Say what it should show.")
        return Region(line or self.text, self.box, self.mask, self.negative)


def read_region_file(path: Path) -> list[Region]:
    """The regions of a JSON file; its masks lie beside it.

    Raises:
        RegionError: If the file or one of its regions cannot be used.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RegionError(f"Regions '{path}' cannot be read ({error.strerror}).") from error
    try:
        return each_region(read_areas(text, folder=path.parent), Area.region)
    except ValueError as error:
        raise RegionError(f"Regions '{path}': {error}") from error


def read_areas(
    value: Any, size: tuple[int, int] | None = None, folder: Path | None = None
) -> list[Area]:
    """Regions of any known form: rows, frames of rows, a single row, or JSON text of these.

    Args:
        value: What was written, or came through a socket.
        size: Width and height of the picture that boxes in pixels belong to.
        folder: Where the masks are that JSON names; without it there can be none.

    Raises:
        RegionError: If the form is none of these; the region is named by its number.
    """
    if isinstance(value, str):
        value = _json(value) if value.strip() else []
    if value is None:
        return []
    rows = [value] if isinstance(value, Mapping) else value
    if not isinstance(rows, Sequence):
        raise RegionError(f"The boxes are {type(value).__name__}. {_FORM}")
    if rows and isinstance(rows[0], Sequence) and not isinstance(rows[0], str):
        if len(rows) > 1:
            raise RegionError(
                f"The boxes are of {len(rows)} frames. Regions are of one picture; give one frame."
            )
        rows = rows[0]
    listed: Sequence[Any] = rows
    return each_region(listed, lambda row: _area(row, size, folder))


def read_regions(areas: Sequence[Area], prompts: str, size: tuple[int, int]) -> list[Region]:
    """Regions of areas with a prompt line each, or of the prompts alone.

    Args:
        areas: From `read_areas`, or of masks.
        prompts: The k-th line belongs to the k-th region; an empty one leaves it the area's own
            text. Without areas: lines `x0,y0,x1,y1: prompt`, or JSON.
        size: Width and height of the picture that boxes in pixels belong to.

    Raises:
        RegionError: If the counts do not fit, or a region is not possible, by its number.
    """
    if not areas:
        return _from_text(prompts, size)
    lines = [line.strip() for line in prompts.rstrip().splitlines()]
    if len(lines) > len(areas):
        raise RegionError(
            f"There are {len(lines)} lines of prompts, but {_counted(areas)}. Write one "
            "line for each region, or add a region."
        )
    lines += [""] * (len(areas) - len(lines))
    pairs = list(zip(areas, lines, strict=True))
    return each_region(pairs, lambda pair: pair[0].region(pair[1]))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RegionError(f"The regions are no JSON ({error}). {_FORM}") from error


def _area(row: Any, size: tuple[int, int] | None, folder: Path | None) -> Area:
    if not isinstance(row, Mapping):
        raise RegionError(f"it is {type(row).__name__}, no box. {_FORM}")
    if "bbox" in row:
        y0, x0, y1, x1 = (float(v) / _GRID for v in _four(row["bbox"]))
        return Area((x0, y0, x1, y1), text=_text(row))
    if {"x", "y", "width", "height"} <= set(row):
        return _from_pixels(row, size)
    if "box" not in row and "mask" not in row:
        raise RegionError(f"it has {', '.join(map(str, row)) or 'nothing'}, no box. {_FORM}")
    row = {key: value for key, value in row.items() if value is not None}
    if unknown := sorted(set(row) - _OWN):
        known = ", ".join(sorted(_OWN))
        raise RegionError(f"it has {', '.join(unknown)}; known are {known}. Correct the name.")
    negative = row.get("negative")
    if not isinstance(negative, str | None):
        raise RegionError(f"its negative is {negative!r}; write text.")
    box = None
    if "box" in row:
        x0, y0, x1, y1 = (float(v) for v in _four(row["box"]))
        box = (x0, y0, x1, y1)
    mask = _mask(row["mask"], folder) if "mask" in row else None
    return Area(box, mask, _text(row), negative)


def _mask(name: Any, folder: Path | None) -> Any:
    if folder is None:
        raise RegionError("its mask is a file, which is not read here. Connect it as a mask.")
    return read_mask(folder / str(name))


def _four(values: Any) -> Sequence[Any]:
    if not isinstance(values, Sequence) or len(values) != 4:
        raise RegionError(f"its box is {values!r}; give four numbers.")
    return values


def _from_pixels(row: Mapping[str, Any], size: tuple[int, int] | None) -> Area:
    if size is None:
        raise RegionError("its box is in pixels. Give x0, y0, x1, y1 as shares of the picture.")
    width, height = size
    x, y, w, h = (float(row[key]) for key in ("x", "y", "width", "height"))
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        raise RegionError("its box holds no finite numbers. Draw it again.")
    if w <= 0 or h <= 0:
        raise RegionError(f"its box is {w:g} x {h:g} px. Draw it larger.")
    if x < 0 or y < 0 or x + w > width or y + h > height:
        raise RegionError(
            f"its box reaches from ({x:g}, {y:g}) to ({x + w:g}, {y + h:g}) px, outside the "
            f"picture of {width} x {height} px. Move it, or set the picture's width and height."
        )
    metadata = row.get("metadata")
    text = _text(metadata) if isinstance(metadata, Mapping) else _text(row)
    return Area((x / width, y / height, (x + w) / width, (y + h) / height), text=text)


def _text(row: Mapping[str, Any]) -> str:
    found = (row.get(key) for key in ("prompt", "desc", "text"))
    return next((text.strip() for text in found if isinstance(text, str) and text.strip()), "")


def _counted(areas: Sequence[Area]) -> str:
    masks = sum(area.mask is not None for area in areas)
    kinds = (("box", "boxes", len(areas) - masks), ("mask", "masks", masks))
    return " and ".join(f"{n} {one if n == 1 else many}" for one, many, n in kinds if n)


def _from_text(prompts: str, size: tuple[int, int]) -> list[Region]:
    found: list[Region] = []
    if prompts.lstrip().startswith(("[", "{")):
        found = each_region(read_areas(prompts, size), Area.region)
    else:
        found = each_region([line for line in prompts.splitlines() if line.strip()], parse_region)
    if not found:
        raise RegionError(
            "There is no region. Connect boxes or masks, or write lines such as "
            "'0.05,0.3,0.45,0.95: a dog on the bed' into prompts."
        )
    return found
