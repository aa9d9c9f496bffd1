"""One model at one noise level: the ways of making a guided estimate, and what needs no clock."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from cidm_core.concept import Concept
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.encode import DiffusersEncoder
from cidm_core.diffusers_host.patches import attach
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.diffusers_host.sampler import _Estimate, sample
from cidm_core.ops import aggregation
from cidm_core.ops.guidance import classifier_free
from cidm_core.sampling.concept_weights import concept_tokens
from cidm_core.sampling.plan import Plan

from .measure import Way, always
from .models import SAMPLE_PROMPT
from .released_sampling import released


class Estimates:
    """One model, one noise level, and the ways of making one guided estimate."""

    def __init__(self, base: Base, cells: int) -> None:
        self.base, self.cells = base, cells
        self.latents = torch.randn(1, 4, cells, cells, generator=torch.Generator().manual_seed(1))
        self.timestep = torch.tensor(500)

    def config(self, **given: object) -> SampleConfig:
        px = self.cells * self.base.family.latent_px
        return SampleConfig(**{"width_px": px, "height_px": px, "weights": "paper", **given})

    def plan(self, bank: Mapping[str, Concept], regions=(), prompt=SAMPLE_PROMPT, **given) -> Plan:
        return make_plan(self.base, bank, prompt, regions, self.config(**given))

    def bare(self, rows: int = 2) -> Way:
        """The UNet as it is, with ordinary contexts and plain guidance."""
        contexts = torch.randn(rows, 77, 768, generator=torch.Generator().manual_seed(2))

        def step() -> Tensor:
            x = self.latents.expand(rows, -1, -1, -1)
            eps = self.base.unet(x, self.timestep, encoder_hidden_states=contexts).sample
            return classifier_free(eps[1:2], eps[:1], 7.5)

        return always(step)

    def ours(self, plan: Plan, execution: str) -> Way:
        @contextmanager
        def opened() -> Iterator[Callable[[], Tensor]]:
            with attach(self.base, plan, execution) as attached:
                size, pictures = (self.cells, self.cells), len(plan.scenes)
                estimate = _Estimate(self.base, attached, pictures, size, self.config())
                x = self.latents.expand(pictures, -1, -1, -1)
                yield lambda: estimate(x, self.timestep)

        return opened

    def weighing(self, bank: Mapping[str, Concept]) -> Callable[[], Tensor]:
        """Relevance and weights of one encoded prompt, as the plan computes them."""
        encoder, concepts = DiffusersEncoder(self.base), list(bank.values())
        [text] = encoder.prompts([SAMPLE_PROMPT], concepts)
        context = text.states.double()
        tokens, words = concept_tokens(encoder, concepts, joint=False)
        tokens = tokens.transpose(0, 1).double()

        def step() -> Tensor:
            return aggregation.normalise(aggregation.relevance(context, tokens, words))

        return step

    def released(self, bank: Mapping[str, Concept]) -> Way:
        encoder, concepts = DiffusersEncoder(self.base), list(bank.values())
        layers = len(self.base.layers)
        texts = encoder.prompts(["", SAMPLE_PROMPT], concepts)
        contexts = torch.stack([text.states.expand(layers, -1, -1) for text in texts])
        tokens, _ = concept_tokens(encoder, concepts, joint=False)
        x = self.latents.expand(2, -1, -1, -1)

        def step() -> Tensor:
            # The processors bring their own text; the argument only has to be there.
            eps = self.base.unet(x, self.timestep, encoder_hidden_states=contexts[:, 0]).sample
            return classifier_free(eps[1:], eps[:1], 7.5)

        @contextmanager
        def opened() -> Iterator[Callable[[], Tensor]]:
            with released(self.base, bank, contexts, tokens):
                yield step

        return opened


def sampling_agreement(bench: Estimates, bank: Mapping[str, Concept]) -> dict[str, float]:
    """Largest difference between the executions, and to the released way under its own rule."""

    def value(variant: Way) -> Tensor:
        with variant() as step:
            return step()  # type: ignore[return-value]

    dense, rule = bench.plan(bank), bench.plan(bank, weights="released")
    merged, branch = value(bench.ours(dense, "merged")), value(bench.ours(dense, "per_sample"))
    ours, theirs = value(bench.ours(rule, "per_sample")), value(bench.released(bank))
    return {
        "merged_vs_per_sample": ((merged - branch).abs().max() / merged.abs().max()).item(),
        "ours_vs_released_way": ((ours - theirs).abs().max() / ours.abs().max()).item(),
    }


def differing_bytes(bench: Estimates, plan: Plan, times: int = 3) -> int:
    """Bytes of the UNet that differ after merging, a step and un-merging, several times over."""
    before = {key: value.clone() for key, value in bench.base.unet.state_dict().items()}
    for _ in range(times):
        with bench.ours(plan, "merged")() as step:
            step()
    after = bench.base.unet.state_dict()
    return sum(
        int((value.view(torch.uint8) != after[key].view(torch.uint8)).sum())
        for key, value in before.items()
        if value.ndim
    )


def counters(
    bench: Estimates, plan_of: Callable[[], Plan], execution: str, steps: int = 3
) -> dict[str, int]:
    """What happens before the first UNet call, and what within the step loop."""
    counts = {"unet_calls": 0, "unet_rows": 0}
    names = ("aggregation_evaluations", "key_value_projections")
    counts |= {f"{name}_{when}": 0 for name in names for when in ("before", "in_loop")}

    def count(name: str) -> None:
        counts[f"{name}_{'in_loop' if counts['unet_calls'] else 'before'}"] += 1

    def unet_hook(_module: object, inputs: tuple[Tensor, ...]) -> None:
        counts["unet_calls"] += 1
        counts["unet_rows"] += len(inputs[0])

    unet, config = bench.base.unet, bench.config(steps=steps, execution=execution)
    hooks = [unet.register_forward_pre_hook(unet_hook)]
    for layer in bench.base.layers:
        for projection in (".to_k", ".to_v"):
            linear = unet.get_submodule(layer.path + projection)
            hooks.append(linear.register_forward_hook(lambda *_: count("key_value_projections")))
    normalise = aggregation.normalise

    def counted(*args: object, **named: object) -> Tensor:
        count("aggregation_evaluations")
        return normalise(*args, **named)  # type: ignore[arg-type]

    with mock.patch.object(aggregation, "normalise", counted):
        plan = plan_of()
        sample(bench.base, plan, bench.latents, config)
    for hook in hooks:
        hook.remove()
    return {"steps": steps, **counts}
