"""Pictures of a run: forgetting heat maps, a contact sheet, quality against bank size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cidm_core.pictures.axes import Frame, legend
from cidm_core.pictures.canvas import (
    INK,
    LINE,
    MUTED,
    PAPER,
    Canvas,
    Color,
    color,
    mix,
    wrap,
)
from cidm_core.pictures.sheets import Row, contact_sheet

from ..bench import Bench
from ..draw_cells import draw_key
from ..parts.scenes import scene_key, stem_of
from ..systems import MULTI, System

_LOST: Color = (197, 59, 90)
_WON: Color = (47, 104, 178)
_CELL = 34
_PANEL_HEAD = 62
_PANELS_ACROSS = 4
_HEAD = 116
_EXPLAINED = (
    "IA of each concept (across, in learning order) after each task (down): points lost or won "
    "since its own training. Mean over orders; same prompts and seeds."
)
_FULL_SHADE = 0.2  # a change of this much IA has the full colour
_TILE = 56
_SCENE_TILE = 112


def forgetting_picture(main: Mapping[str, Any]) -> Image.Image:
    """One heat map per system: how IA has changed since a concept's own training, in points.

    Rows: after which task; columns: concepts in learning order; mean over the orders.
    """
    panels = [(row["label"], _changes(row)) for row in main.values()]
    count = len(panels[0][1])
    side = _CELL * count
    across = min(_PANELS_ACROSS, len(panels))
    step_x, step_y = side + 70, side + _PANEL_HEAD + 40
    canvas = Canvas(40 + across * step_x, _HEAD + 10 + -(-len(panels) // across) * step_y)
    canvas.text(24, 16, "What is forgotten", 24, bold=True)
    canvas.lines(24, 50, wrap(_EXPLAINED, 14, canvas.width - 48, 3), 14, MUTED)
    for k, (label, changes) in enumerate(panels):
        _heat_map(canvas, 54 + k % across * step_x, _HEAD + k // across * step_y, label, changes)
    return canvas.finish()


def _changes(row: Mapping[str, Any]) -> Any:
    """(tasks, concepts): mean over orders of IA minus IA after own training; NaN: none."""
    matrices = [np.array(m["values"], dtype=np.float64) for m in row["forgetting"]["matrices"]]
    return np.mean([m - m.diagonal()[None, :] for m in matrices], axis=0)


def _heat_map(canvas: Canvas, x: float, y: float, label: str, changes: Any) -> None:
    count = len(changes)
    last = changes[-1][:-1].mean() if count > 1 else 0.0
    canvas.text(x, y, label, 15, bold=True, width=_CELL * count)
    canvas.text(x, y + 22, f"after the last task {100 * last + 0.0:+.1f}", 13, MUTED)
    top = y + _PANEL_HEAD
    for j in range(count):
        canvas.text(x - 8, top + (j + 0.5) * _CELL, str(j + 1), 12, MUTED, anchor="rm")
        canvas.text(x + (j + 0.5) * _CELL, top - 6, str(j + 1), 12, MUTED, anchor="mb")
        for i in range(j + 1):
            _square(canvas, x + i * _CELL, top + j * _CELL, changes[j, i])


def _square(canvas: Canvas, x: float, y: float, change: float) -> None:
    if not np.isfinite(change):
        return
    depth = min(1.0, abs(change) / _FULL_SHADE)
    fill = mix(PAPER, _LOST if change < 0 else _WON, depth)
    canvas.box((x + 1, y + 1, x + _CELL - 1, y + _CELL - 1), fill, LINE)
    text = f"{100 * change:.0f}" if abs(change) >= 0.005 else "0"
    ink = PAPER if depth > 0.55 else INK
    canvas.text(x + _CELL / 2, y + _CELL / 2, text, 12, ink, anchor="mm")


def contact_picture(bench: Bench, systems: Sequence[System]) -> Image.Image:
    """Concepts down, systems across: the same prompts and seeds after the last task."""
    order = bench.suite.orders[0]
    rows: list[Row] = []
    for index, task in enumerate(bench.suite.tasks):
        groups = [[photo.image for photo in task.photos[:2]]]
        for system in systems:
            key = draw_key(bench, system, order, len(order), index)
            groups.append(bench.thumbnails(key)[:3])
        rows.append(Row(task.name, task.class_words, groups))
    return contact_sheet(
        rows,
        ["photos", *(system.label for system in systems)],
        title="After the last task",
        subtitle="Same prompts and seeds in every column.",
        tile_px=_TILE,
    )


def scenes_picture(bench: Bench) -> Image.Image:
    """Ways of drawing down, scenes across, the same seeds."""
    order, scenes = bench.suite.orders[0], bench.suite.scenes
    rows: list[Row] = []
    for system in MULTI.values():
        stems = [stem_of(scene_key(bench, system, order, n)) for n in range(len(scenes))]
        kept = [bench.kept(stem) for stem in stems]
        rows.append(Row(system.label, "", [[picture] if picture else [] for picture in kept]))
    headings = [", ".join(part.task for part in scene.parts) for scene in scenes]
    return contact_sheet(
        rows, headings, title="Several concepts in one picture", tile_px=_SCENE_TILE
    )


def bank_picture(long: Mapping[str, Any]) -> Image.Image:
    """Against the number of concepts: what the bank costs, and IA itself.

    Other concepts are drawn at each size, so the distance from the oracle tells what size does.
    """
    systems = list(long["systems"].values())
    names = [row["label"] for row in systems]
    canvas = Canvas(900, 820)
    canvas.text(24, 14, "Quality against bank size", 20, bold=True)
    legend(canvas, 870, 50, [(name, color(k)) for k, name in enumerate(names)])
    gaps = [[-100 * each["oracle_gap"]["mean"] for each in row["sizes"]] for row in systems]
    scores = [[100 * each["ia"]["mean"] for each in row["sizes"]] for row in systems]
    _curves(canvas, 110, long["sizes"], gaps, "IA x 100, distance from the oracle")
    _curves(canvas, 470, long["sizes"], scores, "IA x 100 of the concepts drawn at that size")
    return canvas.finish()


def _curves(
    canvas: Canvas, top: int, sizes: Sequence[int], lines: Sequence[Sequence[float]], label: str
) -> None:
    values = [value for line in lines for value in line]
    margin = 0.05 * (max(values) - min(values)) + 0.2
    span = (min(values) - margin, max(values) + margin)
    frame = Frame(84, top + 34, 870, top + 290, (0, max(sizes)), span)
    frame.draw(canvas, "concepts in the bank", label)
    for k, line in reversed(list(enumerate(lines))):  # ours, the first, on top
        points = [frame.at(size, value) for size, value in zip(sizes, line, strict=True)]
        canvas.line(points, color(k), 2 if k else 4)
        for x, y in points:
            canvas.dot(x, y, 4 if k else 6, color(k))
