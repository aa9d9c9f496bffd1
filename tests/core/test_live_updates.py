"""Live updates of every kind, in the model while it learns: what they add, and their gradients."""

import copy

import pytest
import torch
from learning_samples import same_weights, small_base, weights

from cidm_core.config import TrainConfig
from cidm_core.diffusers_host.learning import LearningHost
from cidm_core.errors import HostError
from cidm_core.methods.batches import Batch
from cidm_core.updates import FullRank, LowRank, ValueResidual

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
QUERY = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
PROMPTS = ("a photo of a dog on grass", "two dogs", "a dog and a dog")


def module(path):
    return small_base().module(path)


def parameter(*shape, seed=0, size=0.2):
    source = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter(size * torch.randn(*shape, generator=source))


def low_rank(path, rank, alpha, seed=0):
    out, width = module(path).weight.shape
    return LowRank(parameter(rank, width, seed=seed), parameter(out, rank, seed=seed + 1), alpha)


def every_weight():
    """Low rank of several ranks and scales, and whole matrices, all over the model."""
    whole, biased = (f"{BLOCK}.attn2.{part}" for part in ("to_v", "to_out.0"))
    found = {
        f"{BLOCK}.attn2.to_k": low_rank(f"{BLOCK}.attn2.to_k", 4, 4.0),
        f"{BLOCK}.attn1.to_q": low_rank(f"{BLOCK}.attn1.to_q", 2, 3.0),
        f"{BLOCK}.attn1.to_out.0": low_rank(f"{BLOCK}.attn1.to_out.0", 1, 0.5),
        f"{BLOCK}.ff.net.0.proj": low_rank(f"{BLOCK}.ff.net.0.proj", 3, 1.0),
        whole: FullRank(parameter(*module(whole).weight.shape, size=0.05)),
        biased: FullRank(
            parameter(*module(biased).weight.shape, size=0.05), parameter(len(module(biased).bias))
        ),
    }
    return found | {QUERY: low_rank(QUERY, 5, 2.0)}


def batch(prompts=PROMPTS):
    source = torch.Generator().manual_seed(1)
    shape = (len(prompts), 8, 8, 8)
    latents, noise = (torch.randn(shape, generator=source) for _ in range(2))
    times = torch.tensor([10, 300, 800])[: len(prompts)]
    return Batch(latents, noise, times, prompts, torch.ones(len(prompts), 8, 8))


def predict(updates, phrases=(), checkpointing=False):
    host = LearningHost(small_base(), (), phrases)
    with host.attached(updates, TrainConfig(gradient_checkpointing=checkpointing)):
        value = host.predict(batch(), {}, watch=False).value
        if value.requires_grad:
            value.square().sum().backward()
    return value.detach()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_weights_act_as_if_they_were_added_to_the_layers(checkpointing):
    updates, before = every_weight(), weights(small_base())
    found = predict(updates, checkpointing=checkpointing)
    same_weights(before, weights(small_base()))
    assert not torch.allclose(found, predict({}))
    saved = {path: copy.deepcopy(module(path).state_dict()) for path in updates}
    try:
        for path, update in updates.items():
            module(path).weight.data.add_(update.delta.detach())
            if getattr(update, "bias", None) is not None:
                module(path).bias.data.add_(update.bias.detach())
        expected = predict({})
    finally:
        for path, held in saved.items():
            module(path).load_state_dict(held)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for path, update in updates.items():
        learned = [value for value in vars(update).values() if isinstance(value, torch.Tensor)]
        assert all(p.grad.abs().max() > 0 for p in learned), path


@pytest.mark.parametrize("path", ["attn2.to_q", "attn2.to_k", QUERY])
def test_gradients_are_those_of_the_weights(path):
    """By the chain rule: d loss / d delta is d loss / d weight."""
    path = path if path == QUERY else f"{BLOCK}.{path}"
    whole = FullRank(parameter(*module(path).weight.shape, size=0.0))
    predict({path: whole})
    weight, host = module(path).weight, LearningHost(small_base(), ())
    with host.attached({}):
        weight.requires_grad_(True)
        loss = host.predict(batch(), {}, watch=False).value.square().sum()
        (expected,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(whole.delta.grad, expected, rtol=1e-3, atol=1e-4)
    assert not weight.requires_grad or small_base().unet.conv_in.weight.requires_grad


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_value_residual_acts_at_the_tokens_of_its_phrase(checkpointing):
    base, path = small_base(), f"{BLOCK}.attn2.to_v"
    residual = ValueResidual(parameter(module(path).weight.shape[0], size=1.0))
    found = predict({path: residual}, phrases=("dog",), checkpointing=checkpointing)
    assert residual.vector.grad.abs().max() > 0

    wanted = base.tokenizers[0]("dog", add_special_tokens=False).input_ids
    marks = torch.zeros(len(PROMPTS), 48, 1)
    for row, prompt in enumerate(PROMPTS):
        ids = base.tokenizers[0](prompt).input_ids
        for place, token in enumerate(ids):
            marks[row, place] = float([token] == wanted and prompt != "two dogs")
    assert marks.sum((1, 2)).tolist() == [1, 0, 2]
    handle = module(path).register_forward_hook(
        lambda _module, _inputs, output: output + marks * residual.vector.detach()
    )
    try:
        expected = predict({})
    finally:
        handle.remove()
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[1], predict({})[1])  # "dogs" is another word


def test_a_value_residual_needs_a_layer_that_sees_the_text():
    residual = {f"{BLOCK}.attn2.to_q": ValueResidual(parameter(96))}
    before = weights(small_base())
    with pytest.raises(HostError, match="does not see the tokens of the prompt"):
        predict(residual)
    same_weights(before, weights(small_base()))


def test_an_encoder_with_a_lora_is_refused_and_left_alone():
    encoder = small_base().text_encoders[0]
    encoder.peft_config = {"theirs": object()}
    try:
        with pytest.raises(HostError, match="The text_encoder already carries a LoRA"):
            predict(every_weight())
        assert "theirs" in encoder.peft_config
    finally:
        del encoder.peft_config


def test_everything_leaves_for_a_preview_and_comes_back():
    updates, host = every_weight(), LearningHost(small_base(), ())
    before = weights(small_base())
    with host.attached(updates), torch.no_grad():
        learning = host.predict(batch(), {}, watch=False).value
        with host.suspended():
            same_weights(before, weights(small_base()))
        assert torch.equal(host.predict(batch(), {}, watch=False).value, learning)
