"""Over-fitting of whole concepts: divergence against the bare UNet, what is 0 and what is not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import update_kinds
from make import random_concept
from PIL import Image

from cidm_core.bank import Bank
from cidm_core.cli import main
from cidm_core.concept import Subject
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.base import changed_weights
from cidm_core.diffusers_host.clip import load_clip
from cidm_core.diffusers_host.pipeline import encode_image, generate
from cidm_core.diffusers_host.schedulers import make_scheduler
from cidm_core.errors import CidmError
from cidm_core.evaluation import divergence
from cidm_core.evaluation.divergence import Divergence
from cidm_core.evaluation.evaluate import evaluate
from cidm_core.evaluation.intervals import Measured
from cidm_core.evaluation.over_fitting import OTHERS, OverFitting, OverFittings
from cidm_core.evaluation.report import Report, Score
from cidm_core.ops.overfitting import gaussian_distance
from cidm_core.ops.seeds import generator

TIMESTEPS = 2  # instead of 10
SMALL = SampleConfig(steps=1, width_px=32, height_px=32, seed=5)
COUNT = 8


@pytest.fixture(autouse=True)
def few_timesteps(monkeypatch):
    monkeypatch.setattr(divergence, "TIMESTEPS", TIMESTEPS)


@pytest.fixture(scope="module")
def clip(clip_folder):
    return load_clip(clip_folder, "cpu")


@pytest.fixture(scope="module")
def dog(tiny_base):
    return random_concept(tiny_base, "<dog1> <dog2>", 1, class_words="dog", name="dog")


def noise(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def measure(base, clip, concept, photos=(), count=COUNT):
    told = []
    fitting = OverFittings(base, clip, count, SMALL)
    found = fitting.of(concept, photos, told.append)
    assert sum(told) == fitting.work([concept])
    return found


def bare_noise(base, prompt, latents, t, alpha):
    """What the UNet takes for noise, by diffusers alone, in float32."""
    tokenizer, encoder = base.tokenizers[0], base.text_encoders[0]
    ids = tokenizer(
        prompt, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    with torch.no_grad():
        states = encoder(ids["input_ids"])[0].expand(len(latents), -1, -1)
        said = base.unet(latents, t, encoder_hidden_states=states).sample
    if base.prediction_type == "v_prediction":
        return alpha.sqrt() * said + (1 - alpha).sqrt() * latents
    return said


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_lfd_is_that_of_the_bare_model_and_one_with_the_weights(tiny_base, clip, dog, prediction):
    scheduler = {**tiny_base.scheduler_config, "prediction_type": prediction}
    base = replace(tiny_base, scheduler_config=scheduler)
    found = measure(base, clip, dog)
    deltas = [(base.module(p).weight, u.delta) for p, u in dog.updates.items()]
    alphas = make_scheduler(base.scheduler_config, "ddpm").alphas_cumprod
    weighted, plain = [], []
    for n in range(COUNT):
        picture = generate(base, {}, "photo of a dog", config=SMALL.alone(n))[0]
        clean = encode_image(base, picture)
        for k in range(TIMESTEPS):
            t = 250 + 500 * k
            source = generator(SMALL.seed + n, "over-fitting", k)
            z = torch.randn(clean.shape[1:], generator=source)[None]
            z = alphas[t].sqrt() * clean + (1 - alphas[t]).sqrt() * z
            before = bare_noise(base, "photo of a dog", z, t, alphas[t])
            with changed_weights(deltas):
                after = bare_noise(base, "photo of a dog", z, t, alphas[t])
            plain.append(float((after - before).double().square().mean()))
            weighted.append(plain[-1] / float(1 - alphas[t]))
    merged = found.at_class_merged
    assert merged.weighted.value == pytest.approx(np.mean(weighted), rel=1e-3)
    assert merged.plain.value == pytest.approx(np.mean(plain), rel=1e-3)
    assert merged.plain.low < merged.plain.value < merged.plain.high


def test_a_concept_that_is_not_called_changes_nothing(tiny_base, clip, dog):
    kept = {key: tensor.clone() for key, tensor in tiny_base.unet.state_dict().items()}
    found = measure(tiny_base, clip, dog)
    for each in (found.elsewhere, found.at_class):
        assert each.weighted.ends == each.plain.ends == (0, 0, 0)
    for each in (found.elsewhere_merged, found.at_class_merged):
        assert each.weighted.low > 0
        assert each.plain.low > 0
    assert (found.concept, found.method, found.likeness) == ("dog", "cidm", None)
    # One of the eight other prompts is of a dog.
    assert (found.pictures, found.others) == (COUNT, COUNT - 1)
    after = tiny_base.unet.state_dict()
    assert all(torch.equal(tensor, kept[key]) for key, tensor in after.items())


def test_weights_that_always_take_part_change_other_prompts(tiny_base, clip, dog):
    fitting = OverFittings(tiny_base, clip, COUNT, replace(SMALL, weights="paper"))
    found = fitting.of(dog, (), lambda _: None)
    assert found.elsewhere.weighted.low > 0
    assert found.at_class.weighted.low > 0


def test_value_residuals_act_at_their_class_words_alone(tiny_base, clip):
    values = update_kinds.concepts(tiny_base, kinds=("value",))["value"]
    subject = Subject((), "dog", on_request=True)
    found = measure(tiny_base, clip, replace(values, subjects=(subject,), rows={}))
    assert found.at_class.weighted.ends == (0, 0, 0)  # nobody asked for it
    assert found.elsewhere_merged.weighted.ends == (0, 0, 0)
    assert found.at_class_merged.weighted.low > 0


def test_w2_and_likeness_are_of_the_pictures(tiny_base, clip, dog):
    photos = [noise(1), noise(2)]
    found = measure(tiny_base, clip, dog, photos)
    prompts = ({}, "photo of a dog"), ({"dog": dog}, "photo of a <dog1> <dog2>")
    unit = torch.nn.functional.normalize
    plain, own = (
        unit(
            clip.images(
                [generate(tiny_base, bank, text, config=SMALL.alone(n))[0] for n in range(COUNT)]
            ).double()
        )
        for bank, text in prompts
    )
    expected = float(gaussian_distance(plain, own))
    assert found.wasserstein.value == pytest.approx(expected, abs=1e-3)
    assert 0 <= found.wasserstein.low <= found.wasserstein.high
    halves = float(gaussian_distance(plain[0::2], plain[1::2]))
    assert found.chance == pytest.approx(halves, abs=1e-3)
    likeness = float((own @ unit(clip.images(photos).double()).T).mean())
    assert found.likeness.value == pytest.approx(likeness, abs=1e-4)


def test_other_prompts_leave_the_class_out_and_share_their_pictures(tiny_base, clip, dog):
    cat = replace(dog, name="cat", subjects=(Subject(("<cat1>", "<cat2>"), "cat"),))
    fitting = OverFittings(tiny_base, clip, 20, SMALL)
    keys = fitting._other_keys(dog)
    assert not any("dog" in prompt for prompt, _ in keys)
    assert len(keys) == len(OTHERS) - 1
    both = set(keys) | set(fitting._other_keys(cat))
    assert sorted(n for _, some in both for n in some) == list(range(20))


def test_too_little_to_measure(tiny_base, clip, dog):
    with pytest.raises(CidmError, match=r"cannot be told from 7 pictures\. Give 8 or more"):
        evaluate(tiny_base, {"dog": dog}, clip, over_fitting=7)
    with pytest.raises(CidmError, match="told by a CLIP model"):
        evaluate(tiny_base, {"dog": dog}, over_fitting=8)


def test_the_command_tells_and_plots(tiny_base, tiny_folder, dog, clip_folder, tmp_path, capsys):
    bank = Bank(tmp_path / "bank")
    bank.add(dog)
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    noise(1).save(tmp_path / "photos" / "dog" / "1.png")
    words = ["evaluate", "--model", str(tiny_folder), "--bank", str(bank.path)]
    words += ["--steps", "1", "--width", "32", "--height", "32", "--over-fitting", "8"]
    plot = ["--plot", str(tmp_path / "new" / "fit.png")]
    clip = ["--clip", str(clip_folder)]
    photos = ["--photos", str(tmp_path / "photos")]
    assert main(words) == 1
    assert "--over-fitting is told by a CLIP model" in capsys.readouterr().err
    assert main([*words, *clip, *plot]) == 1
    assert "--plot shows likeness against over-fitting" in capsys.readouterr().err
    assert main([*words, *clip, *photos, *plot, "--json"]) == 0
    assert Image.open(tmp_path / "new" / "fit.png").width > 600
    told = json.loads(capsys.readouterr().out)["over_fitting"][0]
    assert told["concept"] == "dog"
    assert told["elsewhere"]["weighted"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert told["at_class_merged"]["plain"]["value"] > 0
    assert told["likeness"]["low"] <= told["likeness"]["high"]


def test_the_table_tells_intervals_and_the_plot_needs_likeness():
    one = Measured(1.0, 0.5, 2.0)
    each = [Divergence(one, one)] * 4
    fitted = OverFitting("dog", "cidm", 8, 7, one, 0.25, *each)
    report = Report((Score("dog", 4),), (fitted,))
    assert "W2" in report.table()
    assert "1.000 [0.500, 2.000]" in report.table()
    with pytest.raises(CidmError, match="Give photos of a concept"):
        report.picture()
    assert Report((Score("dog", 4),), (replace(fitted, likeness=one),)).picture().width > 600
