"""Models that predict v: told by their marks, drawn and learned as what they are."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file

from cidm_core.checkpoints.schedule import SCHEDULE, says_v, schedule_of, without_signal
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.diffusers_host.schedulers import SCHEDULERS, make_scheduler
from cidm_core.errors import HostError
from cidm_core.regions import Region

SIZE = {"width_px": 64, "height_px": 64}
V = {**SCHEDULE, "prediction_type": "v_prediction"}
PLAIN = DDPMScheduler.from_config(SCHEDULE).alphas_cumprod.double()
WITHOUT_SIGNAL = schedule_of(without_signal(PLAIN), "v_prediction")
YAML = 'model:\n  params:\n    linear_start: 0.00085\n    parameterization: "{}"\n'


@pytest.fixture
def mark(tiny_checkpoint, tmp_path):
    """A checkpoint with tensors, header and the text of a `.yaml` beside it."""

    def save(tensors=(), header=None, beside=""):
        path = tmp_path / "model.safetensors"
        found = load_file(tiny_checkpoint) | {name: torch.tensor([]) for name in tensors}
        save_file(found, path, header)
        if beside:
            path.with_suffix(".yaml").write_text(beside)
        shutil.copytree(tiny_checkpoint.parent / "tokenizer", tmp_path / "tokenizer")
        return path

    return save


def prediction(path):
    return load_base(path, device="cpu", dtype="fp32").prediction_type


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ({}, "epsilon"),
        ({"tensors": ["v_pred"]}, "v_prediction"),
        ({"tensors": ["v_pred", "ztsnr"]}, "v_prediction"),
        ({"header": {"modelspec.prediction_type": "v"}}, "v_prediction"),
        ({"header": {"modelspec.prediction_type": "epsilon"}}, "epsilon"),
        ({"beside": YAML.format("v")}, "v_prediction"),
        ({"beside": YAML.format("eps")}, "epsilon"),
        ({"beside": "model:\n  params: {}\n"}, "epsilon"),
        # A merge keeps old headers; what its owner wrote beside it counts most.
        (
            {"tensors": ["v_pred"], "header": {"modelspec.prediction_type": "epsilon"}},
            "v_prediction",
        ),
        ({"tensors": ["v_pred"], "beside": YAML.format("eps")}, "epsilon"),
    ],
)
def test_what_a_checkpoint_predicts_is_told_by_its_marks(mark, marks, expected):
    path = mark(**marks)
    assert prediction(path) == expected
    assert says_v(path) == (expected == "v_prediction")


def test_marks_in_a_pickle_count_too(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint.parent / "tokenizer", tmp_path / "tokenizer")
    torch.save(load_file(tiny_checkpoint) | {"v_pred": torch.tensor([])}, tmp_path / "m.ckpt")
    assert prediction(tmp_path / "m.ckpt") == "v_prediction"


@pytest.mark.parametrize(
    "marks", [{"beside": YAML.format("x0")}, {"header": {"modelspec.prediction_type": "flow"}}]
)
def test_what_is_neither_noise_nor_v_is_refused_by_name(mark, marks):
    path = mark(**marks)
    with pytest.raises(HostError, match=r"says that it predicts '(x0|flow)'; known are epsilon"):
        prediction(path)
    assert not says_v(path)


def test_a_folder_too(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    schedule = folder / "scheduler" / "scheduler_config.json"
    schedule.write_text(json.dumps({**SCHEDULE, "prediction_type": "sample"}))
    with pytest.raises(HostError, match="predicts 'sample'"):
        prediction(folder)
    schedule.write_text(json.dumps({**V, "rescale_betas_zero_snr": True}))
    found = load_base(folder, device="cpu", dtype="fp32")
    assert found.scheduler_config == WITHOUT_SIGNAL


def test_the_last_timestep_of_ztsnr_is_noise_alone(mark):
    base = load_base(mark(["v_pred", "ztsnr"]), device="cpu", dtype="fp32")
    theirs = DDPMScheduler.from_config({**V, "rescale_betas_zero_snr": True}).alphas_cumprod
    ours = DDPMScheduler.from_config(base.scheduler_config).alphas_cumprod
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)
    for name in SCHEDULERS:
        scheduler = make_scheduler(base.scheduler_config, name)
        scheduler.set_timesteps(10)
        assert int(scheduler.timesteps[0]) == 999, name


def signal_at(base, timestep):
    a = DDPMScheduler.from_config(base.scheduler_config).alphas_cumprod
    low = int(timestep)
    return torch.lerp(a[low], a[min(low + 1, 999)], float(timestep) - low)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("schedule", [V, WITHOUT_SIGNAL], ids=["plain", "ztsnr"])
def test_every_sampler_reads_v_as_v(tiny_base, monkeypatch, name, schedule):
    base = replace(tiny_base, scheduler_config=dict(schedule))
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def knows(self, latents, timestep, first, last):
        """The v of the only picture there is."""
        a = signal_at(base, timestep)
        noisy = latents[self.picture[first:last]]
        noise = (noisy - a.sqrt() * clean) / (1 - a).sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * clean

    monkeypatch.setattr(sampler._Estimate, "_call", knows)
    config = SampleConfig(scheduler=name, steps=20, **SIZE)
    plan = make_plan(base, {}, "a dog", config=config)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    found = sampler.sample(base, plan, noise, config)
    assert (found - clean).abs().mean() < 0.05


@pytest.mark.parametrize("mode", ["partition", "literal"])
def test_regions_mean_the_same_whether_noise_or_v_is_predicted(tiny_base, monkeypatch, mode):
    draw = torch.Generator().manual_seed(3)
    noises = torch.randn(3, 4, 8, 8, generator=draw)  # of a model that is sure of them
    latents = {}
    for kind in ("epsilon", "v_prediction"):
        base = replace(tiny_base, scheduler_config={**SCHEDULE, "prediction_type": kind})

        def knows(self, noisy, timestep, first, last, base=base, kind=kind):
            if kind == "epsilon":
                return noises[first:last]
            a = signal_at(base, timestep)
            noisy = noisy[self.picture[first:last]]
            return (noises[first:last] - (1 - a).sqrt() * noisy) / a.sqrt()

        monkeypatch.setattr(sampler._Estimate, "_call", knows)
        config = SampleConfig(scheduler="ddim", steps=6, region_mode=mode, **SIZE)
        regions = [Region("a cat", box=(0.0, 0.0, 0.5, 1.0))]
        plan = make_plan(base, {}, "a dog", regions, config)
        start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
        latents[kind] = sampler.sample(base, plan, start, config)
    torch.testing.assert_close(*latents.values(), atol=1e-3, rtol=1e-3)
