"""What Infusion's second stream costs: a guided step of drawing, and a step of learning.

    python -m lab.speed.infusion [--rounds N] [--out FILE] [--quick]

Drawing: one guided noise estimate of a UNet with SD 1.5's blocks and random weights, latents of
16 x 16: the bare model's two rows, three of its rows, and the three that a prompt with an infused
concept has. Learning: `train_concept` from one progress event to the next, in both variants, beside
the UNet alone, forward and backward. In ComfyUI: `python -m lab.speed.comfyui`.
"""

import argparse
import copy
import tempfile
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from cidm_core.bank import Bank
from cidm_core.concept import Concept, Subject
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.train import train_concept
from cidm_core.methods.infusion import InfusionConfig
from cidm_core.training.data import Photo
from cidm_core.updates import ValueResidual

from .estimates import Estimates
from .measure import as_table, interleave, parse, summary, target, verdict, write
from .models import PROPORTIONS, Proportions, make_base, make_proportional
from .turns import OURS, Turns

BARE = "bare model, 2 rows"
PLAIN = "UNet, forward and backward"
_TIMING = (
    "CPU seconds (time.process_time), one thread; drawing: variants interleaved and rotated, "
    "untimed call before each; learning: taking turns within one run of train_concept; minimum "
    "over all rounds"
)


def look(base: Base) -> Concept:
    """A concept of random residuals, called by "dog" where it is asked for."""
    draw = torch.Generator().manual_seed(0)
    return Concept(
        name="look",
        subjects=(Subject((), "dog", on_request=True),),
        family=base.family.name,
        base=base.fingerprint,
        layers=tuple(layer.path for layer in base.layers),
        updates={
            f"{layer.path}.to_v": ValueResidual(torch.randn(layer.width, generator=draw))
            for layer in base.layers
        },
        rows={},
        method="infusion",
        two_streams=True,
        last_piece=True,
    )


def drawing(base: Base, cells: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of one guided estimate."""
    bench = Estimates(base, cells)
    held = {"look": look(base)}

    def plan(asked: str, **given: float):
        return bench.plan(held, prompt="a photo of a dog", weights="gate", infuse=asked, **given)

    with torch.no_grad():
        ways = {
            BARE: bench.bare(),
            "bare model, 3 rows": bench.bare(3),
            "not asked for": bench.ours(plan(""), "merged"),
            "one stream": bench.ours(plan("look", second_stream=0.0), "per_sample"),
            "two streams": bench.ours(plan("look"), "per_sample"),
        }
        return interleave(ways, rounds)


class PlainStep:
    """The loss of one picture, back to the values of every attn2: nothing less could learn them."""

    def __init__(self, base: Base, side: int) -> None:
        self.unet = copy.deepcopy(base.unet).requires_grad_(False)
        for layer in base.layers:
            self.unet.get_submodule(f"{layer.path}.to_v").weight.requires_grad_()
        draw = torch.Generator().manual_seed(3)
        shape = (1, 4, side // 8, side // 8)
        self.latents, self.noise = torch.randn(2, *shape, generator=draw)
        self.text = torch.randn(1, 77, base.family.context_dim, generator=draw)

    def __call__(self) -> Tensor:
        found = self.unet(self.latents, 500, encoder_hidden_states=self.text).sample
        F.mse_loss(found, self.noise).backward()
        self.unet.zero_grad()
        return found


def learning(base: Base, size: Proportions, variant: str, rounds: int) -> Turns:
    """One run of `train_concept` with the plain step in its callback."""
    side = 8 * size.cells
    turns = Turns({PLAIN: PlainStep(base, side)}, rounds)
    settings = {"batch_size": 1, "accumulation": 1, "variants": 1, "resolution_px": side}
    config = InfusionConfig(steps=turns.steps, variant=variant, **settings)
    picture = torch.rand(side, side, 3, generator=torch.Generator().manual_seed(3))
    photo = Photo.from_image(picture, "a photo of a dog")
    told = {"class_words": "dog", "method": "infusion", "config": config}
    with tempfile.TemporaryDirectory() as folder:
        train_concept(base, Bank(folder), [photo], **told, name="look", on_progress=turns)
    return turns


def main(argv: list[str] | None = None) -> None:
    doc = __doc__ or ""
    parser = argparse.ArgumentParser(prog="infusion", description=doc.splitlines()[0])
    options, command = parse(parser, argv)
    small, cells, size = ("tiny", 8, "tiny") if options.quick else ("small", 16, "fifth-512px")
    raw: dict[str, Mapping[str, object]] = {}
    seconds = drawing(make_base(small), cells, options.rounds)
    found = {"drawing": summary(seconds, BARE)}
    raw["drawing"] = seconds
    for variant in ("paper", "released"):
        base = make_proportional(PROPORTIONS[size])
        turns = learning(base, PROPORTIONS[size], variant, options.rounds)
        name = f"learning, {variant}"
        raw[name] = turns.seconds
        found[name] = summary({way: turns.seconds[way] for way in (PLAIN, OURS)}, PLAIN)
    for name, rows in found.items():
        print(as_table(name, rows, next(iter(rows))), end="\n\n", flush=True)
    targets = [
        target("guided step in two streams", found["drawing"]["two streams"]["ratio"], 1.55),
        target("step of learning", found["learning, paper"][OURS]["ratio"], 2.2),
    ]
    print(verdict(targets))
    body = {"timing": _TIMING, "rounds": options.rounds, "targets": targets}
    write(options.out, "infusion", command, {**body, "results": found, "raw_seconds": raw})


if __name__ == "__main__":
    main()
