"""Drawing with concepts of Infusion: what calls them, where they act, which rows run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from infused import counted_rows, drawing, infused, plan_of
from learning_samples import small_base
from make import random_concept

from cidm_core.bank import Bank
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.patches import attach
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.errors import (
    ConceptError,
    PromptError,
)
from cidm_core.ops import attention
from cidm_core.regions import Region
from cidm_core.sampling.residuals import acting
from cidm_core.updates import ValueResidual


@pytest.fixture
def calls(monkeypatch):
    """Rows of every call of the UNet."""
    return counted_rows(small_base().unet, monkeypatch)


@pytest.fixture(scope="module")
def cat():
    return infused(small_base(), "my_cat")


@pytest.fixture(scope="module")
def base():
    return small_base()


# What calls it


def test_plain_words_call_it_only_where_drawing_asks_for_it(cat, base):
    bank = {"my_cat": cat}
    for weights_of in ("gate", "paper", "released"):
        plan = plan_of(base, bank, "a photo of a cat", weights=weights_of)
        assert not plan.streams.plain
        assert plan.arranged("both") == plan.scenes
    for asked in ("my_cat", "cat=my_cat", " cat = my_cat , "):
        plan = plan_of(base, bank, "a photo of a Cat", infuse=asked)
        assert [concept.name for concept in plan.concepts] == ["my_cat"]
        assert len(plan.arranged("both")[0].rows) == 3


def test_any_phrase_of_the_prompt_can_call_it(cat, base):
    bank = {"my_cat": cat, "her_cat": replace(cat, name="her_cat")}
    asked = "kitten=my_cat, red cat=her_cat"
    plan = plan_of(base, bank, "a kitten, a cat and a red cat", infuse=asked)
    text = plan.slots[1].text
    assert set(text.spans.triggers) == {"kitten", "red cat"}
    at = acting(plan.concepts, plan.slots[1])
    places = [at[:, i].nonzero().flatten().tolist() for i in range(2)]
    held = [text.spans.triggers[phrase] for phrase in ("kitten", "red cat")]
    assert places == [[positions[-1]] for positions in held]


@pytest.mark.parametrize(
    ("asked", "prompt", "message"),
    [
        ("my_cat", "two cats", "'cat' stands, and that is not in the prompt 'two cats'"),
        ("dog=my_cat", "a cat", "where 'dog' stands, and that is not in the prompt"),
        ("cat=my_kat", "a cat", "concept 'my_kat', which the bank does not have. .*'my_cat'?"),
        ("cat=my_cat, cat=her_cat", "a cat", "'cat' would call two concepts, 'my_cat' and"),
        ("<v1>=my_cat", "a cat <v1>", "'<v1>' would call two concepts, 'v1' and 'my_cat'"),
        ("=my_cat", "a cat", "Write PHRASE=CONCEPT"),
        ("cat=", "a cat", "infuse has 'cat='. Write PHRASE=CONCEPT"),
        ('cat="my_cat', "a cat", "in double quotes"),
        ("my_cat", "a room " + "of grass " * 40 + "cat", "'cat' lies beyond what the text encoder"),
    ],
)
def test_what_cannot_be_asked_for_is_said(cat, base, asked, prompt, message):
    bank = {"my_cat": cat, "her_cat": replace(cat, name="her_cat")}
    bank["v1"] = random_concept(base, "<v1>", seed=1)
    with pytest.raises(PromptError, match=message):
        plan_of(base, bank, prompt, infuse=asked)


def test_concepts_of_weights_cannot_be_asked_for(base):
    bank = {"v1": random_concept(base, "<v1>", seed=1)}
    for asked in ("cat=v1", "v1"):  # also where the prompt lacks its class words
        with pytest.raises(ConceptError, match="'v1' cannot be asked for by infuse"):
            plan_of(base, bank, "a cat", infuse=asked)


def test_two_looks_of_one_class_word_live_in_one_bank(tmp_path, cat, base):
    bank = Bank(tmp_path)
    for name in ("my_cat", "her_cat"):
        bank.add(replace(cat, name=name))
    bank.add(random_concept(base, "<cat1> <cat2>", seed=1, class_words="cat"))
    assert set(bank.callers()) == {("<cat1>", "<cat2>")}
    plan = plan_of(base, bank, "a cat and a kitten", infuse="my_cat, kitten=her_cat")
    assert {concept.name for concept in plan.concepts} == {"my_cat", "her_cat"}


# Positions


@pytest.mark.parametrize(
    ("prompt", "phrase", "last_piece"),
    [
        ("A photograph of my cat, sitting", "cat", True),
        ("An extraordinarily photogenic cat's", "cat", True),
        ("a cat and a cat", "cat", True),
        ("a (teddy bear:1.3) in snow", "teddy bear", True),
        ("a teddy bear in snow", "teddy bear", False),
    ],
)
def test_it_acts_at_the_tokens_that_the_tokenizer_tells(tiny_base, prompt, phrase, last_piece):
    concept = infused(tiny_base, "x", class_words=phrase, last_piece=last_piece)
    plan = plan_of(tiny_base, {"x": concept}, prompt, infuse="x")
    tokenizer = tiny_base.tokenizers[0]
    own = tokenizer(phrase, add_special_tokens=False).input_ids
    ids = tokenizer(prompt.replace(":1.3", "").translate(str.maketrans("", "", "()"))).input_ids
    starts = [i for i in range(len(ids)) if ids[i : i + len(own)] == own]
    wanted = [i + len(own) - 1 if last_piece else range(i, i + len(own)) for i in starts]
    wanted = wanted if last_piece else [place for each in wanted for place in each]
    assert starts
    assert acting(plan.concepts, plan.slots[1])[:, 0].nonzero().flatten().tolist() == wanted


def test_what_a_picture_should_not_show_is_never_infused(cat, base):
    given = {"infuse": "my_cat", "negative_prompt": "a cat"}
    plan = plan_of(base, {"my_cat": cat}, "a red cat", **given)
    (scene,) = plan.arranged("both")
    at = [acting(plan.concepts, plan.all_slots[slot]).sum() for slot in scene.rows]
    assert at == [0, 1, 0]
    assert scene.lenders == (0, 2, 2)
    # even where it is the prompt itself
    (scene,) = plan_of(base, {"my_cat": cat}, "a cat", **given).arranged("both")
    assert len(set(scene.rows)) == 2


# Rows


@torch.no_grad()
def rows_of(base, plan, timestep=500, at_once=None):
    config = replace(plan.config, rows_at_once=at_once)
    x = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    with attach(base, plan) as attached:
        estimate = sampler._Estimate(base, attached, 1, (16, 16), config)
        return torch.cat(list(estimate._rows(x, torch.tensor(timestep)))), estimate


@torch.no_grad()
def test_a_residual_of_zero_draws_as_the_model(base, cat):
    """Both streams are the same, bit by bit, and the picture is that without the concept."""
    none = {p: ValueResidual(torch.zeros_like(u.vector)) for p, u in cat.updates.items()}
    plan = plan_of(base, {"my_cat": replace(cat, updates=none)}, "a cat", infuse="my_cat")
    (_, customised, foundation), _ = rows_of(base, plan)
    assert torch.equal(customised, foundation)
    plain, _ = rows_of(base, plan_of(base, {}, "a cat"))
    torch.testing.assert_close(customised, plain[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(rows_of(base, plan_of(base, {"my_cat": cat}, "a cat"))[0], plain)
    silent = plan_of(base, {"my_cat": cat}, "a cat", infuse="my_cat", strength=0.0)
    assert torch.equal(rows_of(base, silent)[0], plain)


@torch.no_grad()
def test_the_attention_maps_of_both_streams_are_the_same(base, cat, monkeypatch):
    """At every attn2, while the features of the two differ."""
    seen, from_what = [], []
    held = attention.scaled_dot_product

    def spy(query, key, value, heads):
        seen.append((query, key, value))
        return held(query, key, value, heads)

    monkeypatch.setattr(attention, "scaled_dot_product", spy)
    for layer in base.layers:
        module = base.unet.get_submodule(layer.path)
        module.register_forward_pre_hook(lambda _m, args: from_what.append(args[0]))
    plan = plan_of(base, {"my_cat": cat}, "a cat", infuse="my_cat")
    try:
        rows_of(base, plan)
    finally:
        for layer in base.layers:
            base.unet.get_submodule(layer.path)._forward_pre_hooks.clear()
    assert len(seen) == len(base.layers) == len(from_what)
    for number, (query, key, value) in enumerate(seen):
        assert torch.equal(query[1], query[2])
        assert torch.equal(key[1], key[2])
        assert not torch.equal(value[1], value[2])
        assert torch.equal(from_what[number][1], from_what[number][2]) == (number == 0)


def test_plain_guidance_has_three_rows_and_keys_are_projected_once(base, cat, calls):
    generate(base, {"my_cat": cat}, "a cat", config=drawing(infuse="my_cat"))
    assert calls == [3, 3]
    calls.clear()
    generate(base, {"my_cat": cat}, "a cat", config=drawing(infuse="my_cat", second_stream=0.0))
    assert calls == [2, 2]
    calls.clear()
    released = infused(base, "my_cat", sides=("to_k", "to_v"))
    generate(base, {"my_cat": released}, "a cat", config=drawing(infuse="my_cat"))
    assert calls == [2, 2]
    calls.clear()
    generate(base, {"my_cat": cat}, "a cat", config=drawing())
    assert calls == [2, 2]


def test_a_row_and_the_one_that_lends_to_it_share_a_call(base, cat, calls):
    regions = [Region("a cat", box=(0, 0, 0.5, 1)), Region("a room", box=(0.5, 0, 1, 1))]
    plan = plan_of(base, {"my_cat": cat}, "a room", regions, infuse="my_cat")
    whole, _ = rows_of(base, plan)
    assert calls == [5]  # one of the four rows knows of the cat
    for at_once, expected in ((1, [1, 1, 2, 1]), (2, [2, 2, 1]), (3, [2, 3]), (4, [4, 1])):
        calls.clear()
        parts, estimate = rows_of(base, plan, at_once=at_once)
        assert calls == expected
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
        (table,) = estimate._tables.values()
        assert table.kept == [0, 1, 2, 4]


def test_memory_that_is_short_never_parts_them(base, cat, monkeypatch):
    plan = plan_of(base, {"my_cat": cat}, "a cat", infuse="my_cat")
    whole, _ = rows_of(base, plan)
    forward, seen = base.unet.forward, []

    def small(x, *args, **more):
        seen.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(x, *args, **more)

    monkeypatch.setattr(base.unet, "forward", small)
    parts, _ = rows_of(base, plan)
    assert seen == [3, 1, 2]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"residual_share": 0.5}, [3, 3, 2, 2]),
        ({"second_stream": 0.25}, [3, 2, 2, 2]),
        ({"residual_share": 0.75, "second_stream": 0.5}, [3, 3, 2, 2]),
        ({"residual_share": 0.0}, [2, 2, 2, 2]),
    ],
)
def test_streams_and_residuals_may_end_before_the_picture(base, cat, calls, given, expected):
    config = drawing(infuse="my_cat", steps=4, scheduler="ddim", **given)
    generate(base, {"my_cat": cat}, "a cat", config=config)
    assert calls == expected


@torch.no_grad()
def test_without_residuals_the_model_draws_alone(base, cat):
    plan = plan_of(base, {"my_cat": cat}, "a cat", infuse="my_cat", residual_share=0.5)
    plain = plan_of(base, {}, "a cat")
    early, late = (rows_of(base, plan, timestep)[0] for timestep in (900, 100))
    assert not torch.equal(early[1], rows_of(base, plain, 900)[0][1])
    assert torch.equal(late, rows_of(base, plain, 100)[0])


@torch.no_grad()
@pytest.mark.parametrize("given", [{"residual_layers": "up"}, {"key_residuals": False}])
def test_residuals_can_be_left_out(base, given):
    cat = infused(base, "my_cat", sides=("to_k", "to_v"))
    kept = {
        path: update
        for path, update in cat.updates.items()
        if (path.startswith("up") if "residual_layers" in given else path.endswith("to_v"))
    }
    alone = {"my_cat": replace(cat, updates=kept)}
    expected, _ = rows_of(base, plan_of(base, alone, "a cat", infuse="my_cat"))
    found, _ = rows_of(base, plan_of(base, {"my_cat": cat}, "a cat", infuse="my_cat", **given))
    assert torch.equal(found, expected)


# Beside others


@torch.no_grad()
def test_others_weigh_as_without_it(base, cat):
    """And it acts with its full strength, whatever they weigh."""
    bank = {"my_cat": cat, "v1": random_concept(base, "<v1> <w1>", seed=1)}
    bank["v2"] = random_concept(base, "<v2> <w2>", seed=2)
    prompt = "a cat, a <v1> <w1> and a <v2> <w2>"
    for rule in ("gate", "paper", "released"):
        with_it = plan_of(base, bank, prompt, infuse="my_cat", weights=rule)
        without = plan_of(base, {k: bank[k] for k in ("v1", "v2")}, prompt, weights=rule)
        order = [concept.name for concept in with_it.concepts]
        columns = [order.index(name) for name in ("v1", "v2")]
        found = with_it.slots[1].weights
        assert torch.equal(found[:, columns], without.slots[1].weights)
        assert torch.equal(found[:, order.index("my_cat")], torch.ones(len(base.layers)))
    with attach(base, with_it):
        layer = with_it.layers[0]
        parts = base.unet.get_submodule(layer).processor.updates["to_v"].parts
    (at,) = with_it.slots[1].text.spans.triggers["cat"]
    assert parts[-1].weights[1, at].tolist() == [1.0]
    # an execution of one merged weight is the same
    merged, apart = (
        rows_of(base, plan_of(base, bank, prompt, infuse="my_cat", execution=kind))[0]
        for kind in ("merged", "per_sample")
    )
    torch.testing.assert_close(merged, apart, rtol=1e-3, atol=1e-3)


def test_everything_in_one_picture(base, cat):
    bank = {"my_cat": cat, "rex": infused(base, "rex", 1, words="<rex>", class_words="dog")}
    bank["v1"] = random_concept(base, "<v1> <w1>", seed=1)
    regions = [
        Region("a cat", box=(0, 0, 0.5, 1), negative="a <rex>"),
        Region("a <rex> and a <v1> <w1>", box=(0.5, 0, 1, 1)),
    ]
    for given in ({}, {"noise_estimation": False}, {"regional_attention": False}):
        config = drawing(infuse="my_cat", num_images=2, **given)
        one = generate(base, bank, "a cat and a <rex>, a <v1> <w1>", regions, config)
        again = generate(
            base, bank, "a cat and a <rex>, a <v1> <w1>", regions, replace(config, rows_at_once=1)
        )
        for a, b in zip(one, again, strict=True):
            gap = np.abs(np.asarray(a, float) - np.asarray(b, float)).max()
            assert gap <= 2
