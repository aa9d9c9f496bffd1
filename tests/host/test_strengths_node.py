"""Concept Strengths in ComfyUI; the script says what each figure is.

That both hosts draw the same: test_parity.py.
"""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "strengths.py"
CLEAR = 0.05  # a difference nobody would call rounding
ROUNDING = 1e-3  # sums in another order, latents of size 5


@pytest.fixture(scope="module")
def found(in_host):
    return in_host(SCRIPT)


def test_each_concept_is_drawn_at_its_strength(found):
    assert found["one for all"] < ROUNDING
    assert found["effect"] > CLEAR
    assert found["of 1"] == 0.0


def test_nodes_can_follow_one_another(found):
    assert found["nothing written"]
    assert found["later nodes count"] == 0.0
    assert found["earlier nodes stay"] == 0.0


def test_a_prompt_keeps_its_strengths(found):
    assert found["saved"] == 0.0
    assert found["of the prompt"] < ROUNDING


def test_regions_may_differ_in_them(found):
    assert max(found["regions"]) < ROUNDING
    assert found["regions differ"] > CLEAR


def test_baked_weights_have_them(found):
    assert found["baked"] < ROUNDING
    assert found["bare, baked"] > CLEAR


def test_they_are_shown(found):
    assert "c2 0." in found["shown"]
    assert "(strength 0.5)" in found["shown"]
    assert found["on the node"] == ["c1: 0.5\nc3: 2\n1 for c2"]


def test_what_is_wrong_or_without_effect_is_said(found):
    assert found["no part"] == ["No prompt here names 'c3': strengths has no effect there."]
    error, before = found["c4 = 1"]
    assert "strengths asks for the concept 'c4', which the bank does not have." in error
    assert before is True  # the bank is known only when it runs
    error, before = found["c1 = -1"]
    assert before in error
    assert before == "The strength of 'c1' is -1; allowed is 0 to 4."
    error, before = found["c1"]
    assert before.startswith("strengths has 'c1'. Write CONCEPT=NUMBER")
