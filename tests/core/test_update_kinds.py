"""Every kind of update, in every place, against merging by hand in float64 and transformers."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from update_kinds import KINDS, NAMED, concepts

from cidm_core.bank import Bank
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.patches import attach
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.diffusers_host.tokens import tokenise
from cidm_core.regions import Region
from cidm_core.updates import FullRank, LowRank, ValueResidual

MANY = "a <k1> <l1>, a <k2> and a <k3> <l3> in a <k4>, teddy bear, <k5> <l5>, <k7> <l7>"
STRENGTHS = "low=0.5, full=1.5, value=0.3, around=0, encoder=2, two=1.2"
PROMPTS = {**{kind: f"a photo of a {words}" for kind, words in NAMED.items()}, "many": MANY}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def bank(tiny_base):
    return concepts(tiny_base)


def config(**given):
    return SampleConfig(**{"steps": 1, "width_px": 64, "height_px": 64, "top_k": 9, **given})


class ByHand:
    """One row's cross-attention in float64: its text, values that grow at some tokens."""

    def __init__(self, context, grown):
        self.context, self.grown = context.double(), grown

    def __call__(self, attn, hidden_states, *_, **__):
        def heads(x):
            return x.unflatten(-1, (attn.heads, -1)).transpose(-3, -2)

        key, value = attn.to_k(self.context), attn.to_v(self.context) + self.grown
        query, key, value = heads(attn.to_q(hidden_states)), heads(key), heads(value)
        shares = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        return attn.to_out[0]((shares @ value).transpose(-3, -2).flatten(-2))


def merged_by_hand(unet, plan, slot):
    """A float64 copy of the UNet that holds what a slot's concepts change."""
    unet = copy.deepcopy(unet).double()
    blocks = [layer.removesuffix(".attn2") for layer in plan.layers]
    for index, layer in enumerate(plan.layers):
        context = slot.text.states[min(index, len(slot.text.states) - 1)]
        grown = torch.zeros(len(context), 1, dtype=torch.float64)
        for concept in plan.concepts:
            update = concept.updates.get(f"{layer}.to_v")
            if isinstance(update, ValueResidual):
                places = [p for t in concept.triggers for p in slot.text.spans.triggers.get(t, ())]
                at = torch.zeros(len(context), 1, dtype=torch.float64)
                # whatever the other concepts weigh
                at[places] = plan.config.strength * concept.strength
                grown = grown + at * update.vector.double()
        unet.get_submodule(layer).processor = ByHand(context, grown)
    for k, concept in enumerate(plan.concepts):
        for path, update in concept.updates.items():
            if path.startswith("text_encoder") or isinstance(update, ValueResidual):
                continue
            inside = [i for i, block in enumerate(blocks) if path.startswith(f"{block}.")]
            weight = slot.weights[inside[0] if inside else slice(None), k].double().mean()
            if isinstance(update, LowRank):
                delta = update.alpha / len(update.down) * update.up.double() @ update.down.double()
            else:
                delta = update.delta.double()
            share = plan.config.strength * concept.strength * weight
            linear = unet.get_submodule(path)
            linear.weight.data += share * delta
            if getattr(update, "bias", None) is not None:
                linear.bias.data += share * update.bias.double()
    return unet


def by_hand(base, plan, x, timestep):
    """Noise estimates of all rows, one by one."""
    unets = {i: merged_by_hand(base.unet, plan, plan.slots[i]) for i in set(plan.scenes[0].rows)}
    empty = torch.zeros(1, 1, 768, dtype=torch.float64)
    return torch.cat(
        [unets[i](x.double(), timestep, empty).sample.float() for i in plan.scenes[0].rows]
    )


def ours(base, plan, x, timestep, execution):
    with attach(base, plan, execution) as attached:
        estimate = sampler._Estimate(base, attached, 1, (8, 8), plan.config)
        return torch.cat(list(estimate._rows(x, timestep)))


@pytest.fixture(scope="module")
def x():
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("prompt", [*PROMPTS, "at strengths"])
def test_a_step_equals_merging_by_hand(tiny_base, bank, x, prompt):
    given = {} if prompt in KINDS else {"strength": 0.7}
    given |= {"strengths": STRENGTHS} if prompt == "at strengths" else {}
    text = PROMPTS.get(prompt, MANY)
    plan = make_plan(tiny_base, bank, text, config=config(**given))
    assert {c.name for c in plan.concepts} == ({prompt} if prompt in KINDS else set(KINDS))
    before = {k: v.clone() for k, v in tiny_base.unet.state_dict().items()}
    hooks = [m for m in tiny_base.unet.modules() if m._forward_hooks]
    expected = by_hand(tiny_base, plan, x, 500)
    for execution in ("merged", "per_sample"):
        assert_close(ours(tiny_base, plan, x, 500, execution), expected, **CLOSE)
    after = tiny_base.unet.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert [m for m in tiny_base.unet.modules() if m._forward_hooks] == hooks


@torch.no_grad()
@pytest.mark.parametrize("kind", ["low", "full", "value", "around"])
def test_each_kind_changes_the_estimate(tiny_base, bank, x, kind):
    """Against the same text, without the updates: the references above would not see a no-op."""
    plan = make_plan(tiny_base, bank, PROMPTS[kind], config=config())
    without = replace(plan, concepts=tuple(replace(c, updates={}) for c in plan.concepts))
    with_it, plain = (ours(tiny_base, p, x, 500, "auto") for p in (plan, without))
    assert (with_it[1] - plain[1]).abs().max() > 1e-2


@torch.no_grad()
def test_rows_of_other_weights_equal_merging_by_hand(tiny_base, bank, x):
    """Regions named otherwise than the picture: other concepts of other kinds in each row."""
    regions = [
        Region(f"a {NAMED[kind]} there", box=(0.0, 0.0, 1.0, 1.0))
        for kind in ("full", "value", "around", "wordless")
    ]
    settings = config(regional_attention=False)
    plan = make_plan(tiny_base, bank, PROMPTS["two"], regions, settings)
    assert not plan.shared_weights
    found = ours(tiny_base, plan, x, 300, "auto")
    assert_close(found, by_hand(tiny_base, plan, x, 300), **CLOSE)


@torch.no_grad()
def test_full_rank_keys_are_routed_by_token(tiny_base, bank):
    """K_j = (W + 1[j in tokens_k] delta_k) e_j, with psi at the ends, also for full rank."""
    settings = config(key_value_routing="token")
    plan = make_plan(tiny_base, bank, "a <k2> beside a <k1> <l1>", config=settings)
    slot, layer = plan.slots[1], plan.layers[1]
    with attach(tiny_base, plan):
        found = tiny_base.unet.get_submodule(layer).processor.key[1]
    weight = tiny_base.unet.get_submodule(f"{layer}.to_k").weight.double()
    for j, e in enumerate(slot.text.at(1).double()):
        matrix = weight.clone()
        for k, concept in enumerate(plan.concepts):
            own = [p for t in concept.triggers for p in slot.text.spans.triggers.get(t, ())]
            word = j in slot.text.spans.plain or any(
                j in places for places in slot.text.spans.triggers.values()
            )
            share = float(j in own) if word else float(slot.weights[1, k])
            update = concept.updates[f"{layer}.to_k"]
            matrix += share * update.delta.double()
        assert_close(found[j].double(), matrix @ e, **CLOSE)


def added_to_transformers(base, named, text, layer):
    """The reference: words added to the vocabulary, deltas put into a copy of the encoder."""
    tokenizer, encoder = copy.deepcopy(base.tokenizers[0]), copy.deepcopy(base.text_encoders[0])
    changing = [c for c in named if any(p.startswith("text_encoder") for p in c.updates)]
    for concept in changing:
        for path, update in concept.updates.items():
            if path.startswith("text_encoder"):
                inner = path.removeprefix("text_encoder.")
                names = {n.removeprefix("text_model."): m for n, m in encoder.named_modules()}
                linear = names[inner.removeprefix("text_model.")]
                linear.weight.data += concept.strength * update.delta / math.sqrt(len(changing))
    tokenizer.add_tokens([word for c in named for word in c.words])
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight.data
    for concept in named:
        for i, word in enumerate(concept.words):
            rows = concept.rows["text_encoder"][i]
            table[tokenizer.convert_tokens_to_ids(word)] = rows[min(layer, len(rows) - 1)]
    limit = base.family.encoders[0].max_tokens
    options = {"padding": "max_length", "max_length": limit, "truncation": True}
    return encoder(tokenizer(text, **options, return_tensors="pt").input_ids).last_hidden_state[0]


@torch.no_grad()
@pytest.mark.parametrize("strengths", ["", "encoder=0.6"])
@pytest.mark.parametrize("prompt", ["encoder", "many", "two encoders"])
def test_text_equals_that_of_a_changed_encoder(tiny_base, bank, prompt, strengths):
    other = replace(
        bank["encoder"],
        name="other",
        subjects=(replace(bank["encoder"].subjects[0], words=("<k8>", "<l8>")),),
        updates={k: type(u)(**_halved(u)) for k, u in bank["encoder"].updates.items()},
    )
    held = {**bank, "other": other}
    text = {**PROMPTS, "two encoders": "a <k5> <l5> and a <k8> <l8>"}[prompt]
    plan = make_plan(tiny_base, held, text, config=config(strengths=strengths))
    states = plan.slots[1].text.states
    for layer in (0, len(plan.layers) - 1):
        expected = added_to_transformers(tiny_base, plan.concepts, text, layer)
        assert_close(states[min(layer, len(states) - 1)], expected, rtol=1e-4, atol=1e-4)


def _halved(update):
    if isinstance(update, FullRank):
        return {"delta": update.delta / 2}
    return {"down": update.down, "up": update.up / 2, "alpha": update.alpha}


def test_the_text_encoder_changes_only_for_prompts_that_name_the_concept(tiny_base, bank):
    encoder = tiny_base.text_encoders[0]
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    prompts = ["a plain dog", "a <k5> <l5>", "a <k2> and a dog"]
    plan = make_plan(tiny_base, bank, prompts, config=config(negative_prompt="blurry"))
    found = {slot.prompt: slot.text.states for slot in plan.slots}
    without = {**bank, "encoder": replace(bank["encoder"], updates={})}
    plain = make_plan(tiny_base, without, prompts, config=config(negative_prompt="blurry"))
    for slot in plain.slots:
        same = torch.equal(found[slot.prompt], slot.text.states)
        assert same == ("<k5>" not in slot.prompt), slot.prompt
    after = encoder.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_an_encoder_that_fails_is_left_as_it_was(tiny_base, bank, monkeypatch):
    encoder = tiny_base.text_encoders[0]
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    monkeypatch.setattr(encoder, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_plan(tiny_base, bank, "a <k5> <l5>", config=config())
    after = encoder.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_rows_with_one_layer_are_encoded_once(tiny_base, bank, monkeypatch):
    encoder, rows = tiny_base.text_encoders[0], []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda i, **k: rows.append(len(i)) or forward(i, **k))
    plan = make_plan(tiny_base, bank, "a <k3> <l3>", config=config())
    assert sum(rows) == 2  # the negative prompt and the prompt
    assert len(plan.slots[1].text.states) == 1
    layers = len(tiny_base.layers)
    one = bank["value"]
    equal = {name: held.expand(-1, layers, -1) for name, held in one.rows.items()}
    spread = {"value": replace(one, rows=equal)}
    rows.clear()
    other = make_plan(tiny_base, spread, "a <k3> <l3>", config=config())
    assert sum(rows) == 2  # versions that are alike are encoded once, too
    assert len(other.slots[1].text.states) == layers
    for layer in range(layers):
        assert_close(other.slots[1].text.at(layer), plan.slots[1].text.at(layer), **CLOSE)
    assert_close(other.slots[1].weights, plan.slots[1].weights)


CALLS = [
    "a teddy bear, asleep",
    "teddy  bear",
    "[Teddy Bear]",
    "TEDDY BEAR!",
    '"teddy bear"',
    "my teddy bear's",
]
SILENT = ["teddy bears", "a teddy and a bear", "a <teddy bear>", "bear teddy"]


@pytest.mark.parametrize("prompt", CALLS)
def test_class_words_call_a_concept_without_words(tiny_base, bank, prompt):
    plan = make_plan(tiny_base, bank, prompt, config=config())
    assert [c.name for c in plan.concepts] == ["wordless"]
    assert torch.equal(plan.slots[1].weights, torch.ones(len(plan.layers), 1))
    (places,) = plan.slots[1].text.spans.triggers.values()
    tokenizer = tiny_base.tokenizers[0]
    ids = tokenizer(prompt.lower(), padding="max_length", max_length=77).input_ids
    found = tokenise(tokenizer, prompt, (), 77, ["teddy bear"]).ids
    assert found == ids  # cutting the phrase out changes no token
    assert [ids[p] for p in places] == tokenizer("teddy bear", add_special_tokens=False).input_ids


@pytest.mark.parametrize("prompt", SILENT)
def test_other_words_do_not(tiny_base, bank, prompt):
    if "<" in prompt:
        bank = {"wordless": bank["wordless"]}
    assert make_plan(tiny_base, bank, prompt, config=config()).concepts == ()


def test_any_subject_calls_its_concept(tiny_base, bank):
    for text in ("a <k6>", "an old boat", "a <k7> <l7>"):
        plan = make_plan(tiny_base, bank, text, config=config())
        assert [c.name for c in plan.concepts] == ["two"], text
    spans = make_plan(tiny_base, bank, PROMPTS["two"], config=config()).slots[1].text.spans
    assert set(spans.triggers) == {"<k6>", "old boat"}


def test_a_stored_bank_draws_as_the_concepts_did(tiny_base, bank, x, tmp_path):
    stored = Bank(tmp_path)
    for concept in bank.values():
        stored.add(concept)
    plans = [make_plan(tiny_base, held, MANY, config=config()) for held in (bank, stored)]
    with torch.no_grad():
        a, b = (ours(tiny_base, plan, x, 500, "auto") for plan in plans)
    assert_close(a, b, rtol=1e-5, atol=1e-5)
