"""Boxes and prompts in the forms the host and its users write them, as regions.

The core's Create Bounding Boxes gives `elements`, `{"bbox": [ymin, xmin, ymax, xmax]}` in
thousandths with a description, and `bboxes`, frames of `{x, y, width, height}` in pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RegionError
from ..regions import Box, Region, parse_region

_GRID = 1000  # of an element's coordinates
_FORM = (
    'Give boxes of the core\'s Create Bounding Boxes, or JSON such as [{"box": [0.1, 0.2, 0.5, '
    '0.9], "prompt": "a dog"}].'
)


@dataclass(frozen=True)
class DrawnBox:
    """A box as shares of the picture, (x0, y0, x1, y1), and what its author wrote to it."""

    box: Box
    text: str = ""


def read_boxes(value: Any, width: int, height: int) -> list[DrawnBox]:
    """Boxes of any form the host has: elements, pixel boxes, frames of them, or JSON text.

    Args:
        value: What came through the socket.
        width: Width of the picture that pixel boxes belong to.
        height: Its height.

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
    return list(numbered(rows, lambda row: _drawn(row, width, height)))


def numbered(rows: Sequence[Any], make: Callable[[Any], Any]) -> Iterator[Any]:
    """`make` of every row; errors name the region's number."""
    for number, row in enumerate(rows, start=1):
        try:
            yield make(row)
        except (RegionError, TypeError, ValueError, KeyError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else error
            raise RegionError(f"Region {number} of {len(rows)}: {reason}") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RegionError(f"The regions are no JSON ({error}). {_FORM}") from error


def _drawn(row: Any, width: int, height: int) -> DrawnBox:
    if not isinstance(row, Mapping):
        raise RegionError(f"it is {type(row).__name__}, no box. {_FORM}")
    if "bbox" in row:
        y0, x0, y1, x1 = (float(v) / _GRID for v in _four(row["bbox"]))
    elif "box" in row:
        x0, y0, x1, y1 = (float(v) for v in _four(row["box"]))
    elif {"x", "y", "width", "height"} <= set(row):
        return _from_pixels(row, width, height)
    else:
        raise RegionError(f"it has {', '.join(map(str, row)) or 'nothing'}, no box. {_FORM}")
    return DrawnBox((x0, y0, x1, y1), _text(row))


def _four(values: Any) -> Sequence[Any]:
    if not isinstance(values, Sequence) or len(values) != 4:
        raise RegionError(f"its box is {values!r}; give four numbers.")
    return values


def _from_pixels(row: Mapping[str, Any], width: int, height: int) -> DrawnBox:
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
    return DrawnBox((x / width, y / height, (x + w) / width, (y + h) / height), text)


def _text(row: Mapping[str, Any]) -> str:
    found = (row.get(key) for key in ("prompt", "desc", "text"))
    return next((text.strip() for text in found if isinstance(text, str) and text.strip()), "")


def read_regions(
    boxes: Sequence[DrawnBox], masks: Sequence[Any], prompts: str, width: int, height: int
) -> list[Region]:
    """Regions of boxes, then of masks, with a prompt line each; or of the prompts alone.

    Args:
        boxes: From `read_boxes`.
        masks: Arrays (height, width).
        prompts: The k-th line belongs to the k-th region; an empty one leaves it the box's own
            description. Without boxes and masks: lines `x0,y0,x1,y1: prompt`, or JSON.
        width: Width of the picture that pixel boxes in JSON belong to.
        height: Its height.

    Raises:
        RegionError: If the counts do not fit, or a region is not possible, by its number.
    """
    if not boxes and not masks:
        return _from_text(prompts, width, height)
    areas = [*boxes, *masks]
    lines = [line.strip() for line in prompts.rstrip().splitlines()]
    if len(lines) > len(areas):
        raise RegionError(
            f"There are {len(lines)} lines of prompts, but {_counted(boxes, masks)}. Write one "
            "line for each region, or add a region."
        )
    lines += [""] * (len(areas) - len(lines))
    return list(numbered(list(zip(areas, lines, strict=True)), _region))


def _counted(boxes: Sequence[DrawnBox], masks: Sequence[Any]) -> str:
    kinds = (("box", "boxes", boxes), ("mask", "masks", masks))
    return " and ".join(
        f"{len(found)} {one if len(found) == 1 else many}" for one, many, found in kinds if found
    )


def _region(row: tuple[Any, str]) -> Region:
    area, line = row
    text = line or (area.text if isinstance(area, DrawnBox) else "")
    if not text:
        raise RegionError(
            "it has no prompt. Write one into its line of prompts, or describe the box."
        )
    return Region(text, box=area.box) if isinstance(area, DrawnBox) else Region(text, mask=area)


def _from_text(prompts: str, width: int, height: int) -> list[Region]:
    if prompts.lstrip().startswith(("[", "{")):
        boxes = read_boxes(prompts, width, height)
        return read_regions(boxes, (), "", width, height) if boxes else _none()
    lines = [line for line in prompts.splitlines() if line.strip()]
    return list(numbered(lines, parse_region)) if lines else _none()


def _none() -> list[Region]:
    raise RegionError(
        "There is no region. Connect boxes or masks, or write lines such as "
        "'0.05,0.3,0.45,0.95: a dog on the bed' into prompts."
    )
