"""Keys and values routed by token, residuals by box: in the plan, in the layers, in pictures."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from make import random_concept
from torch.testing import assert_close

from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.patches import Rows, attach
from cidm_core.diffusers_host.pipeline import generate, make_plan
from cidm_core.errors import CidmError, HostError
from cidm_core.ops import attention, routing
from cidm_core.regions import Region

PROMPT = "a <v1> <w1> and a <v2> <w2>"
TWO = [Region("a <v1> <w1>", box=(0, 0, 0.6, 1)), Region("a <v2> <w2>", box=(0.4, 0.2, 1, 1))]
HALVES = [Region("a <v1> <w1>", box=(0, 0, 0.5, 1)), Region("a <v2> <w2>", box=(0.5, 0, 1, 1))]
TOKEN = {"key_value_routing": "token"}
BOX = {"residual_routing": "box", "noise_estimation": False}


@pytest.fixture(scope="module")
def concepts(tiny_base):
    made = [random_concept(tiny_base, f"<v{i}> <w{i}>", seed=i) for i in (1, 2, 3)]
    return {concept.name: concept for concept in made}


def config(**given):
    return SampleConfig(**{"steps": 2, "width_px": 64, "height_px": 64, "seed": 5, **given})


def latents(base, bank, prompt, regions=(), **given):
    settings = config(**given)
    plan = make_plan(base, bank, prompt, regions, settings)
    noise = torch.randn(len(plan.scenes), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return sampler.sample(base, plan, noise, settings)


def close(a, b):
    assert_close(a, b, rtol=1e-4, atol=1e-4)


def delta(pair):
    return pair.alpha / pair.down.shape[0] * pair.up.double() @ pair.down.double()


def test_off_there_is_no_routing_in_the_plan(tiny_base, concepts):
    plan = make_plan(tiny_base, concepts, PROMPT, config=config())
    assert plan.residual_routing == "row"
    assert all(slot.owners is None and slot.token_weights is None for slot in plan.slots)


def test_words_belong_to_their_concepts_and_the_ends_to_the_prompt(tiny_base, concepts):
    plan = make_plan(tiny_base, concepts, "a <w2> a <v1> <w1>", config=config(**TOKEN))
    names = [concept.name for concept in plan.concepts]
    owners = plan.slots[1].owners.tolist()
    one, two = names.index("v1"), names.index("v2")
    words = [routing.BARE, two, routing.BARE, one, one]
    assert owners == [routing.PROMPT, *words, *[routing.PROMPT] * 71]
    assert set(plan.slots[0].owners.tolist()) == {routing.PROMPT}  # the empty negative prompt


def test_a_prompt_that_is_cut_has_an_end_too(tiny_base, concepts):
    plan = make_plan(tiny_base, concepts, "<v1> " + "very " * 90, config=config(**TOKEN))
    owners = plan.slots[1].owners.tolist()
    assert owners == [routing.PROMPT, 0, *[routing.BARE] * 74, routing.PROMPT]


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("execution", ["merged", "per_sample"])
def test_keys_and_values_in_the_layers_equal_the_formula(tiny_base, concepts, execution, strength):
    """float64: K_j = (W + sum_k 1[j in tokens_k] delta_k) e_j; the ends with psi instead of 1."""
    plan = make_plan(tiny_base, concepts, PROMPT, config=config(strength=strength, **TOKEN))
    slot = plan.slots[1]
    for index in (0, len(plan.layers) - 1):
        layer = plan.layers[index]
        with attach(tiny_base, plan, execution):
            held = tiny_base.unet.get_submodule(layer).processor
        for name, found in (("to_k", held.key[1]), ("to_v", held.value[1])):
            key = f"{layer}.{name}"
            weight = tiny_base.unet.get_submodule(key).weight.double()
            for j, e in enumerate(slot.context[index].double()):
                owner, matrix = int(slot.owners[j]), weight.clone()
                for k, concept in enumerate(plan.concepts):
                    psi = float(slot.weights[index, k]) if owner == routing.PROMPT else owner == k
                    matrix += strength * psi * delta(concept.low_rank[key])
                assert_close(found[j].double(), matrix @ e, rtol=1e-4, atol=1e-4)


def test_keys_and_values_are_projected_once_per_prompt(tiny_base, concepts, monkeypatch):
    calls, projections = [], []
    forward = tiny_base.unet.forward
    monkeypatch.setattr(
        tiny_base.unet, "forward", lambda x, *a, **k: calls.append(len(x)) or forward(x, *a, **k)
    )
    handles = [
        tiny_base.unet.get_submodule(f"{layer.path}.{name}").register_forward_hook(
            lambda *_: projections.append(len(calls))
        )
        for layer in tiny_base.layers
        for name in ("to_k", "to_v")
    ]
    latents(tiny_base, concepts, [PROMPT, "a <v3> <w3>"], **TOKEN)
    for handle in handles:
        handle.remove()
    assert calls == [4, 4]
    assert projections == [0] * 2 * len(tiny_base.layers)


def test_token_routing_merged_equals_per_sample_and_differs_from_the_default(tiny_base, concepts):
    a, b = (latents(tiny_base, concepts, PROMPT, execution=e, **TOKEN) for e in ("merged", "auto"))
    close(a, b)
    close(a, latents(tiny_base, concepts, PROMPT, execution="per_sample", **TOKEN))
    assert (a - latents(tiny_base, concepts, PROMPT)).abs().max() > 1e-3


def test_token_routing_of_a_prompt_without_concepts_changes_nothing(tiny_base, concepts):
    plain = latents(tiny_base, concepts, "a thing")
    assert torch.equal(latents(tiny_base, concepts, "a thing", **TOKEN), plain)


def test_the_other_concept_does_not_reach_a_words_keys(tiny_base, concepts):
    """At the same token vectors a word's key is the same whoever else has weight."""
    plan = make_plan(tiny_base, concepts, PROMPT, config=config(**TOKEN))
    changed = dict(concepts["v2"].low_rank)
    key = f"{plan.layers[0]}.to_k"
    changed[key] = replace(changed[key], up=changed[key].up * 2)
    other = replace(concepts["v2"], factors=changed)
    found = []
    for second in (concepts["v2"], other):
        taking = tuple(second if c.name == "v2" else c for c in plan.concepts)
        with attach(tiny_base, replace(plan, concepts=taking)):
            found.append(tiny_base.unet.get_submodule(plan.layers[0]).processor.key[1])
    owners = plan.slots[1].owners
    one, two = ([c.name for c in plan.concepts].index(name) for name in ("v1", "v2"))
    assert torch.equal(found[0][owners == one], found[1][owners == one])
    assert not torch.equal(found[0][owners == two], found[1][owners == two])


def test_prompts_side_by_side_equal_prompts_alone(tiny_base, concepts):
    prompts = [PROMPT, "a <v2> <w2>", "a plain thing"]
    together = latents(tiny_base, concepts, prompts, **TOKEN)
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for i, prompt in enumerate(prompts):
        plan = make_plan(tiny_base, concepts, prompt, config=config(**TOKEN))
        close(sampler.sample(tiny_base, plan, noise[i : i + 1], config())[0], together[i])


def reference_layer(attn, plan, index, x, latent):
    """One row (cells, dim) in float64: queries and outputs of every place from its shares."""
    scene, layer = plan.scenes[0], plan.layers[index]
    cells, masks = len(x), attention.resize_mask(scene.masks, *latent).flatten(1).double()

    def matrix(name, slot):
        weight = attn.get_submodule(name).weight.double().clone()
        for w, c in zip(plan.slots[slot].weights[index].tolist(), plan.concepts, strict=True):
            weight += w * delta(c.low_rank[f"{layer}.{name}"])
        return weight

    inside = [slot for slot, _ in scene.regional[1]]
    slots, width = [scene.rows[1], *inside], attn.to_q.weight.shape[0] // attn.heads
    keys, values = (
        [plan.slots[s].context[index].double() @ matrix(name, s).T for s in slots]
        for name in ("to_k", "to_v")
    )
    queries, outputs = ([matrix(name, s) for s in slots] for name in ("to_q", "to_out.0"))
    out = torch.zeros(cells, attn.to_out[0].weight.shape[0], dtype=torch.float64)
    for p in range(cells):
        cover = float(masks[:, p].sum())
        shares = [1 - min(1.0, cover), *(float(m[p]) / max(1.0, cover) for m in masks)]
        query = sum(s * w for s, w in zip(shares, queries, strict=True)) @ x[p].double()
        mixed = torch.zeros_like(query)
        for share, key, value in zip(shares, keys, values, strict=True):
            for h in range(attn.heads):
                part = slice(h * width, (h + 1) * width)
                logits = key[:, part] @ query[part] / math.sqrt(width)
                mixed[part] += share * (logits.softmax(0) @ value[:, part])
        out[p] = sum(s * w for s, w in zip(shares, outputs, strict=True)) @ mixed
    return out + attn.to_out[0].bias.double()


@pytest.mark.parametrize(("index", "latent"), [(0, (8, 8)), (2, (4, 4))])
def test_a_layer_routed_by_box_equals_the_formula(tiny_base, concepts, index, latent):
    """Soft, overlapping regions; the row without inserts is plain attention."""
    plan = make_plan(tiny_base, concepts, PROMPT, TWO, config(feather=0.2, **BOX))
    attn = tiny_base.unet.get_submodule(plan.layers[index])
    cells = latent[0] * latent[1]
    x = torch.randn(2, cells, attn.to_q.weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), attach(tiny_base, plan) as attached:
        estimate = sampler._Estimate(tiny_base, attached, 1, (8, 8), config())
        attached.rows = Rows(estimate.slots, estimate.inserts, (8, 8))
        found = attn.processor(attn, x)
        again = attn.processor(attn, x)
        attached.rows = Rows(estimate.slots, (), (8, 8))
        without = attn.processor(attn, x)
    expected = reference_layer(attn, plan, index, x[1], latent)
    assert_close(found[1].double(), expected, rtol=1e-4, atol=1e-4)
    close(found[0], without[0])
    assert torch.equal(found, again)


@pytest.mark.parametrize("estimate", [False, True])
def test_hard_boxes_side_by_side_are_the_same_either_way(tiny_base, concepts, estimate):
    """No place has two owners, in no layer: then drawing once equals drawing each region."""
    given = {"feather": 0.0, "noise_estimation": estimate}
    row = latents(tiny_base, concepts, PROMPT, HALVES, **given)
    close(latents(tiny_base, concepts, PROMPT, HALVES, residual_routing="box", **given), row)


def test_soft_or_overlapping_boxes_differ(tiny_base, concepts):
    row = latents(tiny_base, concepts, PROMPT, TWO, noise_estimation=False)
    assert (latents(tiny_base, concepts, PROMPT, TWO, **BOX) - row).abs().max() > 1e-3


def test_box_routing_without_regions_changes_nothing(tiny_base, concepts):
    plain = latents(tiny_base, concepts, PROMPT)
    assert torch.equal(latents(tiny_base, concepts, PROMPT, residual_routing="box"), plain)


def test_box_routing_asks_for_queries_and_outputs_once_in_two_rows(tiny_base, concepts):
    """By row each region has a query and an output of its own in every layer and step."""
    counts = {}
    for way in ("row", "box"):
        seen = []
        handles = [
            tiny_base.unet.get_submodule(f"{layer.path}.{name}").register_forward_hook(
                lambda _m, args, _o, seen=seen: seen.append(len(args[0]))
            )
            for layer in tiny_base.layers
            for name in ("to_q", "to_out.0")
        ]
        latents(tiny_base, concepts, PROMPT, TWO, noise_estimation=False, residual_routing=way)
        for handle in handles:
            handle.remove()
        counts[way] = sum(seen)
    layers = len(tiny_base.layers)
    assert counts == {"row": 2 * 2 * layers * 4, "box": 2 * 2 * layers * 2}


def test_box_routing_with_equal_weights_may_be_merged_others_may_not(tiny_base, concepts):
    given = {**BOX, "region_weights": "global"}
    a, b = (
        latents(tiny_base, concepts, PROMPT, TWO, execution=e, **given)
        for e in ("merged", "per_sample")
    )
    close(a, b)
    with pytest.raises(HostError, match="per_sample"):
        latents(tiny_base, concepts, PROMPT, TWO, execution="merged", **BOX)


def test_box_routing_when_rows_are_drawn_one_by_one(tiny_base, concepts):
    given = {"residual_routing": "box", **TOKEN}
    whole = latents(tiny_base, concepts, PROMPT, TWO, **given)
    close(latents(tiny_base, concepts, PROMPT, TWO, rows_at_once=1, **given), whole)


@pytest.mark.parametrize("given", [TOKEN, BOX, {**TOKEN, **BOX}])
def test_generate(tiny_base, concepts, given):
    """Two pictures with regions; the model afterwards is the model before."""
    before = {k: v.clone() for k, v in tiny_base.unet.state_dict().items()}
    found = generate(tiny_base, concepts, PROMPT, TWO, config(num_images=2, **given))
    plain = generate(tiny_base, concepts, PROMPT, TWO, config(num_images=2))
    assert [picture.size for picture in found] == [(64, 64)] * 2
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(found, plain, strict=True))
    assert all(torch.equal(v, before[k]) for k, v in tiny_base.unet.state_dict().items())


@pytest.mark.parametrize("name", ["key_value_routing", "residual_routing"])
def test_other_ways_are_refused(name):
    with pytest.raises(CidmError, match=f"{name} is 'both'; choose one of"):
        SampleConfig(**{name: "both"})
