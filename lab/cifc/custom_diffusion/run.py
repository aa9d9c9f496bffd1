"""The whole comparison: learn, make, draw, score, and write it down."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cidm_core.as_text import jsonable
from cidm_core.diffusers_host.base import Base
from cidm_core.errors import CidmError
from cidm_core.evaluation.drift import ClassDrift
from cidm_core.evaluation.encoders import Encoder
from cidm_core.methods import config_for
from cidm_core.methods.shared import PriorConfig
from cidm_core.pictures.files import save_picture
from cidm_core.pictures.sheets import Row, contact_sheet
from cidm_core.storage.atomic import make_folder, write_atomic

from ..bench import Bench
from ..cells import Board, OnCell, each_once
from ..run import claim_folder
from ..scoring import Judge, encoder_digest, suite_digest
from ..sizes import Sizes, restricted
from ..tasks.suite import Suite
from .drawn import REGIONS, Drawing
from .report import collect, markdown
from .ways import METHOD, OURS, WAYS, Taught, Way

NAME = "custom_diffusion"
_TILE = 96
_FOOTING = (
    "{tasks} concepts of the small world. All ways see the same photos, as many pictures pass "
    "through the UNet ({steps} steps of {batch} for each concept; all at once, {joint} steps), and "
    "prompts, seeds and sampler are the same. With Custom Diffusion half of those pictures are "
    "from the {prior} that the model drew of each class before, if not said otherwise. It teaches "
    "one word before the class words, CIDM two in their place. Merged and compressed (energy 0.6) "
    "are made of the concepts learned one by one; merged exactly is the published form, without "
    "slack."
)


@dataclass(frozen=True)
class Amounts:
    """What `Sizes` do not say.

    Attributes:
        seed: Of training and pictures.
        seeds: How often everything is learned and drawn.
        pair_images: Pictures of each pair of look-alikes, of each seed.
        drift_images: Pictures of each class, of each seed; 0: none.
    """

    seed: int = 0
    seeds: int = 1
    pair_images: int = 16
    drift_images: int = 0

    @property
    def every_seed(self) -> list[int]:
        """So far apart that no picture of one begins as a picture of another."""
        return [self.seed + 100 * n for n in range(self.seeds)]


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
        suite: Tasks, and scenes of look-alikes.
        sizes: How much is learned and drawn.
        out: Folder for everything.
        amounts: Seeds, and how many pictures of pairs and classes.
        about: What else the results should say.
        ways: Names of those that are compared with `OURS`.
        on_cell: Hears of every cell.

    Returns:
        What the JSON file holds, and the page of tables.

    Raises:
        CidmError: Anything the user can mend; all finished cells are kept.
    """
    if unknown := [name for name in ways if name not in WAYS]:
        raise CidmError(f"There is no way {unknown[0]!r}. Choose among {', '.join(WAYS)}.")
    part, board = restricted(suite, sizes), Board(make_folder(out) / "work")
    identity = {
        "data": suite_digest(part),
        "model": base.fingerprint,
        "sizes": sizes.to_dict(),
        "settings": config_for(METHOD, base.family, **sizes.training).to_dict(),
        "pair_images": amounts.pair_images,
        "drift_images": amounts.drift_images,
        "encoders": encoder_digest(clip),
    }
    claim_folder(board, out, identity)
    judge, chosen = Judge(clip, None, part), [w for n, w in WAYS.items() if n in (OURS, *ways)]
    drawings = [
        _drawing(Bench(base, judge, part, sizes, board, seed=seed), clip, amounts, chosen)
        for seed in amounts.every_seed
    ]
    cells = each_once(*(drawing.cells() for drawing in drawings))
    board.work_off(cells, on_cell)
    known = {**identity, "seeds": amounts.every_seed, "fingerprint": base.fingerprint, **about}
    results = {**known, "footing": _footing(base, part, sizes), **collect(drawings, cells)}
    page = markdown(results)
    write_atomic(out / f"{NAME}.json", (json.dumps(jsonable(results), indent=1) + "\n").encode())
    write_atomic(out / f"{NAME}.md", page.encode())
    save_picture(_sheet(drawings[0]), out / f"{NAME}.png")
    return results, page


def _drawing(bench: Bench, clip: Encoder, amounts: Amounts, ways: Sequence[Way]) -> Drawing:
    training = {"seed": bench.seed, **bench.sizes.training}
    folder = bench.board.folder / "banks" / str(bench.seed)
    taught = Taught(bench.base, bench.suite.tasks, folder, training)
    count, drift = amounts.drift_images, None
    if count:
        drift = ClassDrift(bench.base, {}, clip, count, bench.sampling({}))
    return Drawing(bench, taught, amounts.pair_images, drift, ways)


def _footing(base: Base, suite: Suite, sizes: Sizes) -> str:
    settings = config_for(METHOD, base.family, **sizes.training)
    assert isinstance(settings, PriorConfig)
    return _FOOTING.format(
        tasks=len(suite.tasks),
        steps=settings.steps,
        batch=settings.batch_size,
        joint=settings.steps * len(suite.tasks),
        prior=settings.prior_images,
    )


def _sheet(drawing: Drawing) -> Image.Image:
    """Ways down; across, each concept, and each pair of look-alikes without and with boxes."""
    bench = drawing.bench
    photos = [[photo.image for photo in task.photos[:3]] for task in bench.suite.tasks]
    rows = [Row("Photos", "", photos)]
    for way in drawing.ways:
        stems = [drawing.single_stem(way, task) for task in bench.suite.tasks]
        for n in range(len(drawing.pairs)):
            stems += [drawing.pair_stem(way, mode, n) for mode in REGIONS]
        rows.append(Row(way.label, "", [_cut(bench.kept(stem)) for stem in stems]))
    headings = [task.name for task in bench.suite.tasks]
    for scene in drawing.pairs:
        names = " and ".join(part.task for part in scene.parts)
        headings += [names, f"{names}, in boxes"]
    return contact_sheet(
        rows,
        headings,
        title="Custom Diffusion beside CIDM",
        subtitle="Same prompts and seeds in every row.",
        tile_px=_TILE,
    )


def _cut(strip: Image.Image | None) -> list[Image.Image]:
    """The first three pictures of a strip."""
    if strip is None:
        return []
    side = strip.height
    return [strip.crop((x, 0, x + side, side)) for x in range(0, strip.width, side)][:3]
