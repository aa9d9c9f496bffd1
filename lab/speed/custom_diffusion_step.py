"""What a step of Custom Diffusion costs, beside that of diffusers' example script.

    python -m lab.speed.custom_diffusion_step [--rounds N] [--out FILE] [--quick]

Ours is `train_concept` itself, from one progress event to the next: one photo and one prior picture
from cached latents, their captions, UNet, finite check, AdamW, log. The others run their steps
inside our progress callback, so that all take turns:

example      as diffusers' script does it, rebuilt from a description: both pictures through the
             VAE, keys and values of their own in every attn2, CLIP's whole table of embeddings in
             AdamW and the gradient of its old rows zeroed
bare         the same arithmetic with cached latents and the one row alone
"""

import argparse
import copy
import tempfile
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from cidm_core.bank import Bank
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.train import train_concept
from cidm_core.methods.custom_diffusion import CustomDiffusionConfig
from cidm_core.training.data import Photo

from .measure import as_table, parse, summary, target, verdict, write
from .models import PROPORTIONS, Proportions, make_proportional
from .turns import OURS, Turns

EXAMPLE, BARE = "example", "bare"
LR = 8e-5
_CAPTIONS = ("photo of a dog", "photo of a dog")
_TIMING = (
    "CPU seconds (time.process_time), one thread; the three steps take turns within one run of "
    "train_concept, rotated, minimum over all rounds"
)


class PlainStep:
    """One photo and one prior picture: masked loss, plain prior loss, AdamW on keys and values.

    Args:
        base: The model; copies of it are learned with.
        pixels: (2, 3, height, width) in [-1, 1].
        whole: Whether pictures go through the VAE and the whole table learns, as in the script.
    """

    def __init__(self, base: Base, pixels: Tensor, *, whole: bool) -> None:
        self.pixels, self.vae, self.whole = pixels, base.vae, whole
        self.unet = copy.deepcopy(base.unet).requires_grad_(False)
        self.text = copy.deepcopy(base.text_encoders[0]).requires_grad_(False)
        self.schedule = DDPMScheduler.from_config(base.scheduler_config)
        paths = [f"{layer.path}.{side}" for layer in base.layers for side in ("to_k", "to_v")]
        weights = [self.unet.get_submodule(path).weight for path in paths]
        for path in paths:  # the start token teaches nothing
            self.unet.get_submodule(path).register_forward_hook(_without_start)
        self.first = self.text.config.vocab_size
        self.text.resize_token_embeddings(self.first + 1, mean_resizing=False)
        table: Tensor = self.text.get_input_embeddings().weight
        self.row = nn.Parameter(table[self.first].detach().clone())
        self.learned = [weight.requires_grad_() for weight in weights]
        self.learned.append(table.requires_grad_() if whole else self.row)
        self.optimiser = torch.optim.AdamW(self.learned, lr=LR, weight_decay=0.01, foreach=True)
        self.ids = self._ids(base)
        self.cached = self._latents()

    def _ids(self, base: Base) -> Tensor:
        tokenizer = base.tokenizers[0]
        ids = [
            tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
            for text in _CAPTIONS
        ]
        ids[0][4] = self.first  # "photo of a <new1>"
        return torch.tensor(ids)

    def _latents(self) -> Tensor:
        with torch.no_grad():
            found = self.vae.encode(self.pixels).latent_dist.sample()
        return found * self.vae.config.scaling_factor

    def _states(self) -> Tensor:
        if self.whole:
            return self.text(self.ids).last_hidden_state

        def put_in(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            return output.index_put((torch.tensor([0]), torch.tensor([4])), self.row)

        handle = self.text.get_input_embeddings().register_forward_hook(put_in)
        states = self.text(self.ids).last_hidden_state
        handle.remove()
        return states

    def __call__(self) -> float:
        latents = self._latents() if self.whole else self.cached
        noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (2,))
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        found = self.unet(noisy, timesteps, encoder_hidden_states=self._states()).sample
        error = F.mse_loss(found[:1], noise[:1], reduction="none")
        mask = torch.ones_like(error[:, :1])
        loss = ((error * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))).mean()
        loss = loss + F.mse_loss(found[1:], noise[1:])
        loss.backward()
        if self.whole:
            self.learned[-1].grad[: self.first] = 0
        nn.utils.clip_grad_norm_(self.learned, 1.0, foreach=True)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.item()


def _without_start(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
    return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)


def side_by_side(base: Base, size: Proportions, rounds: int) -> Turns:
    """One run of `train_concept` with both yardsticks in its callback."""
    side = 8 * size.cells
    draw = torch.Generator().manual_seed(3)
    images = torch.rand(2, side, side, 3, generator=draw)
    pixels = images.permute(0, 3, 1, 2) * 2 - 1
    steps = {
        EXAMPLE: PlainStep(base, pixels, whole=True),
        BARE: PlainStep(base, pixels, whole=False),
    }
    turns = Turns(steps, rounds)
    config = CustomDiffusionConfig(
        steps=turns.steps,
        batch_size=1,
        accumulation=1,
        variants=1,
        resolution_px=side,
        prior_batches="paired",
        initializers="700",
    )
    with tempfile.TemporaryDirectory() as folder:
        train_concept(
            base,
            Bank(folder),
            [Photo.from_image(images[0], "photo of a dog")],
            words="<new1>",
            class_words="dog",
            method="custom_diffusion",
            config=config,
            prior=[Photo.from_image(images[1], "photo of a dog")],
            on_progress=turns,
        )
    return turns


def main(argv: list[str] | None = None) -> None:
    doc = __doc__ or ""
    parser = argparse.ArgumentParser(prog="custom_diffusion_step", description=doc.splitlines()[0])
    options, command = parse(parser, argv)
    results: dict[str, Mapping[str, object]] = {}
    for name in ("tiny",) if options.quick else ("fifth-512px", "fifth-128px"):
        size = PROPORTIONS[name]
        turns = side_by_side(make_proportional(size), size, options.rounds)
        ways = (BARE, EXAMPLE, OURS)
        steps = summary({way: turns.seconds[way] for way in ways}, BARE)
        print(as_table(f"{name}: one step", steps, BARE), end="\n\n", flush=True)
        targets = [
            target("ours vs example", steps[OURS]["ms"] / steps[EXAMPLE]["ms"], 1.25),
            target("ours vs bare", steps[OURS]["ratio"], 1.25),
        ]
        print(verdict(targets), end="\n\n", flush=True)
        results[name] = {
            "targets": targets,
            "steps": steps,
            "tflop_per_step": turns.tflop,
            "raw_seconds": turns.seconds,
        }
    body = {"timing": _TIMING, "rounds": options.rounds, "results": results}
    write(options.out, "custom_diffusion_step", command, body)


if __name__ == "__main__":
    main()
