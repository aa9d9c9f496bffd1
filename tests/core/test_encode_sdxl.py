"""SDXL's text against diffusers' pipeline, and against transformers' own way of adding tokens."""

import copy

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from make import random_concept

from cidm_core.diffusers_host.encode import DiffusersEncoder, embeddings_of, encode_texts
from cidm_core.diffusers_host.sizes import added_conditions
from cidm_core.diffusers_host.tokens import tokenise
from cidm_core.sizes import PictureSizes

ENCODERS = ("text_encoder", "text_encoder_2")
PROMPTS = ["a photo of a dog on the house", "", "a red cat, with a bear", "x " * 100]


@pytest.fixture(scope="module")
def pipeline(xl_folder):
    found = StableDiffusionXLPipeline.from_pretrained(xl_folder, local_files_only=True)
    found.tokenizer.model_max_length = found.tokenizer_2.model_max_length = 77
    return found


@pytest.fixture(scope="module")
def concept(xl_base):
    return random_concept(xl_base, "<v1> <w1>", seed=3)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_states_and_pooled_text_are_those_of_diffusers_pipeline(prompt, xl_base, pipeline):
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    (found,) = DiffusersEncoder(xl_base).prompts([prompt], [])
    torch.testing.assert_close(found.states, states, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.pooled, pooled[0], rtol=1e-6, atol=1e-6)
    assert found.states.shape == (1, 77, 2048)
    assert found.pooled.shape == (1280,)
    assert found.pooled.std() > 0.01


def test_several_prompts_at_once_are_what_they_are_alone(xl_base):
    encoder = DiffusersEncoder(xl_base)
    for together, prompt in zip(encoder.prompts(PROMPTS, []), PROMPTS, strict=True):
        (alone,) = encoder.prompts([prompt], [])
        torch.testing.assert_close(together.states, alone.states, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.pooled, alone.pooled, rtol=1e-5, atol=1e-5)


def test_an_exclamation_mark_is_a_word_and_padding_is_none(xl_base, pipeline):
    """As OpenCLIP and ComfyUI read it; diffusers' second tokenizer takes it for padding."""
    first, second = (
        tokenise(tokenizer, "a dog!", (), 77, pad_id=row.pad_id).ids
        for tokenizer, row in zip(xl_base.tokenizers, xl_base.family.encoders, strict=True)
    )
    end = xl_base.tokenizers[0].eos_token_id
    place = first.index(end)
    assert first[:place] == second[:place]
    assert first[place:] == [end] * (77 - place)
    assert second[place:] == [end] + [0] * (76 - place)
    assert 0 not in second[:place]
    assert pipeline.tokenizer_2("a dog!").input_ids[place - 1] == 0


@pytest.fixture(scope="module")
def added(xl_base, concept):
    """The reference: copies of tokenizers and encoders whose vocabulary has the concept's words."""
    pairs = [
        copy.deepcopy(pair) for pair in zip(xl_base.tokenizers, xl_base.text_encoders, strict=True)
    ]
    for tokenizer, encoder in pairs:
        tokenizer.add_tokens(list(concept.words))
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return pairs


def with_added_tokens(base, added, concept, layer, prompt):
    """A plain encode, the new vocabulary rows holding one layer's embeddings."""
    states, pooled = [], None
    for row, (tokenizer, encoder) in zip(base.family.encoders, added, strict=True):
        table = encoder.get_input_embeddings().weight.data
        for i, word in enumerate(concept.words):
            at = tokenizer.convert_tokens_to_ids(word)
            table[at] = concept.rows[row.name][i, layer]
        ids = tokenizer(prompt).input_ids
        pad = tokenizer.eos_token_id if row.name == "text_encoder" else 0
        ids += [pad] * (77 - len(ids))
        with torch.no_grad():
            output = encoder(torch.tensor([ids]), output_hidden_states=True)
        states.append(output.hidden_states[-2][0])
        pooled = output.text_embeds[0] if row.pooled else None
    return torch.cat(states, -1), pooled


@pytest.mark.parametrize("prompt", ["a photo of a <v1> <w1>, red", "<w1>", "two <v1><w1> and <v1>"])
def test_every_layer_equals_added_vocabulary_rows(prompt, xl_base, added, concept):
    with torch.no_grad():
        (found,) = encode_texts(xl_base, [prompt], embeddings_of([concept]))
    expected = [
        with_added_tokens(xl_base, added, concept, layer, prompt)
        for layer in range(len(xl_base.layers))
    ]
    for layer, (states, _) in enumerate(expected):
        torch.testing.assert_close(found.at(layer), states, rtol=1e-4, atol=1e-5)
    mean = torch.stack([pooled for _, pooled in expected]).mean(0)
    torch.testing.assert_close(found.pooled, mean, rtol=1e-4, atol=1e-5)


def rows_of(base, word):
    """The model's own embeddings of a plain word, as the rows of a concept word: (1, dim)."""
    pairs = zip(ENCODERS, base.tokenizers, base.text_encoders, strict=True)
    found = {}
    for name, tokenizer, encoder in pairs:
        (token,) = tokenizer(word, add_special_tokens=False).input_ids
        found[name] = encoder.get_input_embeddings().weight.detach()[[token]]
    return found


def test_a_word_with_a_plain_word_s_rows_reads_as_that_word(xl_base):
    """Its placeholder has the end token's id; the pooled text stays where the prompt ends."""
    assert xl_base.tokenizers[1].unk_token_id == xl_base.tokenizers[1].eos_token_id
    with torch.no_grad():
        (found,) = encode_texts(xl_base, ["a <v1> on a house"], {"<v1>": rows_of(xl_base, "dog")})
        (plain,) = encode_texts(xl_base, ["a dog on a house"], {})
    torch.testing.assert_close(found.states, plain.states, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.pooled, plain.pooled, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("single", ENCODERS)
def test_one_encoder_may_have_rows_for_all_layers_at_once(single, xl_base, concept):
    rows = {k: v if k != single else v[:, :1] for k, v in concept.rows.items()}
    spread = {k: v.expand(-1, len(xl_base.layers), -1) for k, v in rows.items()}
    with torch.no_grad():
        one, many = (
            encode_texts(
                xl_base,
                ["a <v1> <w1>"],
                {w: {k: v[i] for k, v in each.items()} for i, w in enumerate(concept.words)},
            )[0]
            for each in (rows, spread)
        )
    torch.testing.assert_close(one.states, many.states, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.pooled, many.pooled, rtol=1e-5, atol=1e-5)


def test_weights_move_the_states_as_each_encoder_has_them_and_not_the_pooled_text(xl_base):
    encoder = DiffusersEncoder(xl_base)
    plain, heavy, empty = encoder.prompts(["a red dog", "a (red:1.5) dog", ""], [])
    expected = plain.states.clone()
    expected[:, 2] = (plain.states[:, 2] - empty.states[:, 2]) * 1.5 + empty.states[:, 2]
    torch.testing.assert_close(heavy.states, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heavy.pooled, plain.pooled, rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_rows_of_both_encoders_and_nothing_else(xl_base, concept):
    rows = {k: v.clone().requires_grad_() for k, v in concept.rows.items()}
    table = {w: {k: v[i] for k, v in rows.items()} for i, w in enumerate(concept.words)}
    (found,) = encode_texts(xl_base, ["a <v1> <w1>"], table)
    found.states.square().sum().backward(retain_graph=True)
    for name in ENCODERS:
        assert rows[name].grad.abs().sum(-1).min() > 0
        rows[name].grad = None
    found.pooled.square().sum().backward()
    assert rows["text_encoder"].grad is None
    assert rows["text_encoder_2"].grad.abs().sum(-1).min() > 0
    for encoder in xl_base.text_encoders:
        assert all(p.grad is None for p in encoder.parameters())


def test_the_unet_reads_our_text_and_sizes_as_those_of_the_pipeline(xl_base, pipeline):
    original, crop, target = (96, 80), (8, 16), (64, 72)
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt("a dog", do_classifier_free_guidance=False)
        ids = pipeline._get_add_time_ids(
            original, crop, target, dtype=states.dtype, text_encoder_projection_dim=1280
        )
        x = torch.randn(1, 4, 8, 9, generator=torch.Generator().manual_seed(1))
        added = {"text_embeds": pooled, "time_ids": ids}
        expected = pipeline.unet(x, 500, states, added_cond_kwargs=added).sample
        (text,) = DiffusersEncoder(xl_base).prompts(["a dog"], [])
        sizes = [PictureSizes(original, crop, target)]
        added = added_conditions(text.pooled[None], sizes)
        found = xl_base.unet(x, 500, text.states, added_cond_kwargs=added).sample
        whole = added_conditions(text.pooled[None], [PictureSizes.whole(64, 72)])
        other = xl_base.unet(x, 500, text.states, added_cond_kwargs=whole).sample
    assert torch.equal(added["time_ids"], ids)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert whole["time_ids"].tolist() == [[64, 72, 0, 0, 64, 72]]
    assert (other - found).abs().max() > 1e-4


def test_sizes_are_not_rounded_to_the_precision_of_the_text():
    added = added_conditions(torch.zeros(2, 8).bfloat16(), [PictureSizes.whole(1021, 1023)] * 2)
    assert added["time_ids"].tolist() == [[1021, 1023, 0, 0, 1021, 1023]] * 2
