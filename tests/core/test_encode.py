"""Layer-wise encoding against transformers' own way of adding tokens."""

import copy
import logging

import pytest
import torch
from make import random_concept

from cidm_core.diffusers_host.encode import DiffusersEncoder, embeddings_of, encode
from cidm_core.diffusers_host.tokens import tokenise
from cidm_core.errors import PromptError
from cidm_core.sampling.concept_weights import concept_tokens


@pytest.fixture(scope="module")
def concept(tiny_base):
    return random_concept(tiny_base, "<v1> <w1>", seed=3)


def with_added_tokens(base, concept, layer, prompt):
    """The reference: new vocabulary rows holding one layer's embeddings, then a plain encode."""
    tokenizer = copy.deepcopy(base.tokenizers[0])
    encoder = copy.deepcopy(base.text_encoders[0])
    tokenizer.add_tokens(list(concept.words))
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight.data
    for i, word in enumerate(concept.words):
        table[tokenizer.convert_tokens_to_ids(word)] = concept.rows["text_encoder"][i, layer]
    limit = base.family.encoders[0].max_tokens
    ids = tokenizer(
        prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
    ).input_ids
    return encoder(ids).last_hidden_state[0]


@pytest.mark.parametrize("prompt", ["a photo of a <v1> <w1>, red", "<w1>", "Two <V1><w1> and <v1>"])
def test_every_layer_equals_added_vocabulary_rows(tiny_base, concept, prompt):
    ours = encode(tiny_base, [prompt], embeddings_of([concept]))[0][0]
    for layer in range(len(tiny_base.layers)):
        theirs = with_added_tokens(tiny_base, concept, layer, prompt.lower())
        torch.testing.assert_close(ours[layer], theirs, rtol=1e-4, atol=1e-5)


def test_prompts_without_concept_words_are_encoded_once(tiny_base, concept, monkeypatch):
    rows = []
    encoder = tiny_base.text_encoders[0]
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda i, **k: rows.append(len(i)) or forward(i, **k))
    out, _ = encode(tiny_base, ["a", "a <v1>", "a", "b", "a <v1>"], embeddings_of([concept]))
    layers = len(tiny_base.layers)
    assert rows == [1 + layers + 1]
    assert out.shape[:2] == (5, layers)
    assert torch.equal(out[0], out[2])
    assert torch.equal(out[1], out[4])


def test_gradients_reach_the_rows_and_nothing_else(tiny_base, concept):
    rows = {k: v.clone().requires_grad_() for k, v in concept.rows.items()}
    table = {w: {k: v[i] for k, v in rows.items()} for i, w in enumerate(concept.words)}
    encode(tiny_base, ["a <v1> <w1>"], table)[0].square().sum().backward()
    assert rows["text_encoder"].grad.abs().sum(-1).min() > 0
    assert all(p.grad is None for p in tiny_base.text_encoders[0].parameters())


def test_positions_and_limit(tiny_base):
    tokenizer = tiny_base.tokenizers[0]
    found = tokenise(tokenizer, "<v1> x <w1> <v1>", [("<v1>",), ("<w1>",)], 77).spans.triggers
    assert len(found["<v1>"]) == 2
    assert found["<v1>"][0] == 1
    with pytest.raises(PromptError, match="Move it nearer to the start"):
        tokenise(tokenizer, "x " * 100 + "<v1>", [("<v1>",)], 77)


def test_long_plain_text_is_cut_with_a_warning(tiny_base, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            tokens = tokenise(tiny_base.tokenizers[0], "<v1> " + "x " * 100, [("<v1>",)], 77)
        tokenise(tiny_base.tokenizers[0], "y " * 100, (), 77, quiet=True)
    assert len(tokens.ids) == 77
    assert [record.message[:29] for record in caplog.records] == ["Prompt cut after 75 tokens: '"]


def test_concept_tokens_alone_and_jointly(tiny_base, concept):
    other = random_concept(tiny_base, "<v2>", seed=4)
    encoder = DiffusersEncoder(tiny_base)
    alone, mask = concept_tokens(encoder, [concept, other], joint=False)
    assert mask.tolist() == [[True, True], [True, False]]
    expected = encode(tiny_base, ["<v2>"], embeddings_of([other]))[0][0, :, 1]
    torch.testing.assert_close(alone[1, :, 0], expected)
    joint, _ = concept_tokens(encoder, [concept, other], joint=True)
    expected = encode(tiny_base, ["<v1> <w1> <v2>"], embeddings_of([concept, other]))[0][0, :, 3]
    torch.testing.assert_close(joint[1, :, 0], expected)


def test_joint_encoding_overflows_with_many_concepts(tiny_base):
    """The released way ends where the token limit does (methods 7.4)."""
    many = [random_concept(tiny_base, f"<a{i}> <b{i}>", seed=i, rank=1) for i in range(40)]
    encoder = DiffusersEncoder(tiny_base)
    with pytest.raises(PromptError):
        concept_tokens(encoder, many, joint=True)
    assert concept_tokens(encoder, many, joint=False)[0].shape[0] == 40
