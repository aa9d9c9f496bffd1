"""The whole comparison: learn, draw, measure, and write it down."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cidm_core.as_text import jsonable
from cidm_core.diffusers_host.base import Base
from cidm_core.errors import CidmError
from cidm_core.evaluation.encoders import Encoder
from cidm_core.methods import config_for
from cidm_core.pictures.files import save_picture
from cidm_core.pictures.sheets import Row, contact_sheet
from cidm_core.storage.atomic import make_folder, write_atomic

from ..bench import Bench
from ..cells import Board, OnCell
from ..custom_diffusion.ways import METHOD as CUSTOM
from ..run import claim_folder
from ..scoring import Judge, encoder_digest, suite_digest
from ..sizes import Sizes, restricted, spread
from ..tasks.suite import Naming, Suite
from .drawn import PERFECT, Drawing
from .report import collect, markdown, plot
from .ways import METHOD, WAYS, Lessons

NAME = "infusion"
_TILE = 96
_FOOTING = (
    "{tasks} concepts of the small world. All methods see the same photos with the same masks (all "
    "three look inside them only), in {steps} steps of {batch}; prompts, seeds and sampler are the "
    "same. Of Custom Diffusion's pictures half are prior pictures. It teaches one word before the "
    "class words, CIDM two in their place, Infusion none: its class word is the concept. {prompts} "
    "prompts and {images} pictures of each for IA, TA and astray; {count} pictures of each kind "
    "for W2 and LFD; {both} of two concepts."
)


@dataclass(frozen=True)
class Amounts:
    """What `Sizes` do not say.

    Attributes:
        seed: Of training and pictures.
        fit_images: Pictures of each kind that tell of over-fitting.
        both_images: Pictures of two concepts at once.
    """

    seed: int = 0
    fit_images: int = 32
    both_images: int = 16


def run(
    base: Base,
    clip: Encoder,
    suite: Suite,
    sizes: Sizes,
    out: Path,
    amounts: Amounts,
    about: Mapping[str, object],
    ways: Collection[str] = tuple(WAYS),
    on_cell: OnCell | None = None,
) -> tuple[dict[str, Any], str]:
    """Do what is not done yet, and write the reports.

    Args:
        base: The model.
        clip: The encoder that measures.
        suite: Tasks, with masks, and what perfect pictures of them are.
        sizes: How much is learned and drawn.
        out: Folder for everything.
        amounts: Seed, and how many pictures of other kinds.
        about: What else the results should say.
        ways: Names of those that are compared with the model alone.
        on_cell: Hears of every cell.

    Returns:
        What the JSON file holds, and the page of tables.

    Raises:
        CidmError: Anything the user can mend; all finished cells are kept.
    """
    if unknown := [name for name in ways if name not in WAYS]:
        raise CidmError(f"There is no way {unknown[0]!r}. Choose among {', '.join(WAYS)}.")
    part, board = restricted(suite, sizes), Board(make_folder(out) / "work")
    settings = {m: config_for(m, base.family, **sizes.training) for m in ("cidm", CUSTOM, METHOD)}
    identity = {
        "data": suite_digest(part),
        "masks": [[_share(photo.mask) for photo in task.photos] for task in part.tasks],
        "model": base.fingerprint,
        "sizes": sizes.to_dict(),
        "settings": {name: config.to_dict() for name, config in settings.items()},
        "fit_images": amounts.fit_images,
        "both_images": amounts.both_images,
        "encoders": encoder_digest(clip),
    }
    claim_folder(board, out, identity)
    bench = Bench(base, Judge(clip, None, part), part, sizes, board, seed=amounts.seed)
    training = {"seed": amounts.seed, **sizes.training}
    lessons = Lessons(base, part.tasks, board.folder / "banks" / str(amounts.seed), training)
    chosen = [way for name, way in WAYS.items() if name in ("none", *ways)]
    drawing = Drawing(bench, lessons, clip, amounts.fit_images, amounts.both_images, chosen)
    cells = drawing.cells()
    board.work_off(cells, on_cell)
    known = {**identity, "seed": amounts.seed, **about, "footing": _footing(drawing, settings)}
    results = {**known, **collect(drawing, cells)}
    page = markdown(results)
    write_atomic(out / f"{NAME}.json", (json.dumps(jsonable(results), indent=1) + "\n").encode())
    write_atomic(out / f"{NAME}.md", page.encode())
    # 256 colours are enough to see by, in a quarter of the bytes.
    save_picture(_sheet(drawing).quantize(), out / f"{NAME}.png")
    if len(drawing.pair) == 2:
        save_picture(_both_sheet(drawing).quantize(), out / "both.png")
    save_picture(plot(results), out / "over_fitting.png")
    return results, page


def _share(mask: Any) -> float | None:
    return None if mask is None else round(float(np.mean(mask)), 4)


def _footing(drawing: Drawing, settings: Mapping[str, Any]) -> str:
    each, bench = settings[METHOD], drawing.bench
    return _FOOTING.format(
        tasks=len(bench.suite.tasks),
        steps=each.steps,
        batch=each.batch_size,
        prompts=bench.sizes.prompts,
        images=bench.sizes.images,
        count=drawing.count,
        both=drawing.both_images,
    )


def _sheet(drawing: Drawing) -> Image.Image:
    """Ways down; across, some prompts of each concept."""
    bench, tasks = drawing.bench, drawing.bench.suite.tasks
    shown = [bench.thumbnails(drawing.draw_key("none", k)) for k in range(len(tasks))]
    photos = [
        [task.photos[n % len(task.photos)].image]
        for task, these in zip(tasks, shown, strict=True)
        for n in range(len(these))
    ]
    rows = [Row("Photos", "", photos)]
    named = {**{way.name: way.label for way in drawing.ways}, PERFECT: "Perfect pictures"}
    for name, label in named.items():
        drawn = [p for k in range(len(tasks)) for p in bench.thumbnails(drawing.draw_key(name, k))]
        rows.append(Row(label, "", [[picture] for picture in drawn]))
    headings = [
        said
        for task, these in zip(tasks, shown, strict=True)
        for texts in (drawing.prompts(task, Naming((WAYS["none"].subject(task),))),)
        for said in (texts[n] for n in spread(len(texts), len(these)))
    ]
    title, below = "Infusion beside CIDM and Custom Diffusion", "Same seeds in every row."
    return contact_sheet(rows, headings, title, below, _TILE)


def _both_sheet(drawing: Drawing) -> Image.Image:
    """Two concepts in one picture, by every way."""
    taught = [way for way in drawing.ways if way.lesson]
    rows = [Row(way.label, "", [drawing.bench.thumbnails(drawing.both_key(way))]) for way in taught]
    photos = [photo.image for task in drawing.pair for photo in task.photos[:2]]
    rows.insert(0, Row("Photos", "", [photos]))
    said = drawing.both_prompt(WAYS["none"])
    return contact_sheet(rows, (), "Two concepts in one picture", said, _TILE)
