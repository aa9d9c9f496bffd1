"""mini-sdxl's committed weights: by name in the diffusers host, and what is SDXL's about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPModel

from cidm_core.bank import Bank
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.clip import load_clip
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.evaluation.prompts import fill, write_back
from cidm_core.families import FAMILIES
from cidm_core.methods import config_for
from lab.cifc.learners import LEARNERS, learn_task
from lab.cifc.scoring import Judge
from lab.cifc.sizes import spread
from lab.cifc.tasks import mini_suite
from lab.mini.clip_model import MINI_CLIP_FOLDER
from lab.mini.data import Pictures
from lab.mini.evaluate import Loaded, held_out_prompts, load_mini, sharpness
from lab.mini.models import MINI_SDXL_FOLDER
from lab.mini.probe import load_probe
from lab.mini.views import SHARE, WHOLE, sized_pictures

pytestmark = pytest.mark.skipif(
    not (MINI_SDXL_FOLDER / "model_index.json").exists(), reason="mini-sdxl is not trained yet"
)


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("mini-sdxl", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_mini("mini-sdxl")


def test_it_is_the_standard_member_of_its_family(base: Base) -> None:
    assert base.name == "mini-sdxl"
    assert base.family is FAMILIES["MINI_XL"]
    assert base.layers == base.family.layers
    assert base.tokenizers[1].pad_token_id != 0  # the padding is ours to do


def test_its_weights_stay_below_fourteen_megabytes() -> None:
    files = list(Path(MINI_SDXL_FOLDER).rglob("*.safetensors"))
    assert len(files) == 4
    assert sum(path.stat().st_size for path in files) < 14_000_000


def test_the_first_encoder_is_the_text_tower_of_mini_clip(base: Base) -> None:
    tower = CLIPModel.from_pretrained(MINI_CLIP_FOLDER, dtype=torch.float32).text_model
    expected = dict(tower.named_parameters())
    found = {
        name.removeprefix("text_model."): p for name, p in base.text_encoders[0].named_parameters()
    }
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], p) for name, p in expected.items())


def test_held_out_captions_are_drawn_in_the_diffusers_host(base: Base) -> None:
    prompts = held_out_prompts(8, 1, seed=0)
    config = replace(SampleConfig.for_family(base.family.sampling), steps=12, seed=1)
    pictures = generate(base, {}, [text for text, _ in prompts], config=config)
    x = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    seen = load_probe().read(x / 127.5 - 1, 1)
    assert sum(truth == found for (_, truth), found in zip(prompts, seen, strict=True)) >= 6


@pytest.mark.lab
@pytest.mark.parametrize("name", ["V3-cat", "V9-cat", "V6-painting"])
def test_the_demos_concepts_are_learned(base: Base, name: str, tmp_path: Path) -> None:
    suite = mini_suite()
    task = next(task for task in suite.tasks if task.name == name)
    config = config_for("cidm", base.family, steps=250, save_every=0)
    concept = learn_task(base, LEARNERS["ours"], tmp_path, task, config)
    judge = Judge(load_clip("mini-clip", "cpu"), None, suite)
    prompts = [fill(task.prompts[k], concept) for k in spread(len(task.prompts), 4)]
    plain = [write_back(prompt, [concept]) for prompt in prompts]
    sampling = SampleConfig.for_family(base.family.sampling, steps=10, seed=1, num_images=2)

    def likeness(bank: Any, texts: list[str]) -> float:
        pictures = generate(base, bank, texts, config=sampling)
        return float(np.mean(judge.score(task, pictures, plain).ia))

    assert likeness(Bank(tmp_path), prompts) > likeness({}, plain) + 0.2


def test_a_small_original_is_drawn_blurred(loaded: Loaded) -> None:
    prompts = [text for text, _ in held_out_prompts(8, 1, seed=0)]
    small, whole = (sharpness(loaded, prompts, 0, side, steps=10) for side in (12, 32))
    assert small < 0.93 * whole


@torch.no_grad()
def test_pooled_text_and_the_crop_act(loaded: Loaded) -> None:
    texts = ["a cat, green background", "a neon picture of a cat"]
    ids = torch.tensor([loaded.tokenizer(t, padding="max_length").input_ids for t in texts])
    given = loaded.denoiser.read(ids, torch.tensor([WHOLE, WHOLE], dtype=torch.float32))
    added = given["added_cond_kwargs"]
    latents = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))

    def noise(**changed: Tensor) -> Any:
        kwargs = {**given, "added_cond_kwargs": {**added, **changed}}
        return loaded.denoiser.unet(latents, 200, **kwargs).sample

    as_they_are = noise()
    cut = torch.tensor([[32.0, 32, 8, 4, 32, 32]] * 2)
    pooled = (noise(text_embeds=added["text_embeds"].flip(0)) - as_they_are).pow(2).mean()
    assert pooled > 1e-7  # little: states say the same; rounding makes 1e-13
    assert (noise(time_ids=cut) - as_they_are).pow(2).mean() > 1e-3


def test_what_is_told_of_a_view_is_true() -> None:
    rng = np.random.default_rng(0)
    count = 10 * SHARE
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    views = sized_pictures(Pictures(pixels, [["a cat"]] * count), seed=3)
    assert len(views.pixels) == len(views.rows) == len(views.sizes) == count + 20
    whole, blurred, cropped = np.split(views.sizes, [count, count + 10])
    assert np.array_equal(views.pixels[:count], pixels)
    assert (whole[:, 2:4] == 0).all()
    assert (whole[:, :2] == whole[:, 4:]).all()
    assert ((blurred[:, :2] >= 12) & (blurred[:, :2] < 32)).all()
    assert (cropped[:, 2:4] >= 0).all()
    assert (cropped[:, 2:4] <= 32).all()
    again = sized_pictures(Pictures(pixels, [["a cat"]] * count), seed=3)
    assert np.array_equal(again.pixels, views.pixels)
