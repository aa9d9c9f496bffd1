"""SDXL among ComfyUI's own nodes: two texts, pooled text, sizes, wrong CLIPs, learning."""

from pathlib import Path

import pytest
from tools.make_checkpoint import write_compvis

INSIDE = Path(__file__).parent / "inside"
EXACT = 2e-6  # of values about 1 large: sums in another order


@pytest.fixture(scope="module")
def found(in_host, base, xl_checkpoint):
    return in_host(INSIDE / "sdxl.py", xl_checkpoint, base / "models" / "checkpoints" / "tokenizer")


@pytest.fixture(scope="module")
def learned(in_host, xl_checkpoint):
    return in_host(INSIDE / "sdxl_training.py", xl_checkpoint)


@pytest.mark.parametrize(
    "case",
    [
        *("one", "textual inversion", "one row for all layers", "weighted", "long"),
        *("clip skip -1", "clip skip -2", "clip skip -3"),
        *("two texts, g", "two texts, l", "two texts of two lengths"),
    ],
)
def test_a_word_with_a_plain_words_rows_reads_as_that_word(found, case):
    """In the states and in pooled text, which an added word never moves."""
    states, pooled = found["twins"][case]
    assert states < EXACT
    assert pooled < EXACT


def test_a_word_in_either_text_calls_its_concept(found):
    assert found["either"]["concepts"] == ["c1", "dog"]
    assert found["either"]["triggers"] == {"<v11>": [1], "<v12>": [2], "<dog>": [3]}
    assert found["either"]["plain"] == []


def test_pooled_text_is_the_mean_of_all_versions(found):
    assert found["mean pooled"] < EXACT
    assert found["versions differ"] > 0.1


def test_equal_versions_are_encoded_once(found):
    assert found["sections"] == [8, 1]


@pytest.mark.parametrize(
    ("case", "rows"), [("plain", 2), ("sizes", 2), ("region", 3), ("regional attention", 4)]
)
def test_the_unet_is_told_each_rows_pooled_text_and_the_pictures_sizes(found, case, rows):
    """A region without sizes of its own has the picture's; attention keeps the picture's text."""
    count, apart = found["told"][case]
    assert count == rows
    assert apart < EXACT
    assert found["told"]["pooled differ"] > 0.1


def test_core_nodes_that_join_and_change_prompts_do_as_on_sd15(found):
    assert found["combined"] > 1e-3
    assert found["zeroed negative"]
    assert "Conditioning (Average)" in found["changed"]


def test_load_lora_applies_the_very_deltas(found):
    """Of the UNet and both text encoders."""
    assert found["load lora"]["keys"]
    assert found["load lora"]["error"] < EXACT


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("SD 1.5's CLIP", "SD1ClipModel, which belongs to SD15. The MODEL is SDXL"),
        ("a refiner's CLIP", "second text encoder of SDXL alone, as a refiner has it"),
        ("mini-sd's CLIP", "SD1ClipModel, which belongs to MINI. The MODEL is SDXL"),
        ("SDXL's CLIP", "SDXLClipModel, which belongs to SDXL. The MODEL is MINI"),
        ("no second encoder", "(clip_g) has no weights: the file lacks it"),
        ("no CLIP", "There is no CLIP"),
        ("another family's bank", "was learned on MINI (context 128), the model is SDXL"),
        ("SDXL's bank", "was learned on SDXL (context 2048), the model is MINI"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_name(found, case, says):
    assert says in found["refused"][case]


def test_the_sockets_give_the_base_that_the_file_gives(found):
    made = found["base"]
    assert all(made["same"])
    assert made["names"] == ["SDXL", True]
    assert made["heads"][0] == made["heads"][1]
    assert made["text heads"] == [12, 20]
    assert made["tokenizers"][0] == made["tokenizers"][1]


def test_train_concept_teaches_both_encoders_a_word(learned):
    assert learned["steps"] == 2
    assert learned["finite"]
    assert learned["family"] == ["SDXL", True]
    assert learned["rows"] == {"text_encoder": [2, 8, 768], "text_encoder_2": [2, 8, 1280]}
    assert learned["preview"]


def test_what_it_taught_is_listed_and_drawn_and_loads_as_a_lora(learned):
    assert "SDXL" in learned["listing"]
    assert learned["drawn"]
    loaded, held = learned["lora keys"]
    assert loaded == held > 0


@pytest.mark.lab
def test_the_stock_loader_opens_the_smallest_it_takes_for_sdxl(in_host, tmp_path):
    """Its mark of SDXL is 320 channels and these blocks; narrower presets need its class told."""
    path = tmp_path / "host.safetensors"
    write_compvis(path, "sdxl-host", "fp16")
    opened = in_host(INSIDE / "stock_checkpoint.py", path)
    assert opened == {"model": "SDXL", "layers": 17, "context": 2048, "cells": 4}
