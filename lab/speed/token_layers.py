"""What layers that share a word's rows save: the text part of a learning step, 1 to L versions.

    python -m lab.speed.token_layers --model FILE [--out FILE] [--quick]

FILE is any checkpoint; SDXL's shapes: `python tests/tools/make_checkpoint.py FILE --preset
sdxl-full`. Timed are encoding one prompt for all layers with its backward pass, and the UNet's
forward and backward pass on latents of `--cells`, all in bf16 on one thread.
"""

import argparse
import time
from collections.abc import Callable

import torch

from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.encode import encode
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.sizes import added_conditions
from cidm_core.sampling.versions import TOKEN_LAYERS, shared_versions
from cidm_core.sizes import PictureSizes

from .measure import parse, write

PROMPT = "a photo of <d1> <d2> in a house"
TIMING = "CPU seconds (time.process_time), one thread, minimum of the rounds, one way after another"


def seconds(step: Callable[[], object], rounds: int) -> float:
    """CPU seconds of the fastest of some calls."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times)


def text_step(base: Base, versions: int) -> Callable[[], object]:
    rows = {
        word: {
            row.name: torch.randn(versions, row.dim).mul(0.02).requires_grad_()
            for row in base.family.encoders
        }
        for word in ("<d1>", "<d2>")
    }

    def step() -> None:
        states, pooled = encode(base, [PROMPT], rows)
        parts = [states] if pooled is None else [states, pooled]
        torch.stack([part.float().sum() for part in parts]).sum().backward()

    return step


def unet_step(base: Base, cells: int) -> Callable[[], object]:
    context = torch.zeros(1, 77, base.family.context_dim, dtype=base.dtype, requires_grad=True)
    latents = torch.randn(1, base.family.latent_channels, cells, cells).to(base.dtype)
    given = {}
    if base.family.encoders[-1].pooled:
        pooled = torch.zeros(1, base.family.encoders[-1].dim, dtype=base.dtype)
        sizes = PictureSizes.whole(cells * base.family.latent_px, cells * base.family.latent_px)
        given["added_cond_kwargs"] = added_conditions(pooled, [sizes])

    def step() -> None:
        base.unet(latents, 500, context, **given).sample.float().sum().backward()

    return step


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="token_layers", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint or diffusers folder")
    parser.add_argument("--cells", type=int, default=32, help="side of the latents")
    options, command = parse(parser, argv)
    base = load_base(options.model, device="cpu", dtype="bf16")
    for module in (base.unet, *base.text_encoders):
        module.requires_grad_(False)
    paths = [layer.path for layer in base.layers]
    rows = []
    for sharing in TOKEN_LAYERS:
        versions = max(shared_versions(paths, sharing)) + 1
        spent = seconds(text_step(base, versions), options.rounds)
        rows.append({"token_layers": sharing, "versions": versions, "text_s": round(spent, 2)})
        print(rows[-1], flush=True)
    unet = seconds(unet_step(base, 8 if options.quick else options.cells), options.rounds)
    print({"unet_s": round(unet, 2), "cells": options.cells}, flush=True)
    body = {"timing": TIMING, "rows": rows, "unet_s": round(unet, 2), "cells": options.cells}
    write(options.out, "token_layers", command, body)


if __name__ == "__main__":
    main()
