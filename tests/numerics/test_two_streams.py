"""Infusion against float64, written from the paper's formulas (2404.14007)."""

import copy
import math

import pytest
import torch
from diffusers import DDPMScheduler
from infused import infused
from torch.testing import assert_close

from cidm_core.config import SampleConfig, TrainConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.learning import LearningHost
from cidm_core.diffusers_host.patches import attach
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.methods.batches import Batch
from cidm_core.ops.infusion import lent, masked_loss
from cidm_core.regions import Region
from cidm_core.updates import ValueResidual

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
CAT = "a photo of a cat on a table"


class DoubledByHand:
    """A = softmax(q_F k^T / sqrt(d)), out_F = W_out A v, out_C = W_out A v', v' = v + r at p.

    The batch is [F; C].
    """

    def __init__(self, context, grown):
        self.context, self.grown, self.maps = context.double(), grown, []

    def __call__(self, attn, hidden_states, *_, **__):
        def heads(x):
            return x.unflatten(-1, (attn.heads, -1)).transpose(-3, -2)

        key, value = attn.to_k(self.context), attn.to_v(self.context)
        foundation, _customised = hidden_states.chunk(2)
        query = heads(attn.to_q(foundation))
        shares = (query @ heads(key).mT / math.sqrt(query.shape[-1])).softmax(-1)
        out = [shares @ heads(v) for v in (value, value + self.grown)]
        return attn.to_out[0](torch.cat(out).transpose(-3, -2).flatten(-2))


def by_hand(base, text, concept, places, x, timestep, strength=1.0):
    """Estimates of both streams in float64: the foundation's and the customised one's."""
    unet = copy.deepcopy(base.unet).double()
    for index, layer in enumerate(base.layers):
        context = text.states[min(index, len(text.states) - 1)]
        grown = torch.zeros(len(context), layer.width, dtype=torch.float64)
        for p in places:
            grown[p] = strength * concept.updates[f"{layer.path}.to_v"].vector.double()
        unet.get_submodule(layer.path).processor = DoubledByHand(context, grown)
    empty = torch.zeros(2, 1, base.family.context_dim, dtype=torch.float64)
    return unet(x.double().repeat(2, 1, 1, 1), timestep, empty).sample.float()


def config(**given):
    return SampleConfig(**{"steps": 1, "width_px": 64, "height_px": 64, **given})


def ours(base, plan, x, timestep):
    """Estimates of all rows, those that lend behind their borrowers."""
    with attach(base, plan) as attached:
        estimate = sampler._Estimate(base, attached, 1, (8, 8), plan.config)
        return torch.cat(list(estimate._rows(x, torch.tensor(timestep))))


@pytest.fixture(scope="module")
def x():
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_two_streams_draw_as_the_formula_says(tiny_base, x, strength):
    cat = infused(tiny_base, "my_cat")
    plan = make_plan(
        tiny_base, {"my_cat": cat}, CAT, config=config(infuse="my_cat", strength=strength)
    )
    text = plan.slots[1].text
    ids = tiny_base.tokenizers[0](CAT).input_ids
    word = tiny_base.tokenizers[0]("cat", add_special_tokens=False).input_ids
    assert [ids[p] for p in text.spans.triggers["cat"]] == word
    foundation, customised = by_hand(tiny_base, text, cat, text.spans.ends, x, 500, strength)
    found = ours(tiny_base, plan, x, 500)
    assert len(found) == 3
    assert_close(found[1], customised, **CLOSE)
    assert_close(found[2], foundation, **CLOSE)
    assert (found[1] - found[2]).abs().max() > 1e-2


@torch.no_grad()
def test_a_region_draws_in_two_streams_as_the_formula_says(tiny_base, x):
    """A region over the whole picture is a row of its own, and so is its foundation stream."""
    cat = infused(tiny_base, "my_cat")
    region = Region(CAT, box=(0.0, 0.0, 1.0, 1.0))
    for attention in (False, True):
        given = config(infuse="my_cat", regional_attention=attention, feather=0.0)
        plan = make_plan(tiny_base, {"my_cat": cat}, "a room", [region], given)
        text = next(slot.text for slot in plan.slots if slot.prompt == CAT)
        foundation, customised = by_hand(tiny_base, text, cat, text.spans.ends, x, 300)
        found = ours(tiny_base, plan, x, 300)
        assert len(found) == 4
        assert_close(found[2], customised, **CLOSE)
        assert_close(found[3], foundation, **CLOSE)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_streams_learn_as_the_formula_says(tiny_base, x, checkpointing):
    """The estimate and its gradient, which flows through the customised stream alone."""
    cat = infused(tiny_base, "my_cat")
    live = {p: ValueResidual(torch.nn.Parameter(u.vector)) for p, u in cat.updates.items()}
    host = LearningHost(tiny_base, (), ("cat",))
    batch = Batch(x, torch.zeros_like(x), torch.tensor([0]), (CAT,), torch.ones(1, 8, 8))
    with host.attached(live, TrainConfig(gradient_checkpointing=checkpointing)):
        value = host.predict(batch, {}, two_streams=True).value
        value.square().sum().backward()
    plan = make_plan(tiny_base, {"my_cat": cat}, CAT, config=config(infuse="my_cat"))
    text = plan.slots[1].text
    signal = DDPMScheduler.from_config(tiny_base.scheduler_config).alphas_cumprod[0].sqrt()
    exact = {p: ValueResidual(u.vector.double().requires_grad_()) for p, u in cat.updates.items()}
    doubled = type("C", (), {"updates": exact})
    expected = by_hand(tiny_base, text, doubled, text.spans.ends, signal * x, 0)[1:]
    assert_close(value, expected, **CLOSE)
    expected.square().sum().backward()
    for path, update in live.items():
        assert_close(update.vector.grad, exact[path].vector.grad.float(), rtol=1e-2, atol=1e-3)


def test_queries_are_those_of_the_lending_row():
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    found = lent(x, torch.tensor([0, 2, 2]))
    for row, lender in enumerate((0, 2, 2)):
        assert torch.equal(found[row], x[lender])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_masked_loss_is_squared_and_not_renormalised(dtype):
    source = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 4, 5, generator=source).to(dtype) for _ in range(2))
    mask = torch.rand(2, 4, 5, generator=source)
    total = 0.0
    for n in range(2):
        for c in range(3):
            for i in range(4):
                for j in range(5):
                    m = float(mask[n, i, j])
                    total += (m * float(a[n, c, i, j]) - m * float(b[n, c, i, j])) ** 2
    assert_close(float(masked_loss(a, b, mask)), total / (2 * 3 * 4 * 5), rtol=1e-5, atol=1e-6)
    assert float(masked_loss(a, b, 0 * mask)) == 0
