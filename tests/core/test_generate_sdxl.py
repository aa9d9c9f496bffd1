"""Drawing on a tiny SDXL: against diffusers' own pipeline, and what holds for every family."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from drawing_samples import PROMPT, TWO, close, config, latents
from make import random_concept

from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.pipeline import generate, make_plan
from cidm_core.diffusers_host.schedulers import Start
from cidm_core.diffusers_host.start import told_sizes
from cidm_core.errors import FamilyError, HostError, PromptError
from cidm_core.regions import Region

pytestmark = pytest.mark.usefixtures("encoded_once")  # test_encode_sdxl.py is about texts


@pytest.fixture(scope="module")
def concepts(xl_base):
    made = [random_concept(xl_base, f"<v{i}> <w{i}>", seed=i) for i in (1, 2)]
    return {concept.name: concept for concept in made}


SIZES = {  # as diffusers has them: (height, width) and (top, left)
    "original_size": (96, 160),
    "crops_coords_top_left": (8, 24),
    "target_size": (56, 72),
}
SAME_SIZES = {
    **{"original_height_px": 96, "original_width_px": 160},
    **{"crop_top_px": 8, "crop_left_px": 24},
    **{"target_height_px": 56, "target_width_px": 72},
}


@pytest.mark.parametrize(
    ("height", "width", "theirs", "ours"),
    [(64, 64, {}, {}), (48, 80, {}, {}), (48, 80, SIZES, SAME_SIZES)],
)
def test_without_concepts_it_is_diffusers_pipeline(xl_base, xl_folder, height, width, theirs, ours):
    stock = StableDiffusionXLPipeline.from_pretrained(xl_folder, local_files_only=True)
    stock.tokenizer.model_max_length = stock.tokenizer_2.model_max_length = 77
    stock.scheduler = DDIMScheduler.from_config(xl_base.scheduler_config)
    stock.set_progress_bar_config(disable=True)
    shape = (1, 4, height // 8, width // 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    size = {"height": height, "width": width}
    expected = stock(
        "a red dog",
        negative_prompt="a cat",
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=noise.clone(),
        output_type="latent",
        **size,
        **theirs,
    ).images
    settings = SampleConfig(
        steps=4,
        guidance_scale=5.0,
        negative_prompt="a cat",
        scheduler="ddim",
        height_px=height,
        width_px=width,
        **ours,
    )
    plan = make_plan(xl_base, {}, "a red dog", config=settings)
    found = sampler.sample(xl_base, plan, noise, settings)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_size_drawn_is_what_the_unet_is_told(xl_base, concepts, monkeypatch):
    told = []
    forward = xl_base.unet.forward

    def watched(*args, **options):
        told.append(options["added_cond_kwargs"])
        return forward(*args, **options)

    monkeypatch.setattr(xl_base.unet, "forward", watched)
    settings = config(width_px=80, height_px=48, steps=1)
    generate(xl_base, concepts, PROMPT, TWO, settings)
    (added,) = told
    assert added["time_ids"].tolist() == [[48, 80, 0, 0, 48, 80]] * 4  # U + 2 rows
    plan = make_plan(xl_base, concepts, PROMPT, TWO, settings)
    # A region's row reads the whole picture's prompt outside it, and so does its pooled text.
    pooled = [plan.slots[slot].text.pooled for slot in plan.scenes[0].rows]
    torch.testing.assert_close(added["text_embeds"], torch.stack(pooled))
    assert not torch.equal(pooled[0], pooled[1])


def test_sizes_that_are_given_in_part_leave_the_picture_its_own(xl_base):
    told = told_sizes(config(original_width_px=200, crop_top_px=16), 48, 80)
    assert told.ids == (48, 200, 16, 0, 48, 80)
    drawn = [latents(xl_base, {}, "a dog", **given) for given in ({}, {"crop_left_px": 32})]
    assert (drawn[0] - drawn[1]).abs().max() > 1e-4


def test_bad_sizes_and_words_that_no_encoder_reads_are_told(xl_base, concepts):
    with pytest.raises(HostError, match=r"multiples of 8 px; 100 x 64 was asked\. Use 96 x 64"):
        generate(xl_base, concepts, PROMPT, config=config(width_px=100))
    with pytest.raises(PromptError, match=r"'<v1>' is token 81 of the prompt.* reads 75"):
        generate(xl_base, concepts, "a " * 80 + "<v1> <w1>", config=config())


def test_sizes_are_refused_by_a_family_that_is_told_none(tiny_base):
    said = "SD15 is not told the size .* crop_left_px and target_width_px would do nothing"
    with pytest.raises(FamilyError, match=said):
        generate(tiny_base, {}, "a", config=config(crop_left_px=0, target_width_px=64))


def test_eq3_merged_equals_per_sample(xl_base, concepts):
    a, b = (latents(xl_base, concepts, PROMPT, execution=e) for e in ("merged", "per_sample"))
    close(a, b)
    plain = latents(xl_base, concepts, "a thing and a thing")
    assert (a - plain).abs().max() > 1e-3


def test_prompts_side_by_side_equal_prompts_alone(xl_base, concepts):
    prompts = ["a <v1> <w1>", "a plain thing"]
    together = latents(xl_base, concepts, prompts)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for i, prompt in enumerate(prompts):
        plan = make_plan(xl_base, concepts, prompt, config=config())
        close(sampler.sample(xl_base, plan, noise[i : i + 1], config())[0], together[i])


def test_rows_one_by_one_are_what_they_are_together(xl_base, concepts):
    whole = latents(xl_base, concepts, PROMPT, TWO)
    close(latents(xl_base, concepts, PROMPT, TWO, rows_at_once=1), whole)


def test_eq5_full_frame_region_of_the_same_prompt_is_plain_guidance(xl_base, concepts):
    plain = latents(xl_base, concepts, "a <v1> <w1>")
    region = Region("a <v1> <w1>", box=(0, 0, 1, 1))
    close(latents(xl_base, concepts, "a <v1> <w1>", [region]), plain)


def test_region_order_does_not_matter(xl_base, concepts):
    a = latents(xl_base, concepts, PROMPT, TWO)
    close(a, latents(xl_base, concepts, PROMPT, TWO[::-1]))
    assert (a - latents(xl_base, concepts, PROMPT)).abs().max() > 1e-3


def test_a_concept_of_the_other_family_is_refused_by_name(xl_base, tiny_base, concepts):
    other = random_concept(tiny_base, "<v9>", seed=9)
    with pytest.raises(FamilyError, match="SD15"):
        make_plan(xl_base, {other.name: other}, "a <v9>", config=config())
    with pytest.raises(FamilyError, match="SDXL"):
        make_plan(tiny_base, concepts, PROMPT, config=config())


def test_a_start_picture_is_redrawn_as_far_as_asked_and_inside_its_mask(xl_base, concepts):
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    far, near = (
        latents(xl_base, concepts, "a <v1> <w1>", start=Start(clean), denoise=d, steps=6)
        for d in (0.9, 0.2)
    )
    assert (near - clean).norm() < (far - clean).norm()
    mask = torch.zeros(8, 8)
    mask[:, 5:] = 1
    inpainted = latents(xl_base, concepts, PROMPT, TWO, start=Start(clean, mask), denoise=1.0)
    close(inpainted[..., :5], clean[..., :5])
    assert (inpainted[..., 5:] - clean[..., 5:]).abs().max() > 0.1
