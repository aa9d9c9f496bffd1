"""Concepts merged into one: what they are held to, what is refused, and that nothing is lost."""

import json
from dataclasses import replace

import pytest
import torch
from bank_samples import contents
from make import random_concept
from torch.testing import assert_close
from update_kinds import concepts as of_kinds

from cidm_core.bank import Bank
from cidm_core.cli import FAILED, OK, main
from cidm_core.concept import Subject
from cidm_core.diffusers_host.encode import DiffusersEncoder
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.errors import BankError, CidmError, ConceptError, FamilyError
from cidm_core.families import FAMILIES
from cidm_core.merging.banks import merge_in_bank
from cidm_core.merging.merge import merge
from cidm_core.merging.settings import MergeConfig
from cidm_core.merging.texts import first_token, shipped_captions, target_texts
from cidm_core.updates import FullRank, LowRank

CAPTIONS = shipped_captions(FAMILIES["SD15"])[:40]
OWN = ("to_k", "to_v")


@pytest.fixture(scope="module")
def mini():
    return load_base("mini-sd", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def mini_xl():
    return load_base("mini-sdxl", device="cpu", dtype="fp32")


def custom(base, words, seed, class_words="cat"):
    """As Custom Diffusion learns one: whole keys and values, one row for all layers."""
    made = random_concept(base, words or "<x>", seed, size=0.1)
    draw = torch.Generator().manual_seed(seed)
    updates = {
        path: FullRank(torch.randn(update.shape, generator=draw) * 0.02)
        for path, update in made.updates.items()
        if path.endswith(OWN)
    }
    rows = {name: held[:, :1] for name, held in made.rows.items()} if words else {}
    subjects = (Subject(tuple(words.split()), class_words, modifier=True),)
    name = words.strip("<>") or class_words
    return replace(made, name=name, updates=updates, rows=rows, subjects=subjects)


def some(base):
    """One of CIDM, two of Custom Diffusion of which one has no words, and a style."""
    return [
        random_concept(base, "<dog1> <dog2>", 1, class_words="dog", size=0.1, name="dog"),
        custom(base, "<new1>", 2),
        custom(base, "", 3, class_words="Moon  Gate"),
        random_concept(base, "<ink1> <ink2>", 4, kind="style", size=0.1, name="ink"),
    ]


def merged_of(base, concepts, rows="compvis", captions=CAPTIONS, slack=0.0):
    encode, config = DiffusersEncoder(base).captions, MergeConfig(rows=rows, slack=slack)
    return merge(concepts, "pets", base, encode, captions, config)


@pytest.fixture(scope="module")
def merged(mini):
    return merged_of(mini, some(mini))


def reached(base, made, concept, text):
    """Largest distance at the words and the end of a text, as a share of what is changed there."""
    (context,) = DiffusersEncoder(base).prompts([text], [concept])
    places = [p for at in context.spans.triggers.values() for p in at] + list(context.spans.plain)
    places = [*sorted(places), max(places) + 1]
    worst = 0.0
    for i, layer in enumerate(made.layers):
        for part in OWN:
            states = context.at(i)[places].double()
            path = f"{layer}.{part}"
            wanted = states @ concept.updates[path].delta.double().T
            found = states @ made.updates[path].delta.double().T
            worst = max(worst, float((found - wanted).norm() / wanted.norm()))
    return worst


OWN_TEXTS = ("<dog1> <dog2>", "<new1> cat", "moon gate", "<ink1> <ink2>")


@pytest.mark.parametrize("number", range(4), ids=["cidm", "custom", "wordless", "style"])
def test_at_its_own_words_a_merged_concept_does_what_each_did(mini, merged, number):
    """Found in prompts as they are drawn; those of CIDM have other words in every layer."""
    made, report = merged
    assert reached(mini, made, some(mini)[number], OWN_TEXTS[number]) < 1e-3
    assert report.residual < 1e-4


def test_a_merge_holds_on_two_text_encoders(mini_xl):
    parts = [random_concept(mini_xl, "<dog1> <dog2>", 1, size=0.1), custom(mini_xl, "<new1>", 2)]
    made, _ = merged_of(mini_xl, parts)
    assert made.rows["text_encoder_2"].shape == (3, len(mini_xl.layers), 128)
    assert reached(mini_xl, made, parts[0], "<dog1> <dog2>") < 1e-3
    assert reached(mini_xl, made, parts[1], "<new1> cat") < 1e-3


def test_a_merged_concept_has_all_words_rows_and_low_ranks(mini, merged):
    made, report = merged
    parts = some(mini)
    assert [s.triggers for s in made.subjects] == [s.triggers for c in parts for s in c.subjects]
    assert_close(made.rows["text_encoder"][:2], parts[0].rows["text_encoder"])
    assert_close(made.rows["text_encoder"][2, 3], parts[1].rows["text_encoder"][0, 0])
    assert {type(update) for update in made.updates.values()} == {LowRank}
    assert {path.rpartition(".")[2] for path in made.updates} == set(OWN)
    assert {update.rank for update in made.updates.values()} == {report.targets}
    assert made.facts["merged"] == ("dog", "new1", "Moon  Gate", "ink")
    assert dict(report.left_out) == {"attn2.to_out.0": 7, "attn2.to_q": 7}
    assert "Left out" in report.in_words()


def test_slack_misses_a_concept_a_little_and_changes_other_words_less(mini):
    # Two of one class: their texts are nearly the same, what they want there is not.
    parts = [custom(mini, "<new1>", 2), custom(mini, "<new2>", 3)]
    exact, _ = merged_of(mini, parts)
    loose, report = merged_of(mini, parts, slack=0.1)
    assert 1e-3 < report.residual < 0.7  # of changes that agree in nothing
    other = "a red ball on the left, blue background"
    changes = [reached(mini, made, parts[0], other) for made in (exact, loose)]
    assert changes[1] < changes[0]


def test_a_merged_concept_is_drawn(mini, merged):
    made, _ = merged
    plan = make_plan(mini, {"pets": made}, "a <dog1> <dog2> and a <new1> cat")
    assert [concept.name for concept in plan.concepts] == ["pets"]


def test_a_concept_of_more_names_than_a_prompt_holds_is_drawn(mini):
    """As forty merged are: what weighs it is encoded in several texts."""
    names = [(f"<a{i}>", f"<b{i}>") for i in range(40)]
    made = random_concept(mini, " ".join(word for name in names for word in name), 1)
    made = replace(made, subjects=tuple(Subject(name, "cat") for name in names))
    (found,) = DiffusersEncoder(mini).triggers([[made]])
    places = [at for word in made.words for at in found.spans.triggers[word]]
    assert len(places) == 80
    assert places == sorted(set(places))
    (alone,) = DiffusersEncoder(mini).prompts(["<a39> <b39>"], [made])
    assert alone.states.shape[-1] == found.states.shape[-1]
    plan = make_plan(mini, {made.name: made}, "a <a39> <b39> on grass")
    assert max(slot.weights.max() for slot in plan.slots) == 1


def test_the_order_of_concepts_does_not_matter_without_shared_rows(mini):
    parts = some(mini)[:3]
    made, report = merged_of(mini, parts, "diffusers")
    other, _ = merged_of(mini, parts[::-1], "diffusers")
    assert report.shared == 0
    for path, update in made.updates.items():
        size = update.delta.norm()
        assert (update.delta - other.updates[path].delta).norm() < 1e-3 * size, path


def test_concepts_that_change_nothing_leave_the_weights_alone(mini):
    parts = [replace(random_concept(mini, f"<v{i}>", i), updates={}) for i in (1, 2)]
    made, report = merged_of(mini, parts)
    assert (made.updates, report.residual) == ({}, 0)
    zero = replace(custom(mini, "<v3>", 3), updates={})
    path = f"{mini.layers[0].path}.to_k"
    zero = replace(zero, updates={path: FullRank(torch.zeros(mini.shape_of(path)))})
    made, _ = merged_of(mini, [parts[0], zero])
    assert not made.updates[path].delta.any()


def test_few_captions_are_told_of(mini):
    _, report = merged_of(mini, some(mini)[:2], captions=["a red cup"])
    assert report.ridge > 0
    assert "200 or more hold ordinary text better" in report.in_words()


@pytest.mark.parametrize(
    ("subject", "rows", "expected"),
    [
        (Subject(("<a1>", "<a2>"), "dog"), "compvis", "<a1> <a2>|a photo of <a1> <a2>"),
        (Subject(("<n>",), "cat", modifier=True), "diffusers", "<n> cat|photo of a <n> cat"),
        (Subject((), "moon  gate", modifier=True), "compvis", "moon gate|a photo of moon gate"),
        (Subject(("<n>",), "art", "style"), "compvis", "<n>|painting in the style of <n>"),
        (Subject((), "party cart"), "compvis", "party cart|a photo of party cart"),
    ],
)
def test_texts_that_count(subject, rows, expected):
    """A style is one by its kind: neither a cart nor a party is."""
    assert "|".join(target_texts(subject, rows)) == expected


def test_rows_that_count():
    texts = ("photo of a dog", "a photo of a dog", "A photo of an owl", "a photo of <n>", "a dog")
    assert [first_token(text) for text in texts] == [4, 4, 4, 1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shipped_captions_are_plain(family):
    lines = shipped_captions(FAMILIES[family])
    assert len(lines) == len(set(lines)) >= 200
    assert all(line.isascii() and "<" not in line for line in lines)


def test_mini_models_have_captions_in_words_that_they_know(mini):
    def pieces(family):
        words = " ".join(shipped_captions(FAMILIES[family])).replace(",", " ").split()
        return sum(len(mini.tokenizers[0].tokenize(word)) for word in words) / len(words)

    assert pieces("MINI") < 1.02
    assert pieces("SD15") > 1.5


def test_what_cannot_be_merged_is_refused_before_any_text_is_encoded(mini, mini_xl):
    def refused(*concepts):
        with pytest.raises(CidmError) as caught:
            merge(concepts, "x", mini, pytest.fail, CAPTIONS)
        return type(caught.value), str(caught.value)

    dog, cat = some(mini)[:2]
    kinds = of_kinds(mini, kinds={"value": 1, "encoder": 1})
    assert "two concepts or more" in refused(dog)[1]
    assert "named twice" in refused(dog, cat, dog)[1]
    assert "overlaps '<dog1>'" in refused(dog, replace(dog, name="rex"))[1]
    assert "value residual" in refused(dog, kinds["value"])[1]
    assert "changes the text encoder" in refused(dog, kinds["encoder"])[1]
    again = replace(cat, method="merged")
    assert refused(dog, again) == (ConceptError, refused(again, dog)[1])
    kind, text = refused(dog, random_concept(mini_xl, "<far1>", 9))
    assert kind is FamilyError
    assert "Concept 'far1' was learned on MINI_XL" in text


def test_states_that_are_no_numbers_are_refused(mini):
    def broken(texts, concepts):
        found = DiffusersEncoder(mini).captions(texts, concepts)
        return [replace(each, states=each.states * torch.nan) for each in found]

    with pytest.raises(CidmError, match="not finite"):
        merge(some(mini)[:2], "x", mini, broken, CAPTIONS[:2])
    with pytest.raises(CidmError, match="no ordinary captions"):
        merge(some(mini)[:2], "x", mini, broken, [])


@pytest.fixture
def bank(mini, tmp_path):
    found = Bank(tmp_path / "bank")
    for concept in some(mini)[:3]:
        found.add(concept)
    return found


def test_a_merge_leaves_the_bank_and_needs_another(mini, bank, tmp_path):
    before = contents(bank.path)
    into = Bank(tmp_path / "other")
    into.add(random_concept(mini, "<new1>", 7, name="rival"))

    def attempt(target, name="pets", names=()):
        return merge_in_bank(bank, names, target, name, mini, pytest.fail, CAPTIONS)

    with pytest.raises(BankError, match="into another bank than 'bank'"):
        attempt(bank)
    with pytest.raises(BankError, match="overlap '<new1>' of concept 'rival'"):
        attempt(into)
    with pytest.raises(BankError, match="already has a concept 'rival'"):
        attempt(into, "rival", ["dog", "moon gate"])
    with pytest.raises(BankError, match=r"no concept 'dgo'\. Do you mean 'dog'"):
        attempt(into, names=["dgo", "new1"])
    (bank.path / "new1.safetensors").write_bytes(b"damaged")
    with pytest.raises(BankError, match=r"new1\.safetensors"):
        attempt(Bank(tmp_path / "third"), names=["dog", "new1"])
    (bank.path / "new1.safetensors").write_bytes(before["new1.safetensors"])
    assert contents(bank.path) == before
    assert list(into) == ["rival"]
    assert not (tmp_path / "third").exists()


def test_the_command_merges_into_a_bank_beside(bank, tmp_path, capsys):
    captions = tmp_path / "captions.txt"
    captions.write_text("\n\n".join(CAPTIONS[:20]))
    words = ["bank", "merge", "DOG", "<new1>", "--bank", str(bank.path), "--as", "pets", "--json"]
    assert main([*words, "--captions", str(captions), "--rows", "diffusers"]) == OK
    told = json.loads(capsys.readouterr().out)
    assert told["report"]["captions"] == 20
    assert told["report"]["merged"] == ["dog", "new1"]
    made = Bank(tmp_path / "bank-merged")["pets"]
    assert made.words == ("<dog1>", "<dog2>", "<new1>")
    assert made.config["rows"] == "diffusers"
    assert len(bank) == 3
    assert main(words) == FAILED
    assert "already has a concept 'pets'" in capsys.readouterr().err
    assert main([*words, "--captions", str(captions), "--overwrite", "--quiet"]) == OK
    assert Bank(tmp_path / "bank-merged")["pets"].config["rows"] == "compvis"
    captions.write_text("\n \n")
    for given in (str(captions), str(tmp_path / "none.txt")):
        assert main([*words, "--captions", given]) == FAILED
