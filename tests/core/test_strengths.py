"""Strengths of single concepts, against concepts whose updates were scaled by hand.

Every kind of update in float64, merged by hand: test_update_kinds.py. Both hosts: test_parity.py.
"""

import json
from dataclasses import replace

import pytest
import torch
from infused import drawing, infused, plan_of
from learning_samples import small_base
from make import random_concept
from torch.testing import assert_close
from update_kinds import concepts

from cidm_core.bank import Bank
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.patches import attach
from cidm_core.errors import ConceptError, PromptError
from cidm_core.evaluation.evaluate import evaluate
from cidm_core.regions import Region
from cidm_core.sampling.layer_updates import baked
from cidm_core.sampling.strengths import at_strengths, own_strengths, read_strengths
from cidm_core.updates import FullRank, LowRank, ValueResidual

MANY = "a <k1> <l1>, a <k2> and a <k3> <l3> in a <k4>, teddy bear, <k5> <l5>, <k7> <l7>, a cat"
EACH = {"low": 0.5, "full": 1.5, "value": 0.3, "around": 0.0, "encoder": 2.0, "my_cat": 0.4}
TEXT = ", ".join(f"{name}={strength}" for name, strength in EACH.items())


@pytest.fixture(scope="module")
def base():
    return small_base()


@pytest.fixture(scope="module")
def bank(base):
    return {**concepts(base), "my_cat": infused(base, "my_cat", size=5.0)}


def scaled(concept):
    """The concept, its updates times its strength."""
    strength = EACH.get(concept.name, 1.0)

    def one(update):
        if isinstance(update, LowRank):
            return replace(update, alpha=update.alpha * strength)
        if isinstance(update, ValueResidual):
            return ValueResidual(update.vector * strength)
        bias = None if update.bias is None else update.bias * strength
        return FullRank(update.delta * strength, bias)

    return replace(concept, updates={path: one(u) for path, u in concept.updates.items()})


@torch.no_grad()
def rows_of(base, plan):
    x = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    with attach(base, plan) as attached:
        estimate = sampler._Estimate(base, attached, 1, (16, 16), plan.config)
        return torch.cat(list(estimate._rows(x, torch.tensor(500))))


REGIONS = [
    Region("a <k1> <l1> and a cat", box=(0, 0, 0.5, 1)),
    Region("a <k2>", box=(0.5, 0, 1, 1), negative="a <k5> <l5>"),
]


@pytest.mark.parametrize(
    ("regions", "given"),
    [
        ([], {"execution": "merged"}),
        ([], {"execution": "per_sample", "strength": 0.7}),
        ([], {"key_value_routing": "token"}),
        ([], {"weights": "paper"}),
        (REGIONS, {}),
        (REGIONS, {"region_weights": "global"}),
    ],
)
def test_a_strength_scales_all_that_a_concept_changes(base, bank, regions, given):
    given = {**given, "infuse": "my_cat", "top_k": 9}
    plan = plan_of(base, bank, MANY, regions, strengths=TEXT, **given)
    assert {c.name: c.strength for c in plan.concepts if c.strength != 1} == EACH
    by_hand = {name: scaled(concept) for name, concept in bank.items()}
    expected = plan_of(base, by_hand, MANY, regions, **given)
    for ours, theirs in zip(plan.slots, expected.slots, strict=True):
        assert_close(ours.weights, theirs.weights, rtol=1e-5, atol=1e-6)
    found, without = rows_of(base, plan), plan_of(base, bank, MANY, regions, **given)
    assert_close(found, rows_of(base, expected), rtol=1e-4, atol=1e-5)
    assert (found[1] - rows_of(base, without)[1]).abs().max() > 0.02


def test_a_strength_of_1_changes_no_bit(base, bank):
    plans = [
        plan_of(base, bank, MANY, infuse="my_cat", strength=0.7, strengths=text)
        for text in ("", "low=1, encoder=1.0, my_cat=1, full=1")
    ]
    assert torch.equal(*(rows_of(base, plan) for plan in plans))
    assert plans[0].describe() == plans[1].describe()


def test_an_infused_concept_at_0_costs_no_row(base, bank):
    plan = plan_of(base, bank, "a cat", infuse="my_cat", strengths="my_cat=0")
    assert plan.arranged("both") == plan.scenes
    assert torch.equal(rows_of(base, plan), rows_of(base, plan_of(base, {}, "a cat")))


def test_what_is_baked_has_the_strengths(base, bank):
    plans = [
        plan_of(base, held, "a <k1> <l1> and a <k2>", strengths=text)
        for held, text in (
            (bank, "low=0.5, full=1.5"),
            ({name: scaled(concept) for name, concept in bank.items()}, ""),
        )
    ]
    ours, theirs = (baked(p.concepts, p.slots[1], p.layers, p.config) for p in plans)
    assert ours.keys() == theirs.keys()
    for name, delta in ours.items():
        assert_close(delta, theirs[name], rtol=1e-5, atol=1e-6)


def test_the_weights_are_told_as_they_act(base, bank):
    plan = plan_of(base, bank, "a <k1> <l1> and a cat", infuse="my_cat", strengths=TEXT)
    assert plan.describe().endswith("low 0.50 (strength 0.5), my_cat 0.40 (strength 0.4)")


# What is written


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        (" ,\n; ", {}),
        ("dog=0.8", {"dog": 0.8}),
        (" dog = .8 ; cat=1\nmy fox = 4 ", {"dog": 0.8, "cat": 1.0, "my fox": 4.0}),
        (' "dog, old" = 0, "a=b"=2, "a ""b"""=3', {"dog, old": 0.0, "a=b": 2.0, 'a "b"': 3.0}),
    ],
)
def test_strengths_are_read(text, found):
    assert read_strengths(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("low", "strengths has 'low'. Write CONCEPT=NUMBER"),
        ("0.9", "One number for all concepts is called strength"),
        ("low=0,8", "strengths has '8'. Write CONCEPT=NUMBER with a decimal point"),
        ("low=", "strengths has 'low='"),
        ("=1", "strengths has '=1'"),
        ("low=80%", "strengths has 'low=80%'"),
        ("low=much", "strengths has 'low=much'"),
        ('"low=1', "in double quotes"),
        ("a=b=1", "in double quotes"),
        ("low=1, low=2", "strengths has 'low' twice"),
        ("low=-1", "The strength of 'low' is -1; allowed is 0 to 4"),
        ("low=4.5", "The strength of 'low' is 4.5; allowed is 0 to 4"),
        ("low=nan", "The strength of 'low' is nan; allowed is 0 to 4"),
        ("low=inf", "is inf; allowed"),
        (
            "aroud=1",
            "strengths asks for the concept 'aroud', which the bank does not have. .*'around'?",
        ),
    ],
)
def test_what_cannot_be_a_strength_is_said(base, bank, text, message):
    with pytest.raises((PromptError, ConceptError), match=message):
        plan_of(base, bank, "a <k1> <l1>", strengths=text)


def test_concepts_that_take_no_part_are_told_of(base, bank, caplog):
    plan_of(base, bank, "a <k1> <l1>", strengths="low=0.5, full=2")
    plan_of(base, bank, "a <k1> <l1>", strengths="two=0.5, low=0.5, full=2")
    plan_of(base, bank, "a <k1> <l1>", strengths="two=0.5, low=0.5", weights="paper")
    assert [record.message for record in caplog.records] == [
        "No prompt here names 'full': strengths has no effect there.",
        "No prompt here names 'two', 'full': strengths has no effect there.",
    ]


# Banks


@pytest.fixture
def stored(tmp_path, base):
    bank = Bank(tmp_path / "bank")
    for number in (1, 2):
        words = f"<v{number}> <w{number}>"
        bank.add(random_concept(base, words, seed=number, name=f"c{number}"))
    return bank


def test_a_bank_at_strengths_is_the_bank(stored, monkeypatch):
    files = {path: path.read_bytes() for path in stored.path.iterdir()}
    first = at_strengths(stored, "c1=0.5, c2=0.7")
    second = at_strengths(first, "c2 = 2")
    assert at_strengths(stored, " ") is stored
    assert own_strengths(stored) == {}
    assert own_strengths(first) == {"c1": 0.5, "c2": 0.7}
    assert own_strengths(second) == {"c1": 0.5, "c2": 2.0}
    assert [second[name].strength for name in second] == [0.5, 2.0]
    assert [stored[name].strength for name in stored] == [1.0, 1.0]
    assert second.callers() == stored.callers()
    assert {path: path.read_bytes() for path in stored.path.iterdir()} == files
    monkeypatch.setattr(Bank, "__getitem__", lambda *_: pytest.fail("a concept was read"))
    at_strengths(stored, "c1=0.5")


def test_a_strength_is_stored_nowhere(stored, tmp_path):
    other = Bank(tmp_path / "other")
    assert other.add(at_strengths(stored, "c1=0.5")["c1"]).strength == 1.0
    assert other["c1"].strength == 1.0


def test_evaluation_draws_at_them(base, stored):
    kept = {}
    for text in ("", "c1=0.3, c2=2"):
        evaluate(
            base,
            stored,
            prompts=["a photo of a <TOK>"],
            config=drawing(strengths=text),
            keep=lambda name, _, pictures, text=text: kept.update({(text, name): pictures[0]}),
            alone=True,
        )
    assert len(kept) == 8
    for name in ("c1", "c2", "c1 alone", "c2 alone"):
        assert kept["", name].tobytes() != kept["c1=0.3, c2=2", name].tobytes()


# Command line


@pytest.fixture
def generated(stored, tmp_path, capsys):
    from cidm_core.cli import main

    def run(*words):
        where = ["--bank", str(stored.path), "--out", str(tmp_path / "a.png"), "--json"]
        size = ["--width", "64", "--height", "64", "--steps", "1"]
        code = main(["generate", *where, *size, "--prompt", "a <v1> <w1>", *words])
        return code, capsys.readouterr()

    return run


def test_the_command_tells_of_a_mistake_before_the_model_is_loaded(generated, monkeypatch):
    from cidm_core.diffusers_host import load

    monkeypatch.setattr(load, "load_base", lambda *_, **__: pytest.fail("loaded"))
    for words, message in (
        (["--strengths", "c3=1"], "the concept 'c3', which the bank does not have"),
        (["--strengths", "c1=9"], "The strength of 'c1' is 9; allowed is 0 to 4."),
        (["--strengths", "c1=1", "--bank", ""], "names concepts of a bank. Give the bank"),
    ):
        code, told = generated(*words)
        assert code != 0
        assert message in told.err


def test_the_command_draws_at_them(generated, base, monkeypatch):
    from cidm_core.diffusers_host import load

    monkeypatch.setattr(load, "load_base", lambda *_, **__: base)
    code, told = generated("--strengths", "c1=0.5", "--strengths", "c2=2")
    assert code == 0, told.err
    found = json.loads(told.out)
    assert found["settings"]["strengths"] == "c1=0.5, c2=2"
    assert found["weights"][0]["weights"] == {"c1": 0.5}
    assert "c1 0.50 (strength 0.5)" in told.err
    assert "No prompt here names 'c2': strengths has no effect there." in told.err
