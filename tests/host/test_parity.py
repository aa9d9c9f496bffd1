"""The same weights, bank, prompt, regions, noise and sigmas give the same latents in both hosts."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "inside" / "parity.py"
SAME = 1e-4
# Cases in which concepts, regions or settings must have changed the picture a lot.
CHANGES = [
    "one",
    "many",
    "dense",
    "regions",
    "mask",
    "own_negative",
    "global_weights",
    "attention_only",
    "noise_only",
    "literal",
]


@pytest.fixture(scope="module")
def found(in_host, base, checkpoint):
    return in_host(SCRIPT, checkpoint, base / "models" / "checkpoints" / "tokenizer")


@pytest.mark.parametrize("case", ["plain", "strength", "merged", "per_row", "lora", *CHANGES])
def test_both_hosts_make_the_same_latents(found, case):
    assert found[case]["difference"] < SAME


@pytest.mark.parametrize("case", CHANGES)
def test_the_cases_test_something(found, case):
    assert found[case]["effect"] > 0.3


def test_a_lora_beside_the_bank_counts(found):
    assert found["lora"]["effect"] > 100 * SAME


def test_nothing_is_left_on_the_model(found):
    assert found["left behind"] == []
