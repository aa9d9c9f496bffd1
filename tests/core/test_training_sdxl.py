"""Learning on a tiny SDXL: both encoders' rows, pooled text, sizes, and what saves memory."""

import copy

import pytest
import torch
from learning_samples import config, photos
from torch.autograd.graph import saved_tensors_hooks

from cidm_core.bank import Bank
from cidm_core.concept import Subject
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import learning
from cidm_core.diffusers_host.cache import cache_latents
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.diffusers_host.previews import default_render
from cidm_core.diffusers_host.train import train_concept
from cidm_core.errors import TrainingError
from cidm_core.methods.base import Task
from cidm_core.methods.batches import Batch
from cidm_core.methods.cidm import Cidm
from cidm_core.sampling.versions import shared_versions, versions_of
from cidm_core.sizes import PictureSizes

SUBJECT = Subject(("<d1>", "<d2>"), "dog")
PROMPTS = ("a <d1> <d2>", "a photo of <d1> <d2>")
SIZES = (PictureSizes((96, 64), (16, 0), (64, 64)), PictureSizes((640, 480), (0, 8), (64, 64)))


def batch():
    source = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=source) for _ in range(2))
    times, masks = torch.tensor([300, 700]), torch.ones(2, 8, 8)
    return Batch(latents, noise, times, PROMPTS, masks, sizes=SIZES)


def method_on(base, **given):
    task = Task("dog", (SUBJECT,), "SDXL", base.fingerprint, base.layers)
    host = learning.LearningHost(base, task.words)
    settings = config(resolution_px=64, **given)
    method = Cidm(task, settings, [], host)
    for pair in method.updates.values():
        torch.nn.init.normal_(pair.up, std=0.05, generator=torch.Generator().manual_seed(0))
    return method, host, settings


def gradients(base, **given):
    method, host, settings = method_on(base, **given)
    with host.attached(method.updates, settings):
        loss = method.losses(batch())["denoise"]
        loss.backward()
    (group, *_), lora = method._rows.groups.values(), method._lora
    assert group.grad.abs().max() > 0
    return loss.detach(), [each.grad.clone() for each in (*method._rows.groups.values(), lora)]


@pytest.fixture(scope="module")
def plain(xl_base):
    """Loss and gradients without anything that saves memory."""
    return gradients(xl_base)


def by_hand(base, method):
    """Loss with weights folded in, words as vocabulary rows, all through diffusers' own calls."""
    unet, states, pooled = copy.deepcopy(base.unet), [], None
    for path, pair in method.updates.items():
        unet.get_submodule(path).weight.data += (pair.scale * pair.up @ pair.down).detach()
    rows = method.result({}).rows
    for row, tokenizer, encoder in zip(
        base.family.encoders, base.tokenizers, base.text_encoders, strict=True
    ):
        tokenizer, encoder = copy.deepcopy(tokenizer), copy.deepcopy(encoder)
        tokenizer.add_tokens(list(SUBJECT.words))
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for i, word in enumerate(SUBJECT.words):
            at = tokenizer.convert_tokens_to_ids(word)
            encoder.get_input_embeddings().weight.data[at] = rows[row.name][i, 0]
        pad = 0 if row.pooled else tokenizer.eos_token_id
        ids = [tokenizer(prompt).input_ids for prompt in PROMPTS]
        ids = torch.tensor([each + [pad] * (77 - len(each)) for each in ids])
        output = encoder(ids, output_hidden_states=True)
        states.append(output.hidden_states[-2])
        pooled = output.text_embeds if row.pooled else None
    held, times = batch(), torch.tensor([[*s.original, *s.crop, *s.target] for s in SIZES])
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, 0)
    kept = kept[held.timesteps].float().view(-1, 1, 1, 1)
    noisy = kept.sqrt() * held.latents + (1 - kept).sqrt() * held.noise
    added = {"text_embeds": pooled, "time_ids": times.float()}
    found = unet(noisy, held.timesteps, torch.cat(states, -1), added_cond_kwargs=added).sample
    return (found - held.noise).square().mean()


def test_the_loss_is_what_diffusers_gives_for_text_pooled_text_and_sizes(xl_base):
    method, host, settings = method_on(xl_base, token_layers="one", gradient_checkpointing=True)
    with torch.no_grad():
        expected = by_hand(xl_base, method)
        with host.attached(method.updates, settings):
            found = method.losses(batch())["denoise"]
            plain = method.losses(Batch(**{**vars(batch()), "sizes": ()}))["denoise"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert abs(plain - found) > 1e-5  # without sizes those of the latents are told


@pytest.mark.parametrize(("shared", "versions"), [("layer", 8), ("block", 4), ("one", 1)])
def test_layers_share_rows_as_asked_and_each_version_is_encoded_once(
    shared, versions, xl_base, monkeypatch
):
    method, host, settings = method_on(xl_base, token_layers=shared)
    encoded = []
    for encoder in xl_base.text_encoders:
        forward = encoder.forward
        monkeypatch.setattr(
            encoder, "forward", lambda i, f=forward, **k: encoded.append(len(i)) or f(i, **k)
        )
    with host.attached(method.updates, settings):
        method.losses(batch())["denoise"].backward()
        contexts = host._contexts
    assert encoded == [2 * versions] * 2
    assert len({id(each) for each in contexts}) == versions
    for name, group in method._rows.groups.items():
        rows = group.tensors["rows"]
        assert rows.shape[:2] == (2, versions)
        assert rows.grad.abs().sum(-1).min() > 0
        torch.nn.init.normal_(rows, generator=torch.Generator().manual_seed(1))
        kept = method.result({}).rows[name]
        assert kept.shape == (2, 1 if shared == "one" else 8, rows.shape[2])
        for layer, version in enumerate(versions_of([x.path for x in xl_base.layers], versions)):
            assert torch.equal(kept[:, min(layer, kept.shape[1] - 1)], rows[:, version])


def test_blocks_are_attention_blocks_and_those_of_sd15_have_one_layer_each():
    from cidm_core.families import FAMILIES

    xl = [layer.path for layer in FAMILIES["SDXL"].layers]
    counts = torch.bincount(torch.tensor(shared_versions(xl, "block"))).tolist()
    assert counts == [2, 2, 10, 10, 10, 10, 10, 10, 2, 2, 2]
    paths = [layer.path for layer in FAMILIES["SD15"].layers]
    assert shared_versions(paths, "block") == shared_versions(paths, "layer")


def test_a_taught_concept_is_drawn_with_as_few_versions(xl_base, tmp_path, monkeypatch):
    concept = learned(xl_base, tmp_path, steps=2)
    assert {k: tuple(v.shape) for k, v in concept.rows.items()} == {
        "text_encoder": (2, 8, 768),
        "text_encoder_2": (2, 8, 1280),
    }
    encoded = []
    forward = xl_base.text_encoders[1].forward
    monkeypatch.setattr(
        xl_base.text_encoders[1],
        "forward",
        lambda i, **k: encoded.append(len(i)) or forward(i, **k),
    )
    settings = SampleConfig(steps=2, width_px=64, height_px=64, weights="gate")
    (picture,) = generate(xl_base, Bank(tmp_path), "a <d1> <d2>", config=settings)
    assert picture.size == (64, 64)
    assert encoded[0] == 1 + 4  # the negative prompt, and four versions of the prompt


def learned(base, folder, **given):
    settings = config(resolution_px=64, **given)
    asked = {"words": "<d1> <d2>", "class_words": "dog", "config": settings}
    return train_concept(base, Bank(folder), photos(size=(96, 64)), **asked)


def test_go_on_needs_rows_that_the_layers_can_share(xl_base, tmp_path):
    learned(xl_base, tmp_path, steps=1, token_layers="layer")
    asked = {"words": "<d1> <d2>", "class_words": "dog", "again": "go_on"}
    settings = config(resolution_px=64, steps=1, token_layers="block")
    with pytest.raises(TrainingError, match="token_layers 'layer'"):
        train_concept(xl_base, Bank(tmp_path), photos(), config=settings, **asked)
    settings = config(resolution_px=64, steps=1, token_layers="layer")
    again = train_concept(xl_base, Bank(tmp_path), photos(), config=settings, **asked)
    assert again.rows["text_encoder"].shape[1] == 8


def test_rows_of_the_second_encoder_start_at_its_own_scale(xl_base, monkeypatch):
    second = xl_base.text_encoders[1].get_input_embeddings()
    monkeypatch.setattr(second.weight, "data", second.weight.data * 3)
    method, *_ = method_on(xl_base)
    first, second = (group.tensors["rows"] for group in method._rows.groups.values())
    (token,) = xl_base.tokenizers[1]("dog", add_special_tokens=False).input_ids
    table = xl_base.text_encoders[1].get_input_embeddings().weight
    assert torch.equal(second[1, 0], table[token])
    first, second = first.detach(), second.detach()
    ratio = float(second[1, 0].norm() / first[1, 0].norm())
    assert float(second[0].norm() / first[0].norm()) == pytest.approx(ratio, rel=0.1)
    limits = {name: 100.0 * scale for name, scale in method._rows._scales.items()}
    method.stop_long_tokens({name: limit * 0.99 for name, limit in limits.items()})
    assert not any(group.frozen for group in method._rows.groups.values())
    method.stop_long_tokens({"tokens.text_encoder_2": limits["tokens.text_encoder_2"] * 1.01})
    assert [group.frozen for group in method._rows.groups.values()] == [False, True]


def test_variants_are_cached_with_their_true_sizes_and_crops(xl_base):
    settings = config(resolution_px=64, variants=8, steps=99)
    cache = cache_latents(xl_base, photos(1, size=(200, 100)), settings, 64)
    crops = set()
    for sizes, mask in zip(cache.sizes[0], cache.image_masks[0], strict=True):
        assert (sizes.original, sizes.target) == ((100, 200), (64, 64))
        whole = bool((mask == 0).any())
        assert sizes.crop[0] == 0
        assert sizes.crop[1] == 0 if whole else 0 <= sizes.crop[1] <= 64
        crops.add(sizes.crop)
    assert len(crops) > 3


def test_encoders_parked_between_uses_give_the_same_gradients(xl_base, plain, monkeypatch):
    said = []
    for what in ("fetch", "park"):
        act = getattr(learning.Parking, what)
        monkeypatch.setattr(
            learning.Parking, what, lambda self, w=what, a=act: said.append(w) or a(self)
        )
    loss, parked = gradients(xl_base, park_text_encoders=True)
    # For the prompts; again for the backward pass; and back to stay.
    assert said == ["fetch", "park", "fetch", "fetch"]
    torch.testing.assert_close((loss, parked), plain)


def test_the_graph_holds_no_weights_of_parked_encoders(xl_base):
    method, host, settings = method_on(xl_base, park_text_encoders=True)
    weights = {p.data_ptr() for e in xl_base.text_encoders for p in e.parameters()}
    held = []
    with host.attached(method.updates, settings):
        hooks = saved_tensors_hooks(lambda t: held.append(t.data_ptr()) or t, lambda t: t)
        with hooks:
            method.losses(batch())
    assert len(held) > 100
    assert not weights & set(held)


def test_eight_bits_are_near_the_weights_save_memory_and_leave_no_trace(xl_base, plain):
    before = {k: v.clone() for k, v in xl_base.unet.state_dict().items()}
    plain_loss, exact = plain
    loss, eighth = gradients(xl_base, frozen_fp8=True)
    assert loss != plain_loss
    torch.testing.assert_close(loss, plain_loss, rtol=0.02, atol=0)
    for found, expected in zip(eighth, exact, strict=True):
        # The weights are random, so the gradients are noise.
        assert (found - expected).norm() < 0.25 * expected.norm()
    after = xl_base.unet.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not any("forward" in vars(module) for module in xl_base.unet.modules())


def test_products_with_eight_bits_are_those_of_the_rounded_weights():
    from cidm_core.diffusers_host.frozen import EIGHT_BITS, in_eight_bits

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.nn.Flatten(2), torch.nn.Linear(16, 5)
    ).double()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    rounded = copy.deepcopy(model)
    for layer in (rounded[0], rounded[2]):
        weight = layer.weight.data
        scale = weight.abs().max() / 448
        layer.weight.data = (weight / scale).to(EIGHT_BITS).double() * scale
        assert (layer.weight - weight).norm() < 0.04 * weight.norm()
    expected = torch.autograd.grad(rounded(x).sin().sum(), x)
    with in_eight_bits(model):
        assert {model[0].weight.element_size(), model[2].weight.element_size()} == {1}
        found = torch.autograd.grad(model(x).sin().sum(), x)
    torch.testing.assert_close(found, expected)


def test_previews_are_drawn_while_weights_are_eight_bits(xl_base, tmp_path):
    settings = config(resolution_px=64, steps=1, preview_every=1, frozen_fp8=True)
    bank, shown = Bank(tmp_path), []
    train_concept(
        xl_base,
        bank,
        photos(),
        words="<d1> <d2>",
        class_words="dog",
        config=settings,
        preview=default_render(xl_base, bank, settings, steps=1),
        on_preview=lambda step, pictures: shown.append((step, pictures[0].size)),
    )
    assert shown[0] == (1, (64, 64))
