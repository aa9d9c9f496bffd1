"""A small classifier that reads kind and colour from pictures, trained on drawn pictures alone."""

from __future__ import annotations

import itertools
import logging
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cidm_core.mini.draw import Placed, Style, WorldScene, draw
from cidm_core.mini.shapes import THING_KINDS
from cidm_core.mini.world import COLORS, any_scene

logger = logging.getLogger(__name__)
PROBE_WEIGHTS = Path(__file__).parent / "probe.safetensors"
COLOR_WORDS = tuple(COLORS)
_UNNAMED = -100


class Probe(nn.Module):
    """Reads one thing from a picture, or a left and a right one.

    The same trunk serves three questions: the only thing, the left thing, the right thing.
    """

    QUESTIONS = ("only", "left", "right")

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 40, 56, 64)
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
            if index < 3:
                layers.append(nn.MaxPool2d(2))
        self.trunk = nn.Sequential(*layers)
        self.mix = nn.Linear(64 * 16, 64)
        self.kind = nn.Linear(64, len(self.QUESTIONS) * len(THING_KINDS))
        self.color = nn.Linear(64, len(self.QUESTIONS) * len(COLOR_WORDS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map pictures (B, 3, 32, 32) in [-1, 1] to logits (B, 3, kinds) and (B, 3, colours)."""
        h = F.silu(self.mix(self.trunk(x).flatten(1)))
        shape = (len(x), len(self.QUESTIONS), -1)
        return self.kind(h).view(shape), self.color(h).view(shape)

    @torch.no_grad()
    def read(self, x: Tensor, count: int) -> list[list[tuple[str, str]]]:
        """Return the (colour, kind) pairs seen in each picture: one, or left and right."""
        kinds, colors = (logits.argmax(-1) for logits in self(x))
        asked = (0,) if count == 1 else (1, 2)
        return [
            [(COLOR_WORDS[int(colors[row, q])], THING_KINDS[int(kinds[row, q])]) for q in asked]
            for row in range(len(x))
        ]


def load_probe() -> Probe:
    """Return the trained probe."""
    probe = Probe()
    probe.load_state_dict({k: v.float() for k, v in load_file(PROBE_WEIGHTS).items()})
    return probe.eval()


def _scene(rng: random.Random) -> WorldScene:
    """Return one thing anywhere, or two side by side; the style changes colours only rarely."""
    style = Style("watercolor") if rng.random() < 0.05 else Style()
    while True:
        scene = any_scene(rng, rng.choice((1, 2)), plain=1.0)
        if len(scene.things) == 1 or scene.things[0].where == "left":
            things = tuple(_plainer(placed, rng) for placed in scene.things)
            return WorldScene(things, scene.background, style, scene.seed)


def _plainer(placed: Placed, rng: random.Random) -> Placed:
    """Drop half of the textures: half-and-half patterns have no one colour to read."""
    if rng.random() < 0.5:
        return placed
    return replace(placed, thing=replace(placed.thing, texture="plain"))


def labelled(count: int, seed: int, plain: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures (N, 3, 32, 32) uint8, kinds and colours (N, 3); -100 = not asked.

    With `plain`, only the colours of untextured things are asked.
    """
    rng = random.Random(seed)
    pixels = np.empty((count, 32, 32, 3), np.uint8)
    kinds = torch.full((count, 3), _UNNAMED)
    colors = torch.full((count, 3), _UNNAMED)
    for row in range(count):
        scene = _scene(rng)
        pixels[row] = np.asarray(draw(scene))
        for index, placed in enumerate(scene.things):
            question = index + (len(scene.things) == 2)
            kinds[row, question] = THING_KINDS.index(placed.thing.kind)
            asked = not plain or placed.thing.texture == "plain"
            if placed.thing.color_word and asked:
                colors[row, question] = COLOR_WORDS.index(placed.thing.color_word)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), kinds, colors


def _augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and add noise, as a generated picture may differ from a drawn one."""
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = 0.6 * torch.rand(len(x), 1, 1, 1, generator=generator)
    noise = 0.08 * torch.rand(len(x), 1, 1, 1, generator=generator)
    return x + share * (blurred - x) + noise * torch.randn(x.shape, generator=generator)


def _mirror(
    x: Tensor, kinds: Tensor, colors: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Reflect half of the batches; left and right change places in the answers too."""
    if torch.rand(1, generator=generator) < 0.5:
        return x, kinds, colors
    order = [0, 2, 1]
    return x.flip(-1), kinds[:, order], colors[:, order]


def train_probe(steps: int, seed: int, count: int = 60000) -> dict[str, float]:
    """Train the probe, save it, and return its accuracies on freshly drawn pictures."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    pixels, kinds, colors = labelled(count, seed)
    probe = Probe()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(count, (128,), generator=generator)
        x, kind, color = _mirror(pixels[rows], kinds[rows], colors[rows], generator)
        kind_logits, color_logits = probe(_augment(x.float() / 127.5 - 1, generator))
        loss = F.cross_entropy(kind_logits.flatten(0, 1), kind.flatten())
        loss = loss + F.cross_entropy(color_logits.flatten(0, 1), color.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            logger.info("probe step %d: loss %.4f", step, loss.item())
    probe.half()
    save_file(probe.state_dict(), PROBE_WEIGHTS, metadata={"seed": str(seed), "steps": str(steps)})
    return accuracy(load_probe(), seed + 1)


@torch.no_grad()
def accuracy(probe: Probe, seed: int, count: int = 3000) -> dict[str, float]:
    """Return the shares of fresh drawn things whose kind, and whose plain colour, is read right."""
    pixels, kinds, colors = labelled(count, seed, plain=True)
    guesses = probe(pixels.float() / 127.5 - 1)
    result: dict[str, float] = {}
    for name, guess, truth in zip(("kind", "color"), guesses, (kinds, colors), strict=True):
        asked = truth != _UNNAMED
        result[name] = round(float((guess.argmax(-1)[asked] == truth[asked]).float().mean()), 4)
    return result
