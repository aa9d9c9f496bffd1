"""The whole comparison: learn, draw, score, and write it down."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cidm_core.as_text import jsonable
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.composites import Contrast
from cidm_core.errors import CidmError
from cidm_core.evaluation.encoders import Encoder
from cidm_core.methods import config_for
from cidm_core.methods.shared import ContrastReading
from cidm_core.pictures.files import save_picture
from cidm_core.pictures.sheets import Row, contact_sheet
from cidm_core.storage.atomic import make_folder, write_atomic

from ..bench import Bench
from ..cells import Board, OnCell, each_once
from ..custom_diffusion.ways import METHOD as CUSTOM
from ..custom_diffusion.ways import OURS, Way
from ..run import claim_folder
from ..scoring import Judge, encoder_digest, suite_digest
from ..sizes import Sizes, restricted
from ..tasks.suite import Suite
from .drawn import ALONE, PERFECT, LookAlikes
from .report import collect, markdown
from .scenes import with_look_alikes
from .ways import METHOD, OFTEN, ONCE, WAYS, Lessons

NAME = "clif"
_TILE, _SHOWN = 50, 3  # of each scene, in each row
_FOOTING = (
    "{tasks} concepts of the small world, photos with masks: {names}. CLIF and Custom Diffusion "
    "learn all at once, CIDM one after another into one bank. {steps} steps of {batch} pictures "
    "for each concept (CLIF: {words} of textual inversion before, half of Custom Diffusion's "
    "pictures are prior pictures); {contrast} steps of contrast with {pairs} composites (Custom "
    "Diffusion, and CIDM for each concept: {others}). {prompts} prompts and {images} pictures of "
    "each for IA and TA, {pictures} of each prompt of two or three, of each seed. CLIF with its "
    "contrast and without is taught from {often} seeds, without G, R or M and with the contrast "
    "as released from one, the others from {seeds}. Prompts and sampler are the same."
)


@dataclass(frozen=True)
class Amounts:
    """What `Sizes` do not say.

    Attributes:
        seed: Of training and pictures.
        seeds: How often everything is learned and drawn, but for `ONCE`.
        clif_seeds: How often `OFTEN` are.
        scene_images: Pictures of each prompt of several, of each seed.
    """

    seed: int = 0
    seeds: int = 1
    clif_seeds: int = 1
    scene_images: int = 12

    @property
    def every_seed(self) -> list[int]:
        """So far apart that no picture of one begins as a picture of another."""
        return [self.seed + 100 * n for n in range(max(self.seeds, self.clif_seeds))]

    def takes_part(self, way: str, number: int) -> bool:
        """Whether a way is taught from the n-th seed."""
        times = self.clif_seeds if way in OFTEN else self.seeds
        return number < (1 if way in ONCE else times)


def run(
    base: Base,
    clip: Encoder,
    contrast: Contrast,
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
        base: The model, which has `contrast.clip`'s text encoder as its first.
        clip: The encoder that measures.
        contrast: What words are contrasted by.
        suite: Tasks, with masks.
        sizes: How much is learned and drawn.
        out: Folder for everything.
        amounts: Seeds, and how many pictures of several concepts.
        about: What else the results should say.
        ways: Names of those that are compared with CIDM.
        on_cell: Hears of every cell.

    Returns:
        What the JSON file holds, and the page of tables.

    Raises:
        CidmError: Anything the user can mend; all finished cells are kept.
    """
    if unknown := [name for name in ways if name not in WAYS]:
        raise CidmError(f"There is no way {unknown[0]!r}. Choose among {', '.join(WAYS)}.")
    part = restricted(with_look_alikes(suite), sizes)
    board = Board(make_folder(out) / "work")
    settings = {m: config_for(m, base.family, **sizes.training) for m in ("cidm", CUSTOM, METHOD)}
    identity = {
        "data": suite_digest(part),
        "model": base.fingerprint,
        "sizes": sizes.to_dict(),
        "settings": {name: config.to_dict() for name, config in settings.items()},
        "contrast": contrast.facts(),
        "scene_images": amounts.scene_images,
        "encoders": encoder_digest(clip),
    }
    claim_folder(board, out, identity)
    judge, chosen = Judge(clip, None, part), [w for n, w in WAYS.items() if n in (OURS, *ways)]
    drawings = [
        _drawing(
            *(Bench(base, judge, part, sizes, board, seed=seed), contrast, amounts),
            [way for way in chosen if amounts.takes_part(way.name, number)],
        )
        for number, seed in enumerate(amounts.every_seed)
    ]
    cells = each_once(*(drawing.cells() for drawing in drawings))
    board.work_off(cells, on_cell)
    known = {**identity, "seeds": amounts.every_seed, **about}
    known["footing"] = _footing(drawings[0], amounts)
    results = {**known, **collect(drawings, cells)}
    page = markdown(results)
    write_atomic(out / f"{NAME}.json", (json.dumps(jsonable(results), indent=1) + "\n").encode())
    write_atomic(out / f"{NAME}.md", page.encode())
    save_picture(_sheet(drawings[0]).quantize(), out / f"{NAME}.png")
    return results, page


def _drawing(bench: Bench, contrast: Contrast, amounts: Amounts, ways: Sequence[Way]) -> LookAlikes:
    training = {"seed": bench.seed, **bench.sizes.training}
    folder = bench.board.folder / "banks" / str(bench.seed)
    lessons = Lessons(bench.base, bench.suite.tasks, folder, training, contrast=contrast)
    return LookAlikes(bench, lessons, amounts.scene_images, ways=ways)


def _footing(drawing: LookAlikes, amounts: Amounts) -> str:
    assert isinstance(drawing.taught, Lessons)
    each, bench = drawing.taught.for_one(), drawing.bench
    return _FOOTING.format(
        tasks=len(bench.suite.tasks),
        names=", ".join(task.name for task in bench.suite.tasks),
        steps=each.steps,
        batch=each.batch_size,
        words=each.word_steps,
        contrast=each.contrast_steps,
        pairs=each.reading.batch,
        others=ContrastReading().batch,
        often=amounts.clif_seeds,
        seeds=amounts.seeds,
        prompts=bench.sizes.prompts,
        images=bench.sizes.images,
        pictures=drawing.pair_images,
    )


def _sheet(drawing: LookAlikes) -> Image.Image:
    """Ways down; across, the scenes of several concepts by the prompt alone."""
    bench, scenes = drawing.bench, drawing.pairs
    rows: list[Row] = []
    for way in drawing.ways:
        if way.needs(drawing.taught):
            stems = [drawing.pair_stem(way, ALONE, n) for n in range(len(scenes))]
            rows.append(Row(way.label, "", [_cut(bench.kept(stem)) for stem in stems]))
    perfect = [f"{bench.seed}-{PERFECT}-{n}" for n in range(len(scenes))]
    rows.append(Row("Perfect pictures", "", [_cut(bench.kept(stem)) for stem in perfect]))
    headings = [", ".join(part.task for part in scene.parts) for scene in scenes]
    title, below = "Look-alikes by one prompt", "Left to right as named; same seeds in every row."
    return contact_sheet(rows, headings, title, below, _TILE)


def _cut(strip: Image.Image | None) -> list[Image.Image]:
    """The first pictures of a strip."""
    if strip is None:
        return []
    side = strip.height
    return [strip.crop((x, 0, x + side, side)) for x in range(0, strip.width, side)][:_SHOWN]
