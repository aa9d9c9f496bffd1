"""Wrong wires are named; several banks, saving, baking and compiling work; see the script."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "wiring.py"
CLEAR = 0.05  # a difference nobody would call rounding
ROUNDING = 1e-3  # rows in another grouping


@pytest.fixture(scope="module")
def found(in_host):
    return in_host(SCRIPT)


def test_a_model_without_the_bank_is_refused(found):
    assert "(<v11>, <v12>) was encoded with the CLIP of Apply Concept Bank" in found["bare model"]
    assert "Connect the MODEL output" in found["bare model"]
    assert "without concept words" in found["bare model, all concepts"]
    assert "the bank of its first model only" in found["merged away"]
    assert found["bare model, no concept"] == 0.0


def test_a_prompt_of_another_clip_is_named(found):
    assert "did not encode the positive prompt: concept words mean nothing" in found["positive"]
    assert "the positive prompt" in found["combined"]
    assert "the positive prompt of region 2" in found["region"]
    difference, told = found["negative"]
    assert difference == 0.0
    assert len(told) == 1
    assert "the negative prompt: concept words" in told[0]
    assert "the negative prompt of region 2" in found["region's negative"][0]
    assert found["emptied"] == []
    assert found["strength 0"] is None


def test_merged_models_are_told_of(found):
    assert len(found["merged"]) == 1
    assert "mixes the weights of several models" in found["merged"][0]
    assert found["merge allowed"] == []
    assert "learned on another MINI model" in found["other base"]


def test_concept_words_in_the_second_text_are_named(found):
    for how, error in found["mixed"].items():
        assert "<v11>, <v12>" in (error or ""), how
        assert "Concat" in error if "average" not in how else "Average" in error, how
    assert "did not encode the positive prompt" in found["concat to the loader's"]
    assert set(found["harmless"].values()) == {None}


@pytest.mark.parametrize("routing", ["prompt", "token"])
def test_a_concept_is_its_bank_and_name(found, routing):
    same, other = found["two banks"][routing]
    assert same < ROUNDING
    assert other > CLEAR


def test_a_conditioning_can_be_saved(found):
    assert found["dataset"] == [0.0, 0.0]
    assert found["deep copy"] == 0.0
    assert found["dataset later"] == 0.0
    assert "has no concept 'c1'" in found["concept gone"]
    assert "taught again" in found["taught again"]


def test_save_checkpoint_says_that_the_bank_stays_behind(found):
    difference, told = found["save"]
    assert difference == 0.0
    assert len(told) == 1
    assert "Bake Concepts" in told[0]
    assert len(found["save a clone"]) == 1


def test_baked_weights_are_those_of_the_prompt(found):
    same, effect, told = found["baked"]
    assert same < ROUNDING
    assert effect > CLEAR
    assert told == []
    changed, rest, told = found["baked file"]
    assert changed < 1e-5
    assert rest == 0.0
    assert told == []
    assert found["difference"] < 1e-5
    assert found["baked file, words"] < ROUNDING
    assert found["baked, the loader's words"] is None
    assert found["two prompts"] is None


def test_what_cannot_be_baked_is_said(found):
    assert "names no concept" in found["bake nothing"]
    assert "has no concept bank" in found["bake bare"]
    assert "key_value_routing to 'prompt'" in found["bake tokens"]


def test_a_compiled_unet_draws_the_same(found):
    assert max(found["compiled"]) < ROUNDING
    assert found["left behind"] == []
