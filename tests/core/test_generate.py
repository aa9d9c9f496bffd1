"""Sampling on a tiny model: exactness of executions, cost per step, restoration, bad luck."""

import numpy as np
import pytest
import torch
from drawing_samples import PROMPT, TWO, close, config, latents
from make import random_concept
from PIL import Image

from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.patches import attach, layer_size
from cidm_core.diffusers_host.pipeline import encode_image, generate, make_plan
from cidm_core.diffusers_host.schedulers import SCHEDULERS, Start
from cidm_core.errors import HostError
from cidm_core.regions import Region

pytestmark = pytest.mark.usefixtures("encoded_once")  # test_encode.py is about texts


@pytest.fixture(scope="module")
def concepts(tiny_base):
    made = [random_concept(tiny_base, f"<v{i}> <w{i}>", seed=i) for i in (1, 2, 3)]
    return {concept.name: concept for concept in made}


def test_eq3_merged_equals_per_sample(tiny_base, concepts):
    a, b = (latents(tiny_base, concepts, PROMPT, execution=e) for e in ("merged", "per_sample"))
    close(a, b)
    plain = latents(tiny_base, concepts, "a thing and a thing")
    assert (a - plain).abs().max() > 1e-2


def test_eq3_weights_in_the_model_equal_a_naive_sum(tiny_base, concepts):
    """Inside, W holds W0 + sum_i psi_i delta_i; the sum is done here in float64."""
    plan = make_plan(tiny_base, concepts, PROMPT, config=config())
    with attach(tiny_base, plan, "merged"):
        inside = {k: p.clone() for k, p in tiny_base.unet.named_parameters() if "attn2" in k}
    for index, layer in enumerate(plan.layers):
        for projection in ("to_q", "to_out.0"):
            key = f"{layer}.{projection}"
            expected = tiny_base.unet.get_submodule(key).weight.double()
            for w, c in zip(plan.slots[0].weights[index].tolist(), plan.concepts, strict=True):
                pair = c.low_rank[key]
                expected = expected + w * pair.scale * pair.up.double() @ pair.down.double()
            actual = inside[f"{key}.weight"].double()
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("execution", ["merged", "per_sample"])
def test_detaching_restores_every_bit_also_after_an_error(tiny_base, concepts, execution):
    before = {k: v.clone() for k, v in tiny_base.unet.state_dict().items()}
    processors = {k: id(p) for k, p in tiny_base.unet.attn_processors.items()}
    plan = make_plan(tiny_base, concepts, PROMPT, config=config())
    with pytest.raises(KeyboardInterrupt), attach(tiny_base, plan, execution):
        raise KeyboardInterrupt
    after = tiny_base.unet.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert {k: id(p) for k, p in tiny_base.unet.attn_processors.items()} == processors


def test_without_concepts_the_plan_is_the_plain_pipeline(tiny_base, concepts):
    """The attended UNet equals the bare UNet with ordinary encoder_hidden_states."""
    from cidm_core.diffusers_host.encode import encode

    plan = make_plan(tiny_base, concepts, "a red thing", config=config(negative_prompt="bad"))
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    contexts = encode(tiny_base, ["bad", "a red thing"])[0][:, 0]
    t = torch.tensor(500)
    with torch.no_grad():
        bare = tiny_base.unet(x.expand(2, -1, -1, -1), t, encoder_hidden_states=contexts).sample
        with attach(tiny_base, plan) as attached:
            estimate = sampler._Estimate(tiny_base, attached, 1, (8, 8), config())
            ours = estimate(x, t)
    close(ours, bare[:1] + 7.5 * (bare[1:] - bare[:1]))


def test_each_layer_reads_its_own_context(tiny_base, concepts):
    """Changing a token of one layer changes the picture; layer-wise rows are really used."""
    from dataclasses import replace

    concept = concepts["v1"]
    tokens = {k: v.clone() for k, v in concept.rows.items()}
    tokens["text_encoder"][:, -1] *= -1.0
    changed = replace(concept, rows=tokens)
    a = latents(tiny_base, {"v1": concept}, "a <v1> <w1>")
    b = latents(tiny_base, {"v1": changed}, "a <v1> <w1>")
    assert (a - b).abs().max() > 1e-3


def test_prompts_side_by_side_equal_prompts_alone(tiny_base, concepts):
    prompts = ["a <v1> <w1>", "a <v2> <w2>", "a plain thing"]
    together = latents(tiny_base, concepts, prompts)
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for i, prompt in enumerate(prompts):
        plan = make_plan(tiny_base, concepts, prompt, config=config())
        close(sampler.sample(tiny_base, plan, noise[i : i + 1], config())[0], together[i])


def test_rows_and_calls_per_step(tiny_base, concepts, monkeypatch):
    """U + 2 rows in one call; key and value projections never inside the step loop."""
    calls, projections = [], []
    forward = tiny_base.unet.forward
    monkeypatch.setattr(
        tiny_base.unet, "forward", lambda x, *a, **k: calls.append(len(x)) or forward(x, *a, **k)
    )
    handles = [
        tiny_base.unet.get_submodule(f"{layer.path}.to_k").register_forward_hook(
            lambda *_: projections.append(len(calls))
        )
        for layer in tiny_base.layers
    ]
    latents(tiny_base, concepts, PROMPT, TWO)
    for handle in handles:
        handle.remove()
    assert calls == [4, 4, 4]
    assert projections == [0] * len(tiny_base.layers)


def test_rows_split_when_memory_is_short(tiny_base, concepts, monkeypatch):
    whole = latents(tiny_base, concepts, PROMPT, TWO)
    forward, sizes = tiny_base.unet.forward, []

    def small(x, *args, **kwargs):
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(x))
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(tiny_base.unet, "forward", small)
    close(latents(tiny_base, concepts, PROMPT, TWO), whole)
    assert set(sizes) == {2}


def test_no_memory_for_one_row_says_what_to_do(tiny_base, concepts, monkeypatch):
    def never(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tiny_base.unet, "forward", never)
    with pytest.raises(HostError, match="single UNet row"):
        latents(tiny_base, concepts, PROMPT)


def test_eq5_full_frame_region_of_the_same_prompt_is_plain_guidance(tiny_base, concepts):
    prompt = "a <v1> <w1>"
    plain = latents(tiny_base, concepts, prompt)
    close(latents(tiny_base, concepts, prompt, [Region(prompt, box=(0, 0, 1, 1))]), plain)


def test_eq5_alpha_one_is_the_global_prompt(tiny_base, concepts):
    plain = latents(tiny_base, concepts, PROMPT)
    close(latents(tiny_base, concepts, PROMPT, TWO, alpha=1.0), plain)


def test_eq5_full_frame_alpha_zero_is_the_region_prompt(tiny_base, concepts):
    region = [Region("a <v2> <w2>", box=(0, 0, 1, 1))]
    alone = latents(tiny_base, concepts, "a <v2> <w2>", execution="per_sample")
    # The shared unconditional half carries the global prompt's weights, so weigh alike here.
    mixed = latents(
        tiny_base, concepts, "a <v2> <w2> picture", region, alpha=0.0, region_weights="per_region"
    )
    close(mixed, alone)


def test_region_order_does_not_matter(tiny_base, concepts):
    a = latents(tiny_base, concepts, PROMPT, TWO)
    close(a, latents(tiny_base, concepts, PROMPT, TWO[::-1]))


@pytest.mark.parametrize(
    ("attend", "estimate", "rows"),
    [(True, True, 4), (False, True, 4), (True, False, 2), (False, False, 2)],
)
def test_attention_and_estimation_switch_independently(tiny_base, concepts, attend, estimate, rows):
    settings = {"regional_attention": attend, "noise_estimation": estimate}
    plan = make_plan(tiny_base, concepts, PROMPT, TWO, config(**settings))
    assert len(plan.scenes[0].rows) == rows
    plain = latents(tiny_base, concepts, PROMPT)
    same = torch.allclose(latents(tiny_base, concepts, PROMPT, TWO, **settings), plain, atol=1e-4)
    assert same == (not attend and not estimate)


def test_merged_with_global_region_weights_equals_per_sample(tiny_base, concepts):
    a, b = (
        latents(tiny_base, concepts, PROMPT, TWO, region_weights="global", execution=e)
        for e in ("merged", "per_sample")
    )
    close(a, b)


def test_merged_is_refused_where_rows_differ(tiny_base, concepts):
    with pytest.raises(HostError, match="per_sample"):
        latents(tiny_base, concepts, PROMPT, TWO, execution="merged")


@pytest.mark.parametrize("name", [*SCHEDULERS, "DEISMultistepScheduler"])
def test_schedulers(tiny_base, concepts, name):
    out = latents(tiny_base, concepts, "a <v1> <w1>", scheduler=name, steps=4)
    assert torch.isfinite(out).all()


def test_unknown_scheduler_lists_the_known(tiny_base, concepts):
    with pytest.raises(HostError, match="dpmpp_2m"):
        latents(tiny_base, concepts, "a", scheduler="turbo")


def test_same_seed_same_pictures_and_num_images(tiny_base, concepts):
    a = generate(tiny_base, concepts, ["a <v1> <w1>", "a thing"], config=config(num_images=2))
    b = generate(tiny_base, concepts, "a <v1> <w1>", config=config(num_images=2))
    assert [p.size for p in a] == [(64, 64)] * 4
    for ours, theirs in zip(a[:2], b, strict=True):
        assert np.abs(np.int16(ours) - np.int16(theirs)).max() <= 1


@pytest.fixture
def photo():
    ramp = np.linspace(0, 255, 80, dtype=np.uint8)
    return Image.fromarray(np.stack([np.tile(ramp, (70, 1))] * 3, -1))


def test_image_to_image_keeps_more_with_less_denoise(tiny_base, concepts, photo):
    start = Start(encode_image(tiny_base, photo.resize((64, 64))))
    far, near = (
        latents(tiny_base, concepts, "a <v1> <w1>", start=start, denoise=d, steps=10)
        for d in (0.9, 0.2)
    )
    assert (near - start.latents).norm() < (far - start.latents).norm()
    kept = latents(tiny_base, concepts, "a <v1> <w1>", start=start, denoise=0.0)
    close(kept, start.latents)


def test_inpainting_leaves_the_rest_of_the_photo_untouched(tiny_base, concepts, photo):
    region = [Region("a <v1> <w1>", box=(0.5, 0.5, 1, 1))]
    photo = photo.resize((64, 64))
    out = generate(
        tiny_base, concepts, "a photo", region, config(steps=4), image=photo, mask="regions"
    )[0]
    before, after = np.asarray(photo), np.asarray(out)
    assert (before[:32] == after[:32]).all()
    assert (before[32:, 32:] != after[32:, 32:]).any()


def test_a_mask_needs_a_picture(tiny_base, concepts):
    with pytest.raises(HostError, match="start picture"):
        generate(tiny_base, concepts, "a", config=config(), mask=torch.ones(8, 8))


def test_sides_must_fit_the_latent_cells(tiny_base, concepts):
    with pytest.raises(HostError, match="64 x 56"):
        generate(tiny_base, concepts, "a", config=config(width_px=65, height_px=60))


@pytest.mark.parametrize(("cells", "size"), [(64, (8, 8)), (16, (4, 4)), (4, (2, 2))])
def test_layer_sizes(cells, size):
    assert layer_size(cells, (8, 8)) == size


def test_odd_latent_sizes_halve_upwards():
    assert layer_size(5 * 4, (9, 7)) == (5, 4)


def test_interrupting_a_step_leaves_the_model_clean(tiny_base, concepts):
    before = {k: v.clone() for k, v in tiny_base.unet.state_dict().items()}

    def stop(step, *_):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tiny_base, concepts, PROMPT, config=config(), on_step=stop)
    assert all(torch.equal(v, before[k]) for k, v in tiny_base.unet.state_dict().items())
