"""What a training step costs, beside a plain peft LoRA step and the released way.

    python -m lab.speed.training_step [--model NAME] [--rounds N] [--out FILE] [--quick]

Ours is `train_concept` itself, from one progress event to the next: batch from cached latents,
layer-wise text, UNet, consolidation with ten earlier concepts, finite check, AdamW, log. The other
two run their steps inside our progress callback, so the three take turns. Models of random
weights, with a fifth of SD 1.5's widths and CLIP's table of 49,408 rows:

fifth-512px  64 x 64 latents, 12 text layers: the parts cost each other's multiples as in SD 1.5
fifth-128px  16 x 16 latents, 1 text layer: the same shares, but a step so small that what is not
             model arithmetic weighs as much as it does on a fast GPU
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cidm_core.bank import Bank
from cidm_core.concept import Subject
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.learning import LearningHost
from cidm_core.diffusers_host.train import train_concept
from cidm_core.methods.base import Task
from cidm_core.methods.batches import Batch
from cidm_core.methods.cidm import Cidm, CidmConfig
from cidm_core.ops.consolidation_model import CommonSubspace, Orthogonality
from cidm_core.training.data import Photo

from .consolidation import backward, concepts, layer_shapes
from .measure import Way, always, as_table, interleave, parse, summary, target, verdict, write
from .models import PROPORTIONS, Proportions, make_concepts, make_proportional
from .turns import OURS, Turns, count_flops
from .yardsticks import PeftStep, ReleasedStep

WORDS, CLASS = ("<new1>", "<new2>"), "dog"
CAPTION = "a photo of a dog in a house"
_PROMPT = "a photo of a <new1> <new2> in a house"
EARLIER, PHOTOS = 10, 2
CONSOLIDATED: dict[str, Any] = {"orthogonality": "subspace", "common_subspace": "closed_form"}
PEFT, RELEASED = "plain peft LoRA step", "released way"
SD15_PART = "R1 + R2, SD 1.5"
SD15_STEP_TFLOP = 2.100  # batch 1, 512 px, cached latents, 16 prompts, forward and backward
_TIMING = (
    "CPU seconds (time.process_time), one thread; the three steps take turns within one run of "
    "train_concept, rotated, minimum over all rounds; parts: interleaved, minimum over all rounds"
)


def random_photos(cells: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.rand(8 * cells, 8 * cells, 3, generator=draw) for _ in range(PHOTOS)]


def side_by_side(
    base: Base, size: Proportions, rounds: int
) -> tuple[Turns, PeftStep, ReleasedStep]:
    """One run of `train_concept` with the two yardsticks in its callback."""
    images = random_photos(size.cells)
    pixels = torch.stack(images).permute(0, 3, 1, 2) * 2 - 1
    old = make_concepts(base, EARLIER)
    rows = 0.02 * torch.randn(2, len(base.layers), size.text_dim)
    released = ReleasedStep(base, pixels, _PROMPT, WORDS, rows, list(old.values()))
    cached = torch.cat([released.latents() for _ in range(PHOTOS)])
    peft = PeftStep(base, cached, _PROMPT, WORDS, rows)
    turns = Turns({PEFT: peft, RELEASED: released}, rounds)
    config = CidmConfig(steps=turns.steps, resolution_px=8 * size.cells, variants=1, **CONSOLIDATED)
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank(folder)
        for concept in old.values():
            bank.add(concept)
        photos = [Photo.from_image(image, CAPTION) for image in images]
        train_concept(
            base, bank, photos, words=WORDS, class_words=CLASS, config=config, on_progress=turns
        )
    return turns, peft, released


def step_agreement(base: Base, size: Proportions) -> dict[str, float]:
    """Largest difference of the predicted noise, all low-rank weights still being zero."""
    rows = 0.02 * torch.randn(2, len(base.layers), size.text_dim)
    shape = (1, 4, size.cells, size.cells)
    latents, noise, timestep = torch.randn(shape), torch.randn(shape), torch.tensor([400])
    pixels = torch.zeros(1, 3, 8, 8)
    peft = PeftStep(base, latents, _PROMPT, WORDS, rows)
    released = ReleasedStep(base, pixels, _PROMPT, WORDS, rows, [])
    host = LearningHost(base, WORDS)
    mask = torch.ones(1, size.cells, size.cells)
    batch = Batch(latents, noise, timestep, (_PROMPT,), mask)
    with torch.no_grad(), host.attached(method(base, host, {}).updates):
        ours = host.predict(batch, {"text_encoder": rows}, watch=False).value
        theirs = {PEFT: peft, RELEASED: released}
        return {
            f"{OURS} vs {name}": (
                (step.predict(latents, noise, timestep) - ours).abs().max() / ours.abs().max()
            ).item()
            for name, step in theirs.items()
        }


def method(base: Base, host: LearningHost, old: Mapping) -> Cidm:
    task = Task(
        name="new",
        subjects=(Subject(WORDS, CLASS),),
        family=base.family.name,
        base=base.fingerprint,
        layers=base.layers,
    )
    return Cidm(task, CidmConfig(**CONSOLIDATED), list(old.values()), host)


def parts(base: Base, peft: PeftStep, released: ReleasedStep) -> dict[str, Way]:
    """What stands beside the UNet in a step, each alone, forward and backward."""
    ours = method(base, LearningHost(base, WORDS), make_concepts(base, EARLIER))
    leaves = [tensor for pair in ours.updates.values() for tensor in (pair.up, pair.down)]

    def penalty() -> Tensor:
        return torch.stack(list(ours.penalties().values())).sum()

    def clear() -> None:
        released.optimiser.zero_grad()
        released.table.grad = torch.zeros_like(released.table)

    @contextmanager
    def updating() -> Iterator[Callable[[], None]]:
        clear()
        yield released.update

    return {
        "ours: R1 + R2": always(backward(penalty, leaves)),
        "released: R1 + pull": always(
            backward(released.consolidation, list(released.ups.values()))
        ),
        "released: VAE": always(released.latents),
        "released: AdamW on the table, rows put back": updating,
        "all: text, 16 rows": always(backward(lambda: peft.encode().sum(), [peft.rows])),
    }


def at_real_size() -> dict[str, Way]:
    """R1 + R2 on SD 1.5's own layer shapes, ten earlier concepts."""
    shapes = layer_shapes("SD15")
    new = next(iter(concepts(shapes, 1)))
    ups = {key: pair.up.clone().requires_grad_() for key, pair in new.items()}
    pairs = {key: (ups[key], pair.down.clone().requires_grad_()) for key, pair in new.items()}
    r1 = Orthogonality.prepare(concepts(shapes, EARLIER), "subspace")
    r2 = CommonSubspace.prepare(concepts(shapes, EARLIER), 16, "closed_form")
    leaves = [tensor for pair in pairs.values() for tensor in pair]
    return {SD15_PART: always(backward(lambda: r1.loss(ups) + r2.loss(pairs), leaves))}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="training_step", description=__doc__.splitlines()[0])
    names = [name for name in PROPORTIONS if name != "tiny"]
    parser.add_argument("--model", choices=names, help="default: both")
    options, command = parse(parser, argv)
    chosen = ["tiny"] if options.quick else [options.model] if options.model else names
    results = {}
    for name in chosen:
        results[name] = measure_model(name, options.rounds, options.quick)
    write(
        options.out,
        "training_step",
        command,
        {
            "timing": _TIMING,
            "rounds": options.rounds,
            "earlier_concepts": EARLIER,
            "results": results,
        },
    )


def measure_model(name: str, rounds: int, quick: bool) -> dict:
    size = PROPORTIONS[name]
    base = make_proportional(size)
    same = step_agreement(base, size)
    turns, peft, released = side_by_side(base, size, rounds)
    steps = summary({way: turns.seconds[way] for way in (PEFT, OURS, RELEASED)}, PEFT)
    print(as_table(f"{name}: one step", steps, PEFT), end="\n\n", flush=True)
    raw = interleave(parts(base, peft, released) | ({} if quick else at_real_size()), rounds)
    single = {part: min(values) * 1e3 for part, values in raw.items()}
    print("\n".join(f"{part:48}{ms:10.2f} ms" for part, ms in single.items()), end="\n\n")
    facts = {
        "agreement": same,
        "tflop_per_step": turns.tflop,
        "kernels_per_step": turns.kernels,
        "kernels_released_vs_ours": turns.kernels[RELEASED] / turns.kernels[OURS],
        "vae_per_unet_forward": vae_share(base, released, size),
        "last_losses": turns.last_losses,
        **shares(single, steps[OURS]["ms"], turns.tflop[OURS]),
    }
    print("\n".join(f"{key}: {value}" for key, value in facts.items()), end="\n\n")
    targets = step_targets(steps, facts)
    print(verdict(targets), end="\n\n", flush=True)
    return {
        "targets": targets,
        "steps": steps,
        "parts_ms": single,
        "facts": facts,
        "raw_seconds": {"steps": turns.seconds, "parts": raw},
    }


def vae_share(base: Base, released: ReleasedStep, size: Proportions) -> float:
    """Operations of encoding a photo beside those of a UNet forward pass; 1.39 in SD 1.5."""
    x = torch.zeros(1, 4, size.cells, size.cells)
    states = torch.zeros(1, 77, size.text_dim)
    with torch.no_grad(), count_flops() as vae:
        released.latents()
    with torch.no_grad(), count_flops() as unet:
        base.unet(x, torch.tensor(1), encoder_hidden_states=states)
    return vae.get_total_flops() / unet.get_total_flops()


def shares(single: Mapping[str, float], ours_ms: float, ours_tflop: float) -> dict[str, float]:
    """Consolidation within our step: here, and of SD 1.5's shapes in a step of SD 1.5's size."""
    found = {"consolidation_share_here": single["ours: R1 + R2"] / ours_ms}
    if SD15_PART in single:
        real = SD15_STEP_TFLOP / ours_tflop * ours_ms
        found["sd15_step_ms_at_this_rate"] = real
        found["consolidation_share_sd15"] = single[SD15_PART] / real
    return found


def step_targets(
    steps: Mapping[str, Mapping[str, float]], facts: Mapping
) -> list[dict[str, object]]:
    faster = steps[RELEASED]["ms"] / steps[OURS]["ms"]
    targets = [
        target("ours vs plain peft step", steps[OURS]["ratio"], 1.25),
        target("released way vs ours", faster, 3.0, at_most=False),
    ]
    if (share := facts.get("consolidation_share_sd15")) is not None:
        targets.append(target("consolidation, share of an SD 1.5 step", share, 0.01))
    return targets


if __name__ == "__main__":
    main()
