"""An applied bank among ComfyUI's own nodes; the script says what each figure is."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "sampling.py"
CLEAR = 0.05  # a difference nobody would call rounding
ROUNDING = 1e-3  # rows in another grouping, latents of size 5


@pytest.fixture(scope="module")
def found(in_host):
    return in_host(SCRIPT)


def test_without_concept_words_nothing_changes_by_a_bit(found):
    assert found["stock"] == 0.0
    assert found["effect"] > CLEAR


@pytest.mark.parametrize("regions", [1, 2, 3, 4])
def test_u_regions_cost_u_plus_two_rows_in_one_call(found, regions):
    assert found["rows"][str(regions)] == {"calls": 1.0, "rows": regions + 2}


def test_regional_attention_alone_costs_no_row(found):
    assert found["rows"]["attention only"] == {"calls": 1.0, "rows": 2}


def test_rows_are_split_when_memory_is_short(found):
    assert found["split"]["rows"] == 1
    assert found["split"]["calls"] == 4.0
    assert found["split"]["difference"] < ROUNDING


def test_regions_mean_what_they_say(found):
    assert found["alpha 1"] < ROUNDING  # the global estimate alone, in a batch of other size
    assert found["batch"] < ROUNDING  # a batch draws each picture as it would be alone
    assert found["non-square"]


def test_words_are_bound_with_weights_case_and_clip_skip(found):
    assert found["tagged"] == [["<v11>", 1.3], ["<v12>", 1.3]]
    assert found["weighted"] > CLEAR
    assert found["clip skip"] > CLEAR
    assert found["clip skip before"] == 0.0
    assert found["long"] > CLEAR  # a concept word beyond the first 48 tokens


def test_an_unknown_word_is_named_with_the_nearest(found):
    assert "'<v13>'" in found["unknown word"]
    assert "Did you mean" in found["unknown word"]
    assert found["other tags"] is None
    assert "castle" in found["all placeholders"]


@pytest.mark.parametrize("node", ["combine", "area", "mask", "range"])
def test_stock_conditioning_nodes_keep_concepts(found, node):
    assert found["kept"][node] > CLEAR


def test_area_conditions_live_with_regions(found):
    assert found["area regional"]
    assert found["only area regional"]


def test_nodes_that_drop_our_data_are_named(found):
    assert "Conditioning (Concat)" in found["concat"]
    assert "Conditioning (Average)" in found["average"]
    assert found["harmless concat"] is None
    assert found["zero-out"] is None
    assert found["zero-out inherits"] == 0.0


def test_half_a_connection_is_explained(found):
    assert "CLIP output of Apply Concept Bank" in found["bare clip"]
    assert "Put Apply Concept Bank between" in found["bare model"]


def test_other_packs_patches_keep_working(found):
    assert found["contexts seen"] == 7  # one context per layer
    assert found["attn2 replace"] < ROUNDING
    assert found["attn2 replace regional"] < ROUNDING
    assert found["rescale cfg"] > CLEAR
    assert found["applied twice"] == 0.0


def test_loras_before_and_after_do_the_same(found):
    assert found["lora"]["order"] == 0.0
    assert found["lora"]["effect"] > CLEAR
    assert found["lora"]["text effect"] > CLEAR
    assert found["one again"] == 0.0


def test_controlnet_reaches_every_row_of_one_call(found):
    assert found["controlnet"]["effect"] > CLEAR
    assert (found["controlnet"]["calls"], found["controlnet"]["rows"]) == (1.0, 4)


def test_inpainting_keeps_what_the_mask_keeps(found):
    assert found["inpaint"]["kept"] < 1e-5
    assert found["inpaint"]["redrawn"] > CLEAR


def test_the_model_is_left_as_it_was_even_when_interrupted(found):
    assert found["interrupted"]
    assert found["left behind"] == []
    assert found["weights changed"] == []
    assert found["options left"] == []
    assert found["bare again"] == 0.0
