"""What every way draws: single concepts, look-alikes by the prompt alone, look-alikes in boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from cidm_core.concept import Concept
from cidm_core.storage.concept_file import file_tensors

from ..cells import Cell, Result, each_once
from ..custom_diffusion.drawn import Drawing
from ..custom_diffusion.ways import Way
from ..parts.scenes import own_of
from ..systems import MULTI
from ..tasks.suite import SuiteScene
from .scenes import by_color, perfect_pictures
from .ways import IN_BOXES

PERFECT = "perfect"
ALONE, BOXES = "none", "both"  # of `MULTI`
_DIGITS = 4


@dataclass(frozen=True)
class LookAlikes(Drawing):
    """As the comparison of Custom Diffusion draws, with scenes of two and three."""

    @property
    def pairs(self) -> list[SuiteScene]:
        """All scenes; `two` and `three` tell them apart."""
        return list(self.bench.suite.scenes)

    def numbers(self, count: int) -> list[int]:
        """Of the scenes of so many concepts."""
        return [n for n, scene in enumerate(self.pairs) if len(scene.parts) == count]

    def cells(self) -> list[Cell]:
        """All work: learning, drawing."""
        perfect = [
            Cell(self.perfect_key(n), lambda n=n: self._perfect(n)) for n in range(len(self.pairs))
        ]
        return each_once(perfect, *(self._cells_of(way) for way in self.ways))

    def modes(self, way: Way, number: int) -> list[str]:
        """How a way draws a scene."""
        boxed = way.name in IN_BOXES and len(self.pairs[number].parts) == 2
        return [ALONE, BOXES] if boxed else [ALONE]

    def _cells_of(self, way: Way) -> list[Cell]:
        learned: list[Cell] = []
        for name, make in way.needs(self.taught).items():
            before = () if not learned else (learned[-1].key,)
            learned.append(Cell(self.learn_key(name), lambda make=make: _told(make()), before))
        needs = tuple(cell.key for cell in learned)
        cells = [
            Cell(self.single_key(way, k), lambda k=k: self._single(way, k), needs)
            for k in range(len(self.bench.suite.tasks))
        ]
        cells += [
            Cell(self.pair_key(way, mode, n), lambda m=mode, n=n: self._pair(way, m, n), needs)
            for n in range(len(self.pairs))
            for mode in (self.modes(way, n) if needs else ())
        ]
        return each_once(learned, cells)

    def _pair(self, way: Way, mode: str, number: int) -> Result:
        bench, scene = self.bench, self._renamed(way, self.pairs[number])
        config = bench.sampling({"num_images": self.pair_images}, number)
        bank = way.bank(self.taught)
        pictures = MULTI[mode].draw(bench.base, bank, scene.prompt, scene.regions, config)
        return self._seen(number, pictures, self.pair_stem(way, mode, number))

    def _perfect(self, number: int) -> Result:
        pictures = perfect_pictures(self.pairs[number], self.pair_images, self.bench.seed)
        return self._seen(number, pictures, f"{self.bench.seed}-{PERFECT}-{number}")

    def _seen(self, number: int, pictures: Sequence[Image.Image], stem: str) -> Result:
        """What each box of a scene shows, by CLIP and by colour."""
        bench, scene = self.bench, self.pairs[number]
        bench.keep(pictures, stem)
        cosines: Any = bench.judge.places(scene.regions, pictures).double()
        colors = by_color(pictures, scene, [task.name for task in bench.suite.tasks])
        return {
            "own": own_of(bench, scene),
            "cosines": _rounded(cosines.tolist()),
            "colors": _rounded(colors),
            "ta": bench.judge.text_scores(pictures, bench.suite.plain(scene.prompt)),
        }

    def perfect_key(self, number: int) -> str:
        """Of the scores of perfect pictures of a scene."""
        return f"pairs/{PERFECT}/{self.bench.seed}-{number}"


def _rounded(table: Sequence[Sequence[Sequence[float]]]) -> list[list[list[float]]]:
    return [[[round(v, _DIGITS) for v in row] for row in one] for one in table]


def _told(concept: Concept) -> Result:
    held = file_tensors(concept).values()
    facts = {key: concept.facts.get(key) for key in ("steps", "final_loss", "contrast", "seconds")}
    return {**facts, "bytes": sum(t.numel() * t.element_size() for t in held)}
