"""Concepts of every kind in ComfyUI: Load LoRA, what does not fit, recipes."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "kinds.py"
EXACT = 1e-6  # of deltas about 1 large: both sides multiply in float32


@pytest.fixture(scope="module")
def found(in_host):
    return in_host(SCRIPT)


@pytest.mark.parametrize("kind", ["low", "full", "value", "around", "encoder", "wordless", "two"])
def test_load_lora_applies_the_very_deltas_and_passes_over_the_rest(found, kind):
    """Low and full rank, of the UNet and the text encoder; rows and value residuals are no LoRA."""
    assert found["load lora"][kind]["error"] < EXACT
    assert found["load lora"][kind]["keys"]


def test_stock_nodes_draw_an_exported_concept_as_apply_does(found):
    """Load LoRA on the weights, `embedding:k2` for its word. Here it is added, not folded in."""
    assert found["stock nodes"]["error"] < 5e-5
    assert found["stock nodes"]["concept"] > 0.1
    assert "is there already" in found["overwritten"]


def test_stock_nodes_draw_several_subjects_of_clif_as_apply_does(found):
    assert found["stock nodes, clif"]["error"] < 5e-5
    assert found["stock nodes, clif"]["concept"] > 0.1


def test_a_concept_goes_out_to_diffusers_and_comes_back(found):
    assert found["back"].pop("error") < EXACT
    assert found["back"] == {"words": ["<k2>"], "rows": True, "paths": True}


@pytest.mark.parametrize("case", ["attn2", "attn1", "encoder", "absent", "rows"])
def test_another_geometry_is_refused_when_the_concept_is_read(found, case):
    stage, kind, text, encoded = found["unfit"][case]
    assert (stage, kind, encoded) == ("encode", "FamilyError", 0)
    assert "'low'" in text
    assert "Load the model it was learned on" in text


@pytest.mark.parametrize("case", ["other layers", "other base"])
def test_what_the_header_tells_is_refused_by_apply(found, case):
    stage, kind, text, encoded = found[case]
    assert (stage, kind, encoded) == ("apply", "FamilyError", 0)
    assert "'low'" in text


def test_a_concept_that_fits_is_not_refused(found):
    assert found["fits"] is None


def test_a_baked_model_draws_with_a_concept_that_changes_the_text_encoder(found):
    assert found["baked"] is None


def test_the_guider_follows_the_recipe_of_the_bank(found):
    assert found["recipes"] == {
        "ours": ["gate", "per_task", "per_region", "partition", True],
        "paper": ["paper", "per_task", "global", "literal", False],
        "released": ["released", "joint", "global", "literal", False],
    }
    assert found["a widget that sent nothing"] == found["recipes"]["paper"]


def test_single_settings_go_before_the_recipe(found):
    assert found["single settings"] == ["gate", "joint", "global", "partition", False]
