"""Keys and values routed by token: in the layers and in pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from make import random_concept
from torch.testing import assert_close

from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.patches import attach
from cidm_core.diffusers_host.pipeline import generate, make_plan
from cidm_core.errors import CidmError
from cidm_core.regions import Region
from cidm_core.sampling.layer_updates import layer_updates

PROMPT = "a <v1> <w1> and a <v2> <w2>"
TWO = [Region("a <v1> <w1>", box=(0, 0, 0.6, 1)), Region("a <v2> <w2>", box=(0.4, 0.2, 1, 1))]
TOKEN = {"key_value_routing": "token"}


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


def owners(plan, slot):
    """Whose each token of a slot is: a concept's number, "plain", or "end" for all that is none."""
    text, indices = plan.slots[slot].text, {c.name: i for i, c in enumerate(plan.concepts)}
    found = ["end"] * text.states.shape[1]
    for concept in plan.concepts:
        for word in concept.words:
            for place in text.spans.triggers.get(word, ()):
                found[place] = indices[concept.name]
    for place in text.spans.plain:
        found[place] = "plain"
    return found


def test_spans_tell_words_from_the_ends(tiny_base, concepts):
    plan = make_plan(tiny_base, concepts, "a <v2> <w2> a <v1> <w1>", config=config(**TOKEN))
    names = [concept.name for concept in plan.concepts]
    one, two = names.index("v1"), names.index("v2")
    words = ["plain", two, two, "plain", one, one]
    assert owners(plan, 1) == ["end", *words, *["end"] * 70]
    assert set(owners(plan, 0)) == {"end"}  # the empty negative prompt


def test_a_prompt_that_is_cut_has_an_end_too(tiny_base, concepts):
    plan = make_plan(tiny_base, concepts, "<v1> <w1> " + "very " * 90, config=config(**TOKEN))
    assert owners(plan, 1) == ["end", 0, 0, *["plain"] * 73, "end"]


def test_only_keys_and_values_are_weighed_token_by_token(tiny_base, concepts):
    plan = make_plan(tiny_base, concepts, PROMPT, config=config())
    device, dtype = tiny_base.device, tiny_base.dtype
    for routed in (False, True):
        how = config(**TOKEN) if routed else config()
        found = layer_updates(plan.concepts, plan.slots, plan.layers, device, dtype, how)
        by_token = {path for path, update in found.items() if update.parts[0].weights.ndim == 3}
        ends = ("attn2.to_k", "attn2.to_v")
        assert by_token == {path for path in found if routed and path.endswith(ends)}


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
            for j, e in enumerate(slot.text.at(index).double()):
                owner, matrix = owners(plan, 1)[j], weight.clone()
                for k, concept in enumerate(plan.concepts):
                    psi = float(slot.weights[index, k]) if owner == "end" else owner == k
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
    changed = dict(concepts["v2"].updates)
    key = f"{plan.layers[0]}.to_k"
    changed[key] = replace(changed[key], up=changed[key].up * 2)
    other = replace(concepts["v2"], updates=changed)
    found = []
    for second in (concepts["v2"], other):
        taking = tuple(second if c.name == "v2" else c for c in plan.concepts)
        with attach(tiny_base, replace(plan, concepts=taking)):
            found.append(tiny_base.unet.get_submodule(plan.layers[0]).processor.key[1])
    spans = plan.slots[1].text.spans.triggers
    one, two = ([*spans["<v1>"], *spans["<w1>"]], [*spans["<v2>"], *spans["<w2>"]])
    assert torch.equal(found[0][one], found[1][one])
    assert not torch.equal(found[0][two], found[1][two])


def test_prompts_side_by_side_equal_prompts_alone(tiny_base, concepts):
    prompts = [PROMPT, "a <v2> <w2>", "a plain thing"]
    together = latents(tiny_base, concepts, prompts, **TOKEN)
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for i, prompt in enumerate(prompts):
        plan = make_plan(tiny_base, concepts, prompt, config=config(**TOKEN))
        close(sampler.sample(tiny_base, plan, noise[i : i + 1], config())[0], together[i])


def test_generate(tiny_base, concepts):
    """Two pictures with regions; the model afterwards is the model before."""
    before = {k: v.clone() for k, v in tiny_base.unet.state_dict().items()}
    found = generate(tiny_base, concepts, PROMPT, TWO, config(num_images=2, **TOKEN))
    plain = generate(tiny_base, concepts, PROMPT, TWO, config(num_images=2))
    assert [picture.size for picture in found] == [(64, 64)] * 2
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(found, plain, strict=True))
    assert all(torch.equal(v, before[k]) for k, v in tiny_base.unet.state_dict().items())


def test_token_routing_when_rows_are_drawn_one_by_one(tiny_base, concepts):
    whole = latents(tiny_base, concepts, PROMPT, TWO, **TOKEN)
    close(latents(tiny_base, concepts, PROMPT, TWO, rows_at_once=1, **TOKEN), whole)


def test_another_way_is_refused():
    with pytest.raises(CidmError, match="key_value_routing is 'both'; choose one of"):
        SampleConfig(key_value_routing="both")
