"""Models that predict v: told by their marks, drawn and learned as what they are."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from learning_samples import config, learn, photos
from safetensors.torch import load_file, save_file

from cidm_core.bank import Bank
from cidm_core.checkpoints.schedule import SCHEDULE, says_v, schedule_of, without_signal
from cidm_core.cli import main
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.job import prepare
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.pipeline import make_plan
from cidm_core.diffusers_host.schedulers import SCHEDULERS, make_scheduler
from cidm_core.errors import HostError
from cidm_core.methods.cidm import CidmConfig
from cidm_core.regions import Region
from cidm_core.training.data import TrainingSubject
from cidm_core.training.doubt import FIRST, doubt
from cidm_core.training.lesson import Lesson
from cidm_core.training.processes import Alone

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


def cpu(path, **told):
    return load_base(path, device="cpu", dtype="fp32", **told)


def same(base, schedule):
    """Whether a model has this schedule; files and folders round their levels differently."""
    found = {**base.scheduler_config, "trained_betas": None}
    ours, theirs = (DDPMScheduler.from_config(s).betas for s in (base.scheduler_config, schedule))
    return found == {**schedule, "trained_betas": None} and torch.allclose(ours, theirs, rtol=1e-3)


def prediction(path):
    return cpu(path).prediction_type


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


@pytest.fixture(params=["SD15", "SDXL"])
def family(request):
    """Folder and checkpoint of each family."""
    short = {"SD15": "tiny", "SDXL": "xl"}[request.param]
    return [request.getfixturevalue(f"{short}_{form}") for form in ("folder", "checkpoint")]


def test_what_the_user_says_goes_before_all_marks(family):
    folder, checkpoint = family
    assert cpu(folder, prediction="v_prediction").scheduler_config == V
    assert same(cpu(checkpoint, prediction="v_prediction", zero_terminal_snr=True), WITHOUT_SIGNAL)


@pytest.mark.parametrize(
    ("marks", "told", "expected"),
    [
        ({"tensors": ["v_pred", "ztsnr"]}, {"prediction": "epsilon"}, SCHEDULE),
        ({"tensors": ["v_pred", "ztsnr"]}, {"zero_terminal_snr": False}, V),
        ({"tensors": ["ztsnr"]}, {"prediction": "v_prediction"}, WITHOUT_SIGNAL),
        ({"tensors": ["v_pred"]}, {"zero_terminal_snr": True}, WITHOUT_SIGNAL),
        ({"header": {"modelspec.prediction_type": "flow"}}, {"prediction": "epsilon"}, SCHEDULE),
        ({"beside": YAML.format("eps")}, {"prediction": "v_prediction"}, V),
    ],
)
def test_a_file_that_says_otherwise(mark, marks, told, expected):
    assert same(cpu(mark(**marks), **told), expected)


def test_a_folder_that_says_otherwise(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    schedule = folder / "scheduler" / "scheduler_config.json"
    schedule.write_text(json.dumps({**V, "rescale_betas_zero_snr": True}))
    assert cpu(folder, zero_terminal_snr=False).scheduler_config == V
    schedule.write_text(json.dumps({**SCHEDULE, "prediction_type": "sample"}))
    assert cpu(folder, prediction="epsilon").scheduler_config == SCHEDULE


def test_what_cannot_be_is_refused(family, tmp_path):
    for path in family:
        with pytest.raises(HostError, match=r"predicts noise .* Say also --prediction"):
            cpu(path, zero_terminal_snr=True)
    with pytest.raises(HostError, match="prediction is 'v'; choose epsilon or v_prediction"):
        cpu(path, prediction="v")


def test_flags_say_it_too(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "dog.png"
    words = f"generate --model {tiny_checkpoint} --device cpu --steps 1 --width 32 --height 32"
    words = [*words.split(), "--prompt", "a dog", "--out", str(out), "--zero-terminal-snr"]
    assert main([*words, "--prediction", "epsilon"]) == 1
    assert "zero-terminal SNR is for models that predict v" in capsys.readouterr().err
    assert main([*words, "--prediction", "v_prediction"]) == 0


def test_a_folder_too(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    schedule = folder / "scheduler" / "scheduler_config.json"
    schedule.write_text(json.dumps({**SCHEDULE, "prediction_type": "sample"}))
    with pytest.raises(HostError, match="predicts 'sample'"):
        prediction(folder)
    schedule.write_text(json.dumps({**V, "rescale_betas_zero_snr": True}))
    found = cpu(folder)
    assert found.scheduler_config == WITHOUT_SIGNAL


def test_the_last_timestep_of_ztsnr_is_noise_alone(mark):
    base = cpu(mark(["v_pred", "ztsnr"]))
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

    def knows(self, table, latents, timestep, first, last):
        """The v of the only picture there is."""
        a = signal_at(base, timestep)
        noisy = latents[table.picture[first:last]]
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

        def knows(self, table, noisy, timestep, first, last, base=base, kind=kind):
            if kind == "epsilon":
                return noises[first:last]
            a = signal_at(base, timestep)
            noisy = noisy[table.picture[first:last]]
            return (noises[first:last] - (1 - a).sqrt() * noisy) / a.sqrt()

        monkeypatch.setattr(sampler._Estimate, "_call", knows)
        config = SampleConfig(scheduler="ddim", steps=6, region_mode=mode, **SIZE)
        regions = [Region("a cat", box=(0.0, 0.0, 0.5, 1.0))]
        plan = make_plan(base, {}, "a dog", regions, config)
        start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
        latents[kind] = sampler.sample(base, plan, start, config)
    torch.testing.assert_close(*latents.values(), atol=1e-3, rtol=1e-3)


def test_a_model_that_is_taken_for_the_wrong_one_is_doubted(tmp_path, caplog):
    base = load_base("mini-sd", device="cpu", dtype="fp32", prediction="v_prediction")
    given = {"steps": FIRST, "batch_size": 1, "variants": 1}
    learn(tmp_path, base=base, given=given)
    assert "as if the model guessed" in caplog.text
    assert "--prediction epsilon" in caplog.text


@pytest.mark.parametrize(
    ("count", "loss", "given", "doubted"),
    [
        (FIRST, 1.2, {}, True),
        (FIRST, 0.4, {}, False),
        (FIRST - 1, 1.2, {}, False),
        (FIRST + 1, 1.2, {}, False),  # it is said once
        (FIRST, 1.2, {"recipe": "released"}, False),  # a sum over channels
    ],
)
def test_what_is_doubted(count, loss, given, doubted):
    rows = [{"denoise": loss, "skipped": False}] * (count - 1) + [{"skipped": True}]
    assert bool(doubt(rows, CidmConfig(**given))) == doubted


def test_a_state_goes_on_with_its_own_noise_levels_only(tiny_base, tmp_path):
    def run(schedule):
        base = replace(tiny_base, scheduler_config=dict(schedule))
        held = TrainingSubject(photos(), "<d1> <d2>", "dog")
        lesson = Lesson.of((held,), "cidm", config(resolution_px=64))
        return prepare(base, Bank(tmp_path), lesson, None, "refuse", Alone()).folder.run

    assert run(SCHEDULE) == run(SCHEDULE)
    assert len({run(schedule) for schedule in (SCHEDULE, V, WITHOUT_SIGNAL)}) == 3
