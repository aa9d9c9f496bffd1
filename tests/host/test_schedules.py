"""Regions under scheduled, combined and masked prompts; the script says what each figure is."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "schedules.py"
CLEAR = 0.05  # a difference nobody would call rounding
ROUNDING = 1e-3  # rows in another grouping
MODES = ("attention and noise", "noise", "attention")


@pytest.fixture(scope="module")
def found(in_host):
    return in_host(SCRIPT)


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_in_two_halves_is_that_prompt(found, mode):
    assert found["halves"][mode] < ROUNDING
    assert found["region halves"][mode] < ROUNDING


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["order", "strength", "region order", "region strength"])
def test_the_order_of_conditionings_means_nothing(found, what, mode):
    swapped, effect = found[what][mode]
    assert swapped < ROUNDING
    assert effect > CLEAR


@pytest.mark.parametrize("mode", MODES)
def test_a_region_that_ends_early_leaves_its_place_to_the_picture(found, mode):
    inside, outside = found["region first half"][mode]
    assert inside > outside / 2


@pytest.mark.parametrize("mode", MODES)
def test_masked_prompts_reach_every_region(found, mode):
    swapped, spread = found["masked"][mode]
    assert swapped < ROUNDING
    assert spread > 0.3
    swapped, spread = found["masked later"]
    assert swapped < ROUNDING
    assert spread > 0.3


def test_what_regional_attention_cannot_do_is_refused(found):
    assert "Region 1 has 2 conditionings, some with a mask" in found["region masks"]
    assert found["region masks, noise"] is None
    assert "make 81 combinations" in found["too many"]


def test_a_region_of_two_texts_is_weighed_by_both(found):
    assert found["weighed by"] < ROUNDING


def test_prompts_that_take_turns_cost_no_more_rows(found):
    assert found["rows"] == [4, 4]


@pytest.mark.parametrize("mode", MODES)
def test_every_conditioning_keeps_its_controlnet(found, mode):
    swapped, effect, same = found["control"][mode]
    assert swapped < ROUNDING
    assert effect > CLEAR
    assert same < ROUNDING
