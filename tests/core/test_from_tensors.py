"""A base model from another program's weights, and what a bank knows of the run that taught it."""

import dataclasses

import pytest
import torch
from diffusers import DDPMScheduler
from filelock import FileLock
from learning_samples import config, learn, photos, small_base

from cidm_core.bank import Bank
from cidm_core.checkpoints.schedule import SCHEDULE, schedule_of
from cidm_core.checkpoints.weights import Weights, open_weights
from cidm_core.diffusers_host.build import Target
from cidm_core.diffusers_host.job import find_taught, folder_of
from cidm_core.diffusers_host.load import base_from_tensors, load_base
from cidm_core.errors import BankError, FamilyError, HostError
from cidm_core.training.loop import Stopped
from cidm_core.training.state import read_log

CPU = Target(torch.device("cpu"), torch.float32)
UNET, CLIP = "model.diffusion_model.", "cond_stage_model.transformer."


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return load_base(tiny_checkpoint, device="cpu", dtype="fp32")


def in_memory(path, change=lambda tensors: tensors):
    file = open_weights(path)
    tensors = {k: file.read(k) for k in file.shapes if not k.startswith("first_stage_model.")}
    tensors = change(tensors)
    return Weights("memory", {k: tuple(t.shape) for k, t in tensors.items()}, tensors.__getitem__)


def build(weights, loaded, **options):
    return base_from_tensors("socket", weights, loaded.tokenizers, loaded.vae, CPU, **options)


def same_modules(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == other and torch.equal(x, y) for (k, x), (other, y) in pairs)


def test_tensors_give_the_same_model_as_their_file(tiny_checkpoint, loaded):
    base = build(in_memory(tiny_checkpoint), loaded)
    assert (base.family, base.layers, base.name) == (loaded.family, loaded.layers, "socket")
    assert base.fingerprint == loaded.fingerprint
    assert same_modules(base.unet, loaded.unet)
    assert same_modules(base.text_encoders[0], loaded.text_encoders[0])


def test_tensors_of_inference_mode_can_be_learned_with(tiny_checkpoint, loaded):
    with torch.inference_mode():
        weights = in_memory(tiny_checkpoint, lambda t: {k: v.clone() for k, v in t.items()})
        assert weights.read(f"{UNET}out.2.weight").is_inference()
        with torch.inference_mode(False):
            base = build(weights, loaded)
    assert not any(p.is_inference() for p in base.unet.parameters())


def test_heads_are_told_because_no_weight_tells_them(tiny_checkpoint, loaded):
    base = build(in_memory(tiny_checkpoint), loaded, heads=4, text_heads=[6])
    assert base.unet.mid_block.attentions[0].transformer_blocks[0].attn2.heads == 4
    assert base.text_encoders[0].config.num_attention_heads == 6


def without(start):
    return lambda tensors: {k: t for k, t in tensors.items() if not k.startswith(start)}


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (without(UNET), FamilyError, "no UNet"),
        (without(CLIP), HostError, "text encoder"),
        (
            lambda t: t | {f"{UNET}label_emb.0.0.weight": torch.zeros(1)},
            FamilyError,
            "has label_emb",
        ),
        (
            lambda t: t | {f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)},
            FamilyError,
            "inpainting",
        ),
        (
            lambda t: (
                t | {f"{CLIP}text_model.embeddings.token_embedding.weight": torch.zeros(9, 8)}
            ),
            HostError,
            "8 wide; SD15 needs 768",
        ),
    ],
)
def test_other_models_are_refused_by_name(tiny_checkpoint, loaded, change, error, said):
    with pytest.raises(error, match=said):
        build(in_memory(tiny_checkpoint, change), loaded)


@pytest.mark.parametrize("end", [0.012, 0.024])
def test_the_schedule_is_read_off_the_noise_levels(end):
    exact = DDPMScheduler.from_config({**SCHEDULE, "beta_end": end}).alphas_cumprod.double()
    found = schedule_of(((1 - exact) / exact).sqrt().float())
    assert found == {**SCHEDULE, "beta_end": end}


def test_any_other_schedule_is_taken_level_by_level():
    products = torch.cos(torch.linspace(0.05, 1.5, 1000, dtype=torch.float64)) ** 2
    found = schedule_of(((1 - products) / products).sqrt(), "v_prediction")
    again = DDPMScheduler.from_config(found)
    assert found["prediction_type"] == again.config.prediction_type == "v_prediction"
    torch.testing.assert_close(again.alphas_cumprod.double(), products, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(50,), (1000, 2), ()])
def test_a_table_of_another_length_is_refused(shape):
    with pytest.raises(HostError, match="1000 levels"):
        schedule_of(torch.ones(shape))


def find(bank, given=None, **options):
    options = {"words": "<dog1> <dog2>", "class_words": "dog", "config": config(**(given or {}))}
    options |= {"photos": photos()}
    return find_taught(small_base(), bank, options.pop("photos"), **options)


def test_a_concept_is_found_by_the_inputs_that_taught_it(tmp_path):
    given = {"steps": 2}
    taught = learn(tmp_path, given=given)
    bank = Bank(tmp_path)
    assert find(bank, given).name == taught.name
    learn(tmp_path, words="<cat1>", class_words="cat", given=given, photos=cats())
    assert find(bank, given).created == taught.created  # later concepts do not count
    assert find(bank, {**given, "save_every": 1, "preview_prompt": "x"}) is not None
    assert find(bank, {**given, "seed": 1}) is None
    assert len(read_log(folder_of(bank, taught.name))) == 2


def cats():
    return [dataclasses.replace(photo, caption="a cat") for photo in photos(seed=1)]


def test_other_photos_words_or_models_are_another_run(tmp_path):
    learn(tmp_path, given={"steps": 1})
    bank, same = Bank(tmp_path), {"config": config(steps=1), "class_words": "dog"}
    words = "<dog1> <dog2>"
    assert find_taught(small_base(), bank, photos(), words=words, **same) is not None
    assert find_taught(small_base(), bank, photos(seed=3), words=words, **same) is None
    assert find_taught(small_base(), bank, photos(), words="<dog1>", **same) is None
    assert find_taught(small_base(), bank, photos(), words=words, name="rex", **same) is None
    schedule = small_base().scheduler_config
    for change in (
        {"fingerprint": "128x128:1,2"},
        {"scheduler_config": schedule | {"prediction_type": "v_prediction"}},
        {"scheduler_config": schedule | {"trained_betas": [0.01] * 1000}},
    ):
        other = dataclasses.replace(small_base(), **change)
        assert find_taught(other, bank, photos(), words=words, **same) is None


def test_two_runs_of_one_concept_do_not_mix(tmp_path):
    folder = tmp_path / ".runs" / "dog"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(BankError, match="learning 'dog' in this bank"):
        learn(tmp_path, given={"steps": 1})
    assert learn(tmp_path, given={"steps": 1}).name == "dog"


def test_a_stopped_run_leaves_nothing_a_lora_list_would_show(tmp_path):
    with pytest.raises(Stopped):
        learn(tmp_path, given={"steps": 3}, should_stop=iter([False] * 4 + [True]).__next__)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert list((tmp_path / ".runs" / "dog").glob("state*"))
