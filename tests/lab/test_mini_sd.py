"""The committed weights: small, loadable, and they still draw what captions ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lab.mini.evaluate import Loaded, draw_prompts, held_out_prompts, load_mini
from lab.mini.model import MINI_SD_FOLDER, token_ids
from lab.mini.probe import COLOR_WORDS, PROBE_WEIGHTS, accuracy, load_probe

pytestmark = pytest.mark.skipif(
    not (MINI_SD_FOLDER / "model_index.json").exists(), reason="mini-sd has not been trained yet"
)


@pytest.fixture(scope="module")
def mini_sd() -> Loaded:
    torch.manual_seed(0)
    return load_mini()


def test_its_weights_stay_below_twelve_megabytes() -> None:
    files = [path for path in Path(MINI_SD_FOLDER).rglob("*.safetensors") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12_000_000
    assert PROBE_WEIGHTS.stat().st_size < 300_000


def test_words_of_the_world_are_single_tokens(mini_sd: Loaded) -> None:
    for word in (*COLOR_WORDS, "cat", "watercolor", "painting", "background", "left"):
        assert len(mini_sd.tokenizer.tokenize(word)) == 1
    ids = token_ids(mini_sd.tokenizer, ["a cat, naïve 猫 ☃"])
    assert ids.shape == (1, 48)
    assert ids[0, 0] == mini_sd.tokenizer.bos_token_id


def test_the_folder_loads_with_transformers_4_as_with_5() -> None:
    assert (MINI_SD_FOLDER / "tokenizer" / "vocab.json").exists()
    assert (MINI_SD_FOLDER / "tokenizer" / "merges.txt").exists()
    names = load_file(MINI_SD_FOLDER / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)


def test_the_schedule_ends_in_pure_noise(mini_sd: Loaded) -> None:
    assert float(mini_sd.scheduler.alphas_cumprod[-1]) < 1e-4
    assert mini_sd.scheduler.config["timestep_spacing"] == "trailing"


def test_latents_have_unit_variance(mini_sd: Loaded) -> None:
    from lab.mini.probe import labelled
    from lab.mini.train_vae import psnr, to_latents

    x = labelled(64, seed=99)[0].float() / 127.5 - 1
    latents = to_latents(mini_sd.vae, x)
    assert latents.shape == (64, 8, 8, 8)
    assert 0.6 < float(latents.std()) < 1.5
    assert psnr(mini_sd.vae, x) > 23


def test_the_probe_reads_drawn_pictures() -> None:
    result = accuracy(load_probe(), seed=4242, count=400)
    assert result["kind"] > 0.96
    assert result["color"] > 0.96


@pytest.mark.parametrize(
    ("things", "count", "sampler", "bound"), [(1, 12, "dpm", 0.75), (2, 8, "ddim", 0.5)]
)
def test_held_out_captions_are_drawn(
    mini_sd: Loaded, things: int, count: int, sampler: str, bound: float
) -> None:
    prompts = held_out_prompts(count, things, seed=0)
    x = draw_prompts(mini_sd, [text for text, _ in prompts], seed=0, steps=15, sampler=sampler)
    seen = load_probe().read(x, things)
    right = sum(truth == found for (_, truth), found in zip(prompts, seen, strict=True))
    assert right / count >= bound
