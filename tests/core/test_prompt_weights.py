"""Weights in prompts: read as ComfyUI reads them, and put on hidden states."""

import pytest
import torch

from cidm_core.diffusers_host.encode import DiffusersEncoder, encode
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.diffusers_host.prompt_weights import apply_weights, foreign_syntax, stretches_of


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", []),
        ("a (cat) here", [("a ", 1.0), ("cat", 1.1), (" here", 1.0)]),
        ("a (red cat:1.5)", [("a ", 1.0), ("red cat", 1.5)]),
        ("(a ((cat)) b)", [("a ", 1.1), ("cat", 1.331), (" b", 1.1)]),
        ("(a (cat:0.5) b:2)", [("a ", 2.0), ("cat", 0.5), (" b", 2.0)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        (r"a \(cat\) (dog\):1.3)", [("a (cat) ", 1.0), ("dog)", 1.3)]),
        ("(cat", [("(cat", 1.0)]),
        ("a) (b:1.2)", [("a) (b:1.2)", 1.0)]),
        ("()", []),
    ],
)
def test_stretches_of_one_weight(text, parts):
    found = stretches_of(text)
    assert [part for part, _ in found] == [part for part, _ in parts]
    assert [w for _, w in found] == pytest.approx([w for _, w in parts])


def test_a_weight_moves_a_token_from_the_empty_prompt():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    empty = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    weights = [1.0, 1.2, 0.0, -0.5]
    found = apply_weights(states, torch.tensor(weights, dtype=torch.float64), empty)
    for layer in range(2):
        for token, weight in enumerate(weights):
            expected = [
                float(e) + weight * (float(s) - float(e))
                for s, e in zip(states[layer, token], empty[token], strict=True)
            ]
            assert found[layer, token].tolist() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(found[:, 0], states[:, 0])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a cat, (very:1.2) red", []),
        ("a [red] cat", ["[...]"]),
        ("a cat BREAK a dog", ["BREAK"]),
        ("a break in the clouds and a dog", []),
        ("embedding:bad a cat", ["embedding:..."]),
        ("a cat <lora:foo:1>", ["<lora:...>"]),
        ("a {red|blue} cat", ["{...|...}"]),
        ("a cat AND a dog", ["AND"]),
        ("a <rex> and a <dog1> <dog2>", []),
    ],
)
def test_what_other_programs_act_on_is_named(text, names):
    assert foreign_syntax(text) == names


def test_a_weighted_prompt_is_encoded_as_the_formula_says(tiny_base):
    encoder = DiffusersEncoder(tiny_base)
    weighted, plain, empty, other = encoder.prompts(
        ["a (red cat:1.5) on grass", "a red cat on grass", "", "a dog"], []
    )
    ids = tiny_base.tokenizers[0]("red cat", add_special_tokens=False).input_ids
    first = 1 + len(tiny_base.tokenizers[0]("a", add_special_tokens=False).input_ids)
    expected = plain.states.clone()
    at = slice(first, first + len(ids))
    expected[:, at] = empty.states[:, at] + 1.5 * (plain.states[:, at] - empty.states[:, at])
    torch.testing.assert_close(weighted.states, expected, rtol=1e-4, atol=1e-4)
    (again,) = encoder.prompts(["a dog"], [])
    torch.testing.assert_close(other.states, again.states, rtol=1e-4, atol=1e-4)


def test_captions_have_no_weights(tiny_base):
    plain, _ = encode(tiny_base, ["a (red cat:1.5)"])
    ids = tiny_base.tokenizers[0]("a (red cat:1.5)", padding="max_length", max_length=77).input_ids
    with torch.no_grad():
        states = tiny_base.text_encoders[0](torch.tensor([ids])).last_hidden_state
    torch.testing.assert_close(plain[0, 0], states[0], rtol=1e-4, atol=1e-4)


def test_syntax_of_others_is_warned_of_once(tiny_base, caplog):
    make_plan(tiny_base, {}, "a [red] cat <lora:foo:1>, (very:1.1) big")
    assert [record.getMessage().split(" in ")[0] for record in caplog.records] == [
        "[...]",
        "<lora:...>",
    ]
