"""What tests of drawing share: two regions and their prompt, few steps, seeded latents."""

import torch

from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.regions import Region

TWO = [Region("a <v1> <w1>", box=(0, 0, 0.6, 1)), Region("a <v2> <w2>", box=(0.4, 0.2, 1, 1))]
PROMPT = "a <v1> <w1> and a <v2> <w2>"


def config(**given):
    return SampleConfig(**{"steps": 3, "width_px": 64, "height_px": 64, "seed": 5, **given})


def latents(base, bank, prompt, regions=(), start=None, **given):
    settings = config(**given)
    plan = make_plan(base, bank, prompt, regions, settings)
    noise = torch.randn(len(plan.scenes), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return sampler.sample(base, plan, noise, settings, start)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
