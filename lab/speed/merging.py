"""What merging and compressing concepts costs on the real shapes of a family.

    python -m lab.speed.merging [--rounds N] [--out FILE] [--quick]

Text states are random, of the number and width that the shipped captions and the concepts' own
texts give; encoding the captions with a text encoder of CLIP-L's size is measured apart. Beside
the merge of whole keys and values stands the way of the public code: M and its inverse anew for
each matrix, in float32.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from cidm_core.concept import Concept, Subject
from cidm_core.families import FAMILIES, Family
from cidm_core.merging.compress import compress
from cidm_core.merging.merge import merge
from cidm_core.merging.texts import shipped_captions
from cidm_core.text import Spans, TextContext
from cidm_core.updates import TEXT_SIDE, FullRank, LowRank, Update
from tests.tools.checkpoint_presets import clip_config

from .measure import Step, always, interleave, parse, target, verdict, write
from .models import VOCABULARY

CAPTIONS, TOKENS = 324, 12  # of CLIP's tokens the shipped captions have 3,859
CONCEPTS, RANK, AT_ONCE = 3, 4, 32
BAR_CPU_SECONDS = 20.0  # ten seconds of two cores


@dataclass(frozen=True)
class Model:
    """As much of a base model as a merge asks for."""

    family: Family
    fingerprint: str = "random"

    @property
    def layers(self) -> tuple:
        return self.family.layers

    def shape_of(self, path: str) -> tuple[int, ...] | None:
        shapes = {f"{at.path}.{p}": at.shape(p) for at in self.layers for p in ("to_k", "to_v")}
        return shapes.get(path)


def concepts(family: Family, whole: bool) -> list[Concept]:
    """Whole keys and values with a row per word, or low-rank ones with a row per layer."""
    draw = torch.Generator().manual_seed(0)
    paths = tuple(layer.path for layer in family.layers)

    def update(shape: tuple[int, int]) -> Update:
        out, into = shape
        if whole:
            return FullRank(torch.randn(out, into, generator=draw) * 0.01)
        factors = torch.randn(RANK, into, generator=draw), torch.randn(out, RANK, generator=draw)
        return LowRank(*factors, float(RANK))

    def concept(number: int) -> Concept:
        words = (f"<new{number}>",) if whole else (f"<v{number}>", f"<w{number}>")
        updates = {
            f"{layer.path}.{part}": update(layer.shape(part))
            for layer in family.layers
            for part in ("to_k", "to_v")
        }
        rows = {
            row.name: torch.randn(len(words), 1 if whole else len(paths), row.dim, generator=draw)
            for row in family.encoders
        }
        subjects = (Subject(words, "dog", modifier=whole),)
        return Concept(f"c{number}", subjects, family.name, "random", paths, updates, rows)

    return [concept(number) for number in range(CONCEPTS)]


def states(family: Family, texts: Sequence[str], held: Sequence[Concept]) -> list[TextContext]:
    """Random states; the ones of concepts with a row per layer differ from layer to layer."""
    versions = max((r.shape[1] for c in held for r in c.rows.values()), default=1)
    found = []
    for text in texts:
        count = len(text.split()) if held else TOKENS - 1
        draw = torch.Generator().manual_seed(sum(text.encode()))
        made = torch.randn(versions, count + 2, family.context_dim, generator=draw)
        found.append(TextContext(made, None, Spans(plain=tuple(range(1, count + 1)))))
    return found


def merging(family: Family, whole: bool) -> Step:
    held, captions = concepts(family, whole), [f"caption {i}" for i in range(CAPTIONS)]
    model = Model(family)
    return lambda: merge(held, "m", model, lambda t, c: states(family, t, c), captions)


def released(family: Family) -> Step:
    """The same number of rows and matrices, M inverted for each of them in float32."""
    draw = torch.Generator().manual_seed(0)
    wide = family.context_dim
    regular = torch.randn(CAPTIONS * TOKENS, wide, generator=draw)
    rows = torch.randn(30, wide, generator=draw)
    shapes = [layer.shape(p) for layer in family.layers for p in ("to_k", "to_v")]
    weights = [torch.randn(*shape, generator=draw) for shape in shapes]

    def one(weight: Tensor) -> Tensor:
        d = torch.linalg.solve(regular.T @ regular, rows.T).T
        values = rows @ weight.T
        change = torch.linalg.solve(d @ rows.T, values - rows @ weight.T).T
        return weight + change @ d

    return lambda: [one(weight) for weight in weights]


def encoding(layers: int, inner: int) -> Step:
    """All shipped captions, no longer than they are, through a text encoder of random weights."""
    model = CLIPTextModel(CLIPTextConfig(**clip_config(layers, inner, VOCABULARY))).eval()
    lengths = [len(caption.split()) + 3 for caption in shipped_captions(FAMILIES["SD15"])]
    draw = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def step() -> None:
        for start in range(0, len(lengths), AT_ONCE):
            batch = lengths[start : start + AT_ONCE]
            model(torch.randint(0, VOCABULARY, (len(batch), max(batch)), generator=draw))

    return step


def compressing(family: Family) -> Step:
    concept = concepts(family, whole=True)[0]
    assert all(path.endswith(TEXT_SIDE) for path in concept.updates)
    return lambda: compress(concept)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="merging", description=__doc__.splitlines()[0])
    options, command = parse(parser, argv)
    small, large = (
        FAMILIES[n] for n in (("MINI", "MINI_XL") if options.quick else ("SD15", "SDXL"))
    )
    ways = {
        "encode the captions, CLIP-L": encoding(*((1, 64) if options.quick else (12, 3072))),
        "merge, whole keys and values": merging(small, whole=True),
        "merge, rank 4 and a row per layer": merging(small, whole=False),
        "merge as the public code does": released(small),
        "compress one concept": compressing(small),
        "merge on SDXL, rank 4 and a row per layer": merging(large, whole=False),
    }
    seconds = interleave({name: always(way) for name, way in ways.items()}, options.rounds, 1)
    best = {name: min(values) for name, values in seconds.items()}
    for name, value in best.items():
        print(f"{name:<44}{value:8.2f} s")
    what = f"merge of {CONCEPTS} concepts with its captions, {small.name}, CPU seconds"
    whole = best["encode the captions, CLIP-L"] + best["merge, whole keys and values"]
    targets = [target(what, whole, BAR_CPU_SECONDS)]
    print(verdict(targets))
    body = {"rounds": options.rounds, "concepts": CONCEPTS, "ordinary_rows": CAPTIONS * TOKENS}
    body |= {"family": small.name, "targets": targets, "seconds": best, "raw_seconds": seconds}
    write(options.out, "merging", command, body)


if __name__ == "__main__":
    main()
