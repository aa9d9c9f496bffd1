"""The plan: which concepts take part, with which weights, in how many UNet rows."""

from dataclasses import replace

import pytest
import torch
from make import random_concept

from cidm_core.bank import Bank
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.encode import DiffusersEncoder
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.errors import FamilyError, PromptError, RegionError
from cidm_core.regions import Region


@pytest.fixture(scope="module")
def concepts(tiny_base):
    made = [random_concept(tiny_base, f"<v{i}> <w{i}>", seed=i) for i in (1, 2, 10)]
    return {concept.name: concept for concept in made}


def config(**given):
    return SampleConfig(steps=2, width_px=64, height_px=64, **given)


def test_a_single_named_concept_gets_weight_one_in_every_layer(tiny_base, concepts):
    plan = make_plan(tiny_base, concepts, "a <v1> <w1> on grass", config=config())
    assert [c.name for c in plan.concepts] == ["v1"]
    assert torch.equal(plan.slots[-1].weights, torch.ones(len(tiny_base.layers), 1))


def test_a_word_inside_another_word_is_not_that_word(tiny_base, concepts):
    plan = make_plan(tiny_base, concepts, "a <v10> <w10>", config=config())
    assert [c.name for c in plan.concepts] == ["v10"]


def test_no_concept_named_is_the_base_model(tiny_base, concepts):
    plan = make_plan(tiny_base, concepts, "a dog", config=config())
    assert plan.concepts == ()
    assert "the base model draws alone" in plan.describe()


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_dense_modes_weigh_the_whole_bank(tiny_base, concepts, mode):
    plan = make_plan(tiny_base, concepts, "a <v1> <w1>", config=config(weights=mode))
    weights = plan.slots[-1].weights
    assert weights.shape == (len(tiny_base.layers), 3)
    total = weights.norm(dim=1) if mode == "paper" else weights.abs().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_encoding_each_task_alone_does_not_depend_on_the_bank(tiny_base, concepts):
    """Weights of a concept relative to another stay when the bank grows (methods 7.4)."""
    two = {name: concepts[name] for name in ("v1", "v2")}
    turned = dict(reversed(concepts.items()))
    prompt = "a <v1> <w1> and a <v2> <w2>"
    relevance = [
        dict(zip([c.name for c in p.concepts], p.slots[-1].relevance.T, strict=True))
        for p in (
            make_plan(tiny_base, bank, prompt, config=config(weights="paper"))
            for bank in (two, concepts, turned)
        )
    ]
    for other in relevance[1:]:
        torch.testing.assert_close(relevance[0]["v1"], other["v1"])
        torch.testing.assert_close(relevance[0]["v2"], other["v2"])


def test_joint_encoding_depends_on_order_as_released(tiny_base, concepts):
    turned = dict(reversed(concepts.items()))
    a, b = (
        make_plan(
            tiny_base, bank, "a <v1> <w1>", config=config(weights="released", encoding="joint")
        )
        for bank in (concepts, turned)
    )
    assert not torch.allclose(a.slots[-1].relevance[:, 0], b.slots[-1].relevance[:, 2], atol=1e-4)


def test_top_k_limits_the_number_of_concepts_with_weight(tiny_base, concepts):
    prompt = "<v1> <w1> <v2> <w2> <v10> <w10>"
    plan = make_plan(tiny_base, concepts, prompt, config=config(top_k=2))
    assert ((plan.slots[-1].weights > 0).sum(1) == 2).all()


def test_u_regions_cost_u_plus_two_rows(tiny_base, concepts):
    regions = [
        Region("a <v1> <w1>", box=(0, 0, 0.5, 1)),
        Region("a <v2> <w2>", box=(0.5, 0, 1, 1)),
    ]
    plan = make_plan(tiny_base, concepts, "two things", regions, config())
    assert len(plan.scenes[0].rows) == 4
    own = [Region("a <v1> <w1>", box=(0, 0, 0.5, 1), negative="blurry")]
    plan = make_plan(tiny_base, concepts, "a thing", own, config())
    assert len(plan.scenes[0].rows) == 4


@pytest.mark.parametrize(
    ("source", "expected"), [("per_region", [1.0, 0.0]), ("global", [0.7, 0.7])]
)
def test_whose_prompt_weighs_a_region(tiny_base, concepts, source, expected):
    regions = [Region("a <v1> <w1>", box=(0, 0, 0.5, 1))]
    prompt = "a <v1> <w1> and a <v2> <w2>"
    plan = make_plan(tiny_base, concepts, prompt, regions, config(region_weights=source))
    slot = next(s for s in plan.slots if s.prompt == "a <v1> <w1>")
    assert plan.shared_weights == (source == "global")
    assert slot.weights.mean(0).tolist() == pytest.approx(expected, abs=0.25)


def test_only_concepts_that_take_part_are_read(tiny_base, concepts, tmp_path):
    bank = Bank(tmp_path)
    for concept in concepts.values():
        bank.add(concept)
    bank.path.joinpath("v1.safetensors").write_bytes(b"broken after it was listed")
    plan = make_plan(tiny_base, bank, "a <v2> <w2>", config=config())
    assert [c.name for c in plan.concepts] == ["v2"]


def test_an_unknown_word_names_the_nearest(tiny_base, concepts):
    with pytest.raises(PromptError, match="Did you mean '<v10>'"):
        make_plan(tiny_base, concepts, "a <v100>", config=config())


@pytest.fixture
def rex(tiny_base):
    return {"rex": random_concept(tiny_base, "<rex>", seed=9)}


@pytest.mark.parametrize("prompt", ["a < rex >", "a <rex", "a rex>", "a \uff1crex\uff1e"])
def test_a_word_written_nearly_right_is_refused_with_the_right_form(tiny_base, rex, prompt):
    with pytest.raises(PromptError, match="Write '<rex>'"):
        make_plan(tiny_base, rex, prompt, config=config())


@pytest.mark.parametrize(
    "prompt", ["two <rex>s", "a<rex>", "<rex>_toy", "\u6211<rex>\u5728", "(<rex>:1.2)"]
)
def test_brackets_are_boundaries_of_a_word(tiny_base, rex, prompt):
    plan = make_plan(tiny_base, rex, prompt, config=config())
    assert [concept.name for concept in plan.concepts] == ["rex"]


def test_half_a_name_is_noted_and_calls_nothing(tiny_base, concepts, caplog):
    plan = make_plan(tiny_base, concepts, "a <v1> on grass", config=config())
    assert plan.concepts == ()
    assert "'<v1>'" in caplog.text
    assert "part of the name '<v1> <w1>'" in caplog.text
    bare = make_plan(tiny_base, {}, "a dog", config=config())
    assert plan.slots[1].text.states.shape == bare.slots[1].text.states.shape


def test_a_word_that_may_be_in_a_damaged_file_names_the_file(tiny_base, concepts, tmp_path):
    bank = Bank(tmp_path)
    bank.add(concepts["v1"])
    (bank.path / "rex.safetensors").write_bytes(b"broken")
    with pytest.raises(PromptError, match=r"cannot be read: 'rex\.safetensors'"):
        make_plan(tiny_base, bank, "a <rex> on grass", config=config())


def test_a_word_beyond_the_token_limit_is_an_error(tiny_base, concepts):
    with pytest.raises(PromptError, match="is token"):
        make_plan(tiny_base, concepts, "very " * 90 + "<v1> <w1>", config=config())


def test_regions_go_with_one_prompt(tiny_base, concepts):
    with pytest.raises(PromptError, match="one prompt"):
        make_plan(tiny_base, concepts, ["a", "b"], [Region("c", box=(0, 0, 1, 1))], config())


def test_a_region_smaller_than_a_cell_is_named(tiny_base, concepts):
    with pytest.raises(RegionError, match="Region 1 of 1"):
        make_plan(tiny_base, concepts, "a", [Region("c", box=(0, 0, 0.01, 1))], config())


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"family": "SDXL"}, "the model is SD15"), ({"base": "8x8:1,2,3"}, "another SD15 model")],
)
def test_a_concept_of_another_model_is_refused(tiny_base, changes, text):
    concept = random_concept(tiny_base, "<a1>", seed=0, **changes)
    with pytest.raises(FamilyError, match=text):
        make_plan(tiny_base, {"a1": concept}, "a <a1>", config=config())


def test_a_concept_of_other_widths_is_refused_and_nothing_encoded(tiny_base, monkeypatch):
    concept = random_concept(tiny_base, "<a1>", seed=0)
    narrow = {encoder: rows[..., :8] for encoder, rows in concept.rows.items()}
    monkeypatch.setattr(DiffusersEncoder, "prompts", lambda *args: pytest.fail("encoded"))
    with pytest.raises(FamilyError, match=r"are 8 wide .*the model reads words 768 wide"):
        make_plan(tiny_base, {"a1": replace(concept, rows=narrow)}, "a <a1>", config=config())


def test_another_base_of_the_family_can_be_allowed(tiny_base):
    concept = random_concept(tiny_base, "<a1>", seed=0, base="8x8:1,2,3")
    make_plan(tiny_base, {"a1": concept}, "a <a1>", config=config(allow_other_base=True))
