"""Concepts with a rank mask: learned, kept and drawn with the ranks of every timestep."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from learning_samples import learn, same_concept, small_base
from make import random_concept
from torch import nn

from cidm_core.bank import Bank
from cidm_core.cli import main
from cidm_core.config import SampleConfig, TrainConfig
from cidm_core.diffusers_host import sampler
from cidm_core.diffusers_host.learning import LearningHost
from cidm_core.diffusers_host.patches import attach
from cidm_core.diffusers_host.pipeline import generate, make_plan
from cidm_core.errors import BankError, ConceptError, HostError
from cidm_core.methods.base import Adapter, Batch
from cidm_core.regions import Region
from cidm_core.sampling.layer_updates import branches
from cidm_core.storage import concept_file
from cidm_core.updates import LoraFactors

MASKED = {"rank_mask": "timestep", "rank_mask_min": 0.25}
TWO = [Region("a <v1> <w1>", box=(0, 0, 0.6, 1)), Region("a <v2> <w2>", box=(0.4, 0.2, 1, 1))]
PROMPT = "a <v1> <w1> and a <v2> <w2>"
SMALL = {"steps": 3, "width_px": 64, "height_px": 64}


def acting(t, rank=4, fewest=1):
    return int((rank - fewest) * (1000 - Fraction(t)) / 1000 // 1) + fewest


def cut(concept, count):
    """The concept with its first ranks alone, at the same scale."""
    factors = {
        path: LoraFactors(f.down[:count], f.up[:, :count], f.scale * count)
        for path, f in concept.factors.items()
    }
    return replace(concept, factors=factors, config={})


def trained(tmp_path_factory, name, **given):
    return learn(tmp_path_factory.mktemp(name), given={"steps": 3, "batch_size": 2, **given})


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory, "plain")


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return trained(tmp_path_factory, "masked", **MASKED)


# Learning


def test_without_a_mask_nothing_tells_of_one(plain):
    assert not {"rank_mask", "rank_mask_min"} & plain.config.keys()
    assert not plain.has_rank_mask
    assert plain.fewest_ranks(4) == 4
    assert TrainConfig(rank_mask_min=0.1).to_dict() == TrainConfig().to_dict()


def test_a_mask_that_keeps_all_ranks_changes_no_bit(tmp_path_factory, plain):
    full = trained(tmp_path_factory, "full", rank_mask="timestep", rank_mask_min=1.0)
    same_concept(full, plain)
    assert full.has_rank_mask
    assert full.fewest_ranks(4) == 4


def test_the_concept_carries_its_mask(masked, plain):
    assert masked.config["rank_mask"] == "timestep"
    assert (masked.has_rank_mask, masked.fewest_ranks(4), masked.fewest_ranks(8)) == (True, 1, 2)
    key = next(iter(masked.factors))
    assert not torch.equal(masked.factors[key].up, plain.factors[key].up)
    # Rank 4 of 4 acts at t = 0 only, which three steps do not meet: it has learned nothing.
    assert all((f.up[:, 3] == 0).all() for f in masked.factors.values())
    assert any((f.up[:, 0] != 0).any() for f in masked.factors.values())


def test_recomputed_activations_have_the_same_mask(tmp_path_factory, masked):
    again = trained(tmp_path_factory, "again", gradient_checkpointing=True, **MASKED)
    for key, pair in masked.factors.items():
        torch.testing.assert_close(pair.up, again.factors[key].up, rtol=1e-4, atol=1e-6)


def predicted(concept, fewest, times):
    """The model's output for the same noisy picture at each timestep."""
    base = small_base()
    host = LearningHost(base, concept.words)
    adapters = {
        path: Adapter(nn.Parameter(f.down), nn.Parameter(f.up), f.alpha, fewest)
        for path, f in concept.factors.items()
    }
    source = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 8, 8, 8, generator=source) for _ in range(2))
    batch = Batch(
        latents.expand(len(times), -1, -1, -1),
        noise.expand(len(times), -1, -1, -1),
        torch.tensor(times),
        (f"a {concept.trigger}",) * len(times),
        torch.ones(len(times), 8, 8),
    )
    with host.attached(adapters):
        found = host.predict(batch, concept.tokens, False).value
        found.square().sum().backward()
    return found.detach(), {path: adapter.up.grad for path, adapter in adapters.items()}


def test_each_picture_of_a_batch_has_the_ranks_of_its_timestep():
    concept = random_concept(small_base(), "<v1> <w1>", seed=1, rank=4)
    times = [999, 400, 0, 600]
    found, _ = predicted(concept, 1, times)
    for row, t in zip(found, times, strict=True):
        alone, _ = predicted(cut(concept, acting(t)), None, [t])
        torch.testing.assert_close(row, alone[0], rtol=1e-4, atol=1e-4)
    everywhere, _ = predicted(concept, None, times)
    assert (found[0] - everywhere[0]).abs().max() > 1e-2
    torch.testing.assert_close(found[2], everywhere[2], rtol=1e-4, atol=1e-4)


def test_ranks_that_do_not_act_do_not_learn():
    concept = random_concept(small_base(), "<v1> <w1>", seed=1, rank=4)
    _, grads = predicted(concept, 1, [999, 600])
    for grad in grads.values():
        assert (grad[:, 2:] == 0).all()
        assert (grad[:, :2] != 0).any()


def test_previews_know_the_mask(tmp_path):
    shown = []
    learn(
        tmp_path,
        given={"steps": 2, "preview_every": 1, **MASKED},
        preview=lambda concept: shown.append(concept.has_rank_mask) or [],
    )
    assert shown == [True, True]


# Drawing


@pytest.fixture(scope="module")
def concepts(tiny_base):
    one = random_concept(tiny_base, "<v1> <w1>", seed=1, rank=4, config=MASKED)
    return {"v1": one, "v2": random_concept(tiny_base, "<v2> <w2>", seed=2)}


def estimates(base, bank, times, regions=(), **given):
    """The guided estimate of the same latents at each timestep, in one go."""
    settings = SampleConfig(**SMALL, **given)
    plan = make_plan(base, bank, PROMPT, regions, settings)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), attach(base, plan, settings.execution) as attached:
        assert not (attached.merged and any(c.has_rank_mask for c in plan.concepts))
        estimate = sampler._Estimate(base, attached, 1, (8, 8), settings)
        return [estimate(x, torch.tensor(t)) for t in times]


@pytest.mark.parametrize(
    ("regions", "given"),
    [
        ((), {}),
        (TWO, {}),
        (TWO, {"key_value_routing": "token", "residual_routing": "box"}),
    ],
    ids=["whole", "regions", "routed"],
)
def test_every_step_draws_with_its_own_ranks(tiny_base, concepts, regions, given):
    """As with concepts that have only these ranks; also when the noise grows again."""
    found = estimates(tiny_base, concepts, [990.5, 400, 990.5], regions, **given)
    for one, t in zip(found, [990.5, 400], strict=False):
        bank = {**concepts, "v1": cut(concepts["v1"], acting(t))}
        (alone,) = estimates(tiny_base, bank, [t], regions, execution="per_sample", **given)
        torch.testing.assert_close(one, alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[0], found[2])
    everywhere = {**concepts, "v1": cut(concepts["v1"], 4)}
    (other,) = estimates(tiny_base, everywhere, [990.5], regions, **given)
    assert (found[0] - other).abs().max() > 1e-2


def test_keys_and_values_are_projected_anew_only_where_ranks_change(tiny_base, concepts):
    settings = SampleConfig(**SMALL)
    plan = make_plan(tiny_base, concepts, PROMPT, config=settings)
    counted = []
    key = tiny_base.unet.get_submodule(plan.layers[0]).to_k
    handle = key.register_forward_hook(lambda *_: counted.append(1))
    try:
        with torch.no_grad(), attach(tiny_base, plan) as attached:
            for t in range(999, -1, -10):
                attached.at(torch.tensor(t))
    finally:
        handle.remove()
    assert len(counted) == 1 + 3  # when attached; then 1, 2 and 3 ranks


def test_merging_is_refused_and_never_chosen(tiny_base, concepts):
    settings = SampleConfig(**SMALL, execution="merged")
    with pytest.raises(HostError, match=r"'v1' was learned with a rank mask.*'per_sample'"):
        generate(tiny_base, concepts, PROMPT, config=settings)
    plan = make_plan(tiny_base, concepts, "a <v2> <w2>", config=settings)
    with attach(tiny_base, plan) as attached:  # nobody with a mask takes part
        assert attached.merged


def test_a_program_that_cannot_follow_the_mask_refuses(tiny_base, concepts):
    weights = torch.ones(1, 2)
    where = tiny_base.layers[0].path, weights, torch.device("cpu"), torch.float32
    with pytest.raises(HostError, match="'v1' was learned with a rank mask"):
        branches(list(concepts.values()), *where)
    assert branches([concepts["v2"]], where[0], weights[:, :1], *where[2:])


# Files


def test_the_file_keeps_the_mask_and_an_export_says_so(tmp_path, masked, capsys):
    folder, out = tmp_path / "bank", tmp_path / "dog_lora.safetensors"
    Bank(folder).add(masked)
    assert Bank(folder)["dog"].fewest_ranks(4) == 1
    assert main(["bank", "export", "dog", "--bank", str(folder), "--out", str(out)]) == 0
    assert "rank mask" in capsys.readouterr().err
    assert b"with a rank mask" in out.read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank_mask": "other", "rank_mask_min": 0.5},
        {"rank_mask": "timestep"},
        {"rank_mask": "timestep", "rank_mask_min": 2},
        {"rank_mask": "timestep", "rank_mask_min": "half"},
    ],
)
def test_a_mask_that_nobody_knows_is_refused(tmp_path, masked, wrong):
    with pytest.raises(ConceptError, match="rank mask"):
        replace(masked, config=wrong)
    broken = replace(masked)
    object.__setattr__(broken, "config", wrong)
    path = tmp_path / "dog.safetensors"
    path.write_bytes(concept_file.encode(broken))
    with pytest.raises(BankError, match="rank mask"):
        concept_file.load(path)


def test_settings_with_a_mask_survive_the_way_back():
    made = TrainConfig(**MASKED)
    assert TrainConfig.from_dict(made.to_dict()) == made
