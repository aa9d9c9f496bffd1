"""Every sampler comes out at the picture that its model knows, from wherever it begins."""

import itertools
from functools import cache
from importlib.util import find_spec

import diffusers
import pytest
import torch

from cidm_core.checkpoints.schedule import SCHEDULE
from cidm_core.diffusers_host.schedulers import (
    SCHEDULERS,
    Start,
    all_knowing,
    begin,
    make_scheduler,
    solve,
)
from cidm_core.errors import HostError

MINI = {**SCHEDULE, "beta_end": 0.024, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
MODELS = {
    "sd": dict(SCHEDULE),
    "mini": MINI,
    "v": {**SCHEDULE, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
}
BY_CLASS = [
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler"),
    *("DPMSolverSinglestepScheduler", "DDIMParallelScheduler", "LCMScheduler", "TCDScheduler"),
    *("SASolverScheduler", "PNDMScheduler", "HeunDiscreteScheduler"),
]
PICTURE = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4)
NOISE = torch.randn(PICTURE.shape, generator=torch.Generator().manual_seed(3))
LEFT_OVER = 0.15  # what DDIM and the like keep of the noise of their last level


@cache
def scheduler_of(model, name):
    """Some take a second to be made; every `solve` sets its timesteps anew."""
    return make_scheduler(MODELS[model], name)


def drawn(model, name, steps, denoise=1.0, start=None, picture=PICTURE):
    estimate = all_knowing(MODELS[model], picture)
    return solve(scheduler_of(model, name), estimate, NOISE, steps, [7], denoise, start=start)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [*SCHEDULERS, *BY_CLASS])
def test_no_noise_is_left_in_a_start_picture(name, model):
    for steps, denoise in itertools.product((1, 2, 4, 11), (0.05, 0.1, 0.3, 0.6, 0.9)):
        if steps < 4 and denoise == 0.9 and model == "v" and name in ("pndm", "PNDMScheduler"):
            continue  # two steps are too few for its way with v
        found = drawn(model, name, steps, denoise, Start(PICTURE))
        assert (found - PICTURE).abs().max() < LEFT_OVER, (steps, denoise)


@pytest.mark.parametrize("name", [*SCHEDULERS, *BY_CLASS])
def test_no_noise_is_left_of_pure_noise(name):
    for steps in (2, 3, 4, 10):
        assert (drawn("sd", name, steps) - PICTURE).abs().max() < LEFT_OVER, steps
        assert (drawn("mini", name, steps) - PICTURE).abs().max() < LEFT_OVER, steps


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [*SCHEDULERS, *BY_CLASS])
def test_a_share_above_nothing_redraws_something_and_less_than_all(name, model):
    for steps, denoise in itertools.product((1, 2, 4, 10, 20), (0.05, 0.25, 0.5, 0.8)):
        scheduler = scheduler_of(model, name)
        timesteps = begin(scheduler, steps, denoise, torch.device("cpu"))
        assert len(timesteps)
        level = float(timesteps[0]) / 1000
        assert level > 0.3 * denoise or "karras" in name, (steps, denoise, level)
        if denoise * steps >= 1 or denoise < 0.5:
            slack = 0.1 if "karras" in name else 0.01
            assert level <= denoise + 1 / steps + slack, (steps, denoise, level)


@pytest.mark.parametrize("name", [*SCHEDULERS, *BY_CLASS])
def test_the_kept_part_is_kept_and_the_other_redrawn(name):
    mask = torch.zeros(4, 4)
    mask[:, 2:] = 1
    other = -PICTURE
    for steps, denoise in ((4, 1.0), (10, 1.0), (10, 0.6), (10, 0.9)):
        found = drawn("mini", name, steps, denoise, Start(PICTURE, mask), picture=other)
        assert torch.equal(found[..., :2], PICTURE[..., :2])
        assert (found - other)[..., 2:].abs().max() < LEFT_OVER, (steps, denoise)


@pytest.mark.parametrize("name", sorted({*SCHEDULERS} - {"heun", "pndm"}))  # these were wrong
def test_shares_of_many_steps_begin_where_they_did(name):
    """The very timesteps of a slice, for samplers of one call per step."""
    for steps, denoise in itertools.product((5, 10, 20, 50), (0.3, 0.5, 0.6, 0.75, 1.0)):
        scheduler = scheduler_of("sd", name)
        timesteps = begin(scheduler, steps, denoise, torch.device("cpu"))
        sliced = scheduler.timesteps[round(steps * (1 - denoise)) :]
        if sliced[0] > 300 * denoise:  # else next to nothing was redrawn
            assert torch.equal(timesteps, sliced)
            assert len(scheduler.timesteps) == steps


WITH_NOISE = ["euler_ancestral", "dpmpp_2m_sde", "ddpm", "ddim", "LCMScheduler"]


@pytest.mark.parametrize("name", WITH_NOISE)
def test_noise_on_the_way_is_each_picture_s_own(name):
    noise = torch.cat([NOISE, NOISE.flip(0).flip(1), NOISE * 0.5])

    def wander(scaled, timestep):
        return scaled * 0.9

    def run(rows, seeds):
        scheduler = scheduler_of("mini", name)
        return solve(scheduler, wander, noise[rows], 6, seeds, eta=1.0 if name == "ddim" else 0.0)

    together = run([0, 1, 2], [5, 6, 7])
    for i in range(3):
        assert torch.equal(run([i], [5 + i])[0], together[i])
    assert not torch.equal(run([0], [6])[0], together[0])


def diffusers_loop(scheduler, estimate, steps, **options):
    """As the pipelines of diffusers denoise."""
    scheduler.set_timesteps(steps)
    latents = NOISE * scheduler.init_noise_sigma
    options["generator"] = torch.Generator().manual_seed(7)
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(estimate(scaled, timestep), timestep, latents, **options)[0]
    return latents


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("name", "eta"), [("ddim", 0.0), ("ddim", 0.4), ("ddim", 1.0), ("ddpm", 0.0)]
)
def test_ddim_and_ddpm_are_those_of_diffusers(model, name, eta):
    kind = {"ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler}[name]
    known = {k: v for k, v in MODELS[model].items() if k != "set_alpha_to_one" or name == "ddim"}
    estimate = all_knowing(MODELS[model], PICTURE)
    wanted = diffusers_loop(kind(**known), estimate, 20, **({"eta": eta} if eta else {}))
    scheduler = scheduler_of(model, name)
    assert torch.equal(solve(scheduler, estimate, NOISE, 20, [7], eta=eta), wanted)


def test_ddim_with_eta_1_is_ddpm():
    """Song et al. 2020, section 4.1: the same steps with the same noise."""

    def wander(scaled, timestep):
        return scaled * 0.9 + 0.001 * timestep

    ends = [
        solve(scheduler_of("mini", name), wander, NOISE, 50, [7], eta=eta)
        for name, eta in (("ddpm", 0.0), ("ddim", 1.0), ("ddim", 0.0))
    ]
    assert torch.allclose(ends[0], ends[1], atol=1e-3 * float(ends[0].abs().max()))
    assert not torch.allclose(ends[0], ends[2], atol=0.1)


@pytest.mark.parametrize("name", sorted({*SCHEDULERS} - {"ddim"}))
def test_other_samplers_take_no_eta(name):
    with pytest.raises(
        HostError, match=r"eta is 0\.5, and \w+ takes none\. Use the scheduler ddim"
    ):
        solve(scheduler_of("sd", name), None, NOISE, 5, [7], eta=0.5)


def test_a_kept_part_stays_whatever_noise_is_added():
    mask = torch.zeros(4, 4)
    mask[:, 2:] = 1
    estimate = all_knowing(MINI, -PICTURE)
    found = solve(
        scheduler_of("mini", "ddim"), estimate, NOISE, 10, [7], 0.6, Start(PICTURE, mask), eta=1.0
    )
    assert torch.equal(found[..., :2], PICTURE[..., :2])
    assert (found + PICTURE)[..., 2:].abs().max() < LEFT_OVER


UNFIT = [
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "IPNDMScheduler"),
    *("VQDiffusionScheduler", "AmusedScheduler", "DDIMInverseScheduler", "RePaintScheduler"),
    *("DPMSolverMultistepInverseScheduler", "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"),
    *("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "CMStochasticIterativeScheduler"),
    *("KarrasVeScheduler", "ScoreSdeVeScheduler", "UnCLIPScheduler", "DDPMWuerstchenScheduler"),
]


@pytest.mark.parametrize("name", UNFIT)
def test_classes_that_cannot_draw_are_refused(name):
    known = "cannot draw here: .*dpmpp_2m" if hasattr(diffusers, name) else "No scheduler"
    with pytest.raises(HostError, match=known):
        make_scheduler(MINI, name)


@pytest.mark.parametrize("name", ["turbo", "Scheduler", "AutoencoderKL", "NoSuchScheduler"])
def test_unknown_names_list_the_known(name):
    with pytest.raises(HostError, match=r"No scheduler .* dpmpp_2m, .*EulerDiscreteScheduler"):
        make_scheduler(MINI, name)


@pytest.mark.parametrize(
    ("name", "library"), [("LMSDiscreteScheduler", "scipy"), ("DPMSolverSDEScheduler", "torchsde")]
)
def test_a_missing_library_is_named(name, library):
    if find_spec(library):
        pytest.skip(f"{library} is installed")
    with pytest.raises(HostError, match=f"{name} requires the {library} library"):
        make_scheduler(MINI, name)
