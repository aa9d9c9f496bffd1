"""What the stages of CLIF cost, step by step, beside a step of CIDM.

    python -m lab.speed.clif_step [--rounds N] [--out FILE] [--quick]

Two subjects of random pictures, masks of half a picture, a model of SD 1.5's proportions. Every
round is one run of `train_concept` by CLIF and one by CIDM, from one progress event to the next:

contrast     128 composites against their captions and as many wrong ones, features of pictures made
words        textual inversion: words alone, through UNet and text encoder
weights      LoRA on self- and cross-attention, and the words
cidm         LoRA on cross-attention, and rows for each block

Before the contrast come the composites: "composites" is all that is made and seen of them, and of
the photos, without CLIP's own work, which random features stand for.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cidm_core.bank import Bank
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.composites import Contrast
from cidm_core.diffusers_host.contrast import ContrastClip
from cidm_core.diffusers_host.train import train_concept
from cidm_core.methods.cidm import CidmConfig
from cidm_core.methods.clif import STAGES, ClifConfig
from cidm_core.training.composites.cutouts import CutOut
from cidm_core.training.data import Photo, TrainingSubject
from cidm_core.training.progress import Progress

from .measure import as_table, parse, summary, target, verdict, write
from .models import PROPORTIONS, Proportions, make_proportional

CIDM, COMPOSITES = "cidm", "composites"
_FEATURES, _EACH = 64, 3  # steps of a stage in a round; the first one is not timed
_TIMING = (
    "CPU seconds (time.process_time), one thread; rounds of one run by each method, the first step "
    "of every stage left out, minimum over all rounds"
)


@dataclass
class Clock:
    """Progress callback that keeps when each event came, by stage."""

    at: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __call__(self, event: Progress) -> None:
        name = event.stage if event.phase == "learning" else event.phase
        self.at[name].append(time.process_time())

    def steps(self, stage: str) -> list[float]:
        """Seconds of each step of a stage but the first."""
        return [later - earlier for earlier, later in pairwise(self.at[stage])]


def random_subject(number: int, side: int) -> TrainingSubject:
    """One picture of noise with a mask of its left half."""
    draw = torch.Generator().manual_seed(number)
    mask = np.zeros((side, side), dtype=np.float32)
    mask[:, : side // 2] = 1
    photo = Photo.from_image(torch.rand(side, side, 3, generator=draw), "photo of a dog", mask)
    return TrainingSubject([photo], f"<a{number}> <b{number}>", "dog")


def random_contrast(base: Base) -> Contrast:
    """CLIP of random features, and one common thing."""
    draw = torch.Generator().manual_seed(0)

    def images(pictures: Sequence[Image.Image]) -> Tensor:
        return torch.randn(len(pictures), _FEATURES, generator=draw)

    projection = torch.randn(_FEATURES, base.family.encoders[0].dim, generator=draw)
    chef = CutOut(Image.new("RGBA", (48, 64), "red"), label="chef")
    return Contrast(ContrastClip(images, projection, 100.0, "random"), [chef])


def one_round(base: Base, side: int, pairs: int) -> tuple[Clock, Clock]:
    """A run of CLIF, and one of CIDM, a picture a step."""
    shared: dict[str, Any] = {"batch_size": 1, "accumulation": 1, "variants": 1}
    shared["resolution_px"] = side
    clif = ClifConfig(
        **{**shared, "steps": _EACH, "word_steps": _EACH, "contrast_steps": _EACH},
        contrast_batch=pairs,
        global_pairs=pairs,
        region_pairs=0,
    )
    first, second = (random_subject(number, side) for number in (1, 2))
    told: dict[str, Any] = {"words": first.words, "class_words": first.class_words}
    clocks = Clock(), Clock()
    with tempfile.TemporaryDirectory() as folder:
        train_concept(
            base,
            Bank(folder),
            first.photos,
            **told,
            method="clif",
            config=clif,
            subjects=[second],
            contrast=random_contrast(base),
            on_progress=clocks[0],
        )
    with tempfile.TemporaryDirectory() as folder:
        config = CidmConfig(**shared, steps=_EACH)
        train_concept(
            base, Bank(folder), first.photos, **told, config=config, on_progress=clocks[1]
        )
    return clocks


def measured(size: Proportions, rounds: int, pairs: int) -> dict[str, list[float]]:
    """Seconds of every step, by stage, and of the composites."""
    base, found = make_proportional(size), defaultdict[str, list[float]](list)
    for _ in range(rounds):
        clif, cidm = one_round(base, 8 * size.cells, pairs)
        for stage in STAGES:
            found[stage] += clif.steps(stage)
        found[CIDM] += [
            each for stage in cidm.at if stage != "preparing" for each in cidm.steps(stage)
        ]
        prepared = clif.at["preparing"]
        found[COMPOSITES].append(prepared[-1] - prepared[0])
    return dict(found)


def main(argv: list[str] | None = None) -> None:
    doc = __doc__ or ""
    parser = argparse.ArgumentParser(prog="clif_step", description=doc.splitlines()[0])
    options, command = parse(parser, argv)
    name, pairs = ("tiny", 4) if options.quick else ("fifth-512px", 128)
    seconds: Mapping[str, list[float]] = measured(PROPORTIONS[name], options.rounds, pairs)
    rows = summary(seconds, CIDM)
    print(as_table(f"{name}: one step", rows, CIDM), end="\n\n", flush=True)
    targets = [
        target("step of LoRA and words", rows["weights"]["ratio"], 1.5),
        target("step of textual inversion", rows["words"]["ratio"], 1.25),
    ]
    print(verdict(targets))
    body: dict[str, object] = {"timing": _TIMING, "rounds": options.rounds, "targets": targets}
    facts = {"composites_of_a_contrast": pairs}
    write(
        options.out,
        "clif_step",
        command,
        {**body, "facts": facts, "results": rows, "raw_seconds": seconds},
    )


if __name__ == "__main__":
    main()
