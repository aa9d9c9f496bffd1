"""The compared systems on a small model: how they learn_task, keep, arrange and draw."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from learning_samples import config, photos, same_concept, same_weights, small_base, weights
from make import random_concept

import lab.cifc.learners as learners_module
from cidm_core.bank import Bank
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.learning import LearningHost
from cidm_core.diffusers_host.pipeline import generate, make_plan
from cidm_core.diffusers_host.sampler import sample
from cidm_core.errors import BankError, CidmError
from cidm_core.ops.diffusion import masked_mse
from cidm_core.regions import Region
from cidm_core.training.loop import Stopped
from cidm_core.updates import LowRank
from lab.cifc.baselines import ewc as ewc_module
from lab.cifc.baselines.composite import composite_plan
from lab.cifc.baselines.ewc import fisher
from lab.cifc.baselines.memory import BaselineMemory
from lab.cifc.baselines.merge import folded
from lab.cifc.learners import LEARNERS, learn_task
from lab.cifc.systems import MULTI, SYSTEMS
from lab.cifc.tasks import SuiteTask

QUICK = config(steps=2, variants=1)
FAST = SampleConfig(steps=2, guidance_scale=3.0)


def task(name, seed):
    prompts = ("a <TOK> in the snow", "a small <TOK>")
    return SuiteTask(
        name, "object", f"<{name}a> <{name}b>", "dog", tuple(photos(seed=seed)), prompts
    )


TASKS = [task("v1", 1), task("v2", 2)]


def concepts(count=3):
    made = [
        random_concept(small_base(), f"<o{i}a> <o{i}b>", i, rank=4, size=1.5) for i in range(count)
    ]
    return [replace(concept, name=f"o{i}") for i, concept in enumerate(made)]


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(ewc_module, "SAMPLES", 2)


@pytest.fixture(scope="module")
def in_order(tmp_path_factory):
    """Function (learner) -> its folder and both concepts, learned in order; each learner once."""

    @cache
    def learned(name):
        folder = tmp_path_factory.mktemp(name)
        return folder, [_learn(name, folder, t) for t in TASKS]

    return learned


@pytest.fixture
def untouched():
    """The model is after a test what it was before."""
    before = weights(small_base())
    yield
    same_weights(before, weights(small_base()))


# Learning


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", list(LEARNERS))
def test_every_learner_learns_task_after_task_and_is_asked_twice_for_nothing(name, in_order):
    folder, learned = in_order(name)
    assert list(Bank(folder)) == ["v1", "v2"]
    steps = []
    for t, concept in zip(TASKS, learned, strict=True):
        same_concept(_learn(name, folder, t, on_progress=steps.append), concept)
    assert steps == []


def test_all_recipes_are_on_the_same_footing():
    shared = ("steps", "batch_size", "lr_tokens", "lr_lora", "rank", "seed", "variants")
    for learner in LEARNERS.values():
        settings = learner.settings(QUICK)
        assert [getattr(settings, key) for key in shared] == [getattr(QUICK, key) for key in shared]


@pytest.mark.parametrize("name", ["plain", "ours"])
def test_an_order_free_learner_learns_alike_in_any_order(name, in_order, tmp_path):
    other = {t.name: _learn(name, tmp_path, t) for t in TASKS[::-1]}
    for task, concept in zip(TASKS, in_order(name)[1], strict=True):
        same_concept(concept, other[task.name])
    assert {name for name, learner in LEARNERS.items() if learner.order_free} == {"plain", "ours"}


def _learn(name, folder, which, **options):
    return learn_task(small_base(), LEARNERS[name], folder, which, QUICK, **options)


def test_one_lora_goes_on_from_task_to_task(in_order):
    first, second = in_order("sequential")[1]
    for path, pair in second.low_rank.items():
        assert (
            torch.nn.functional.cosine_similarity(
                pair.down.flatten(), first.low_rank[path].down.flatten(), dim=0
            )
            > 0.99
        ), path
    assert (first.method, second.method) == ("sequential", "sequential")


def test_a_concept_of_other_settings_is_not_taken_for_the_one_asked(tmp_path):
    _learn("plain", tmp_path, TASKS[0])
    with pytest.raises(BankError, match="What differs: steps 2, now 3"):
        learn_task(small_base(), LEARNERS["plain"], tmp_path, TASKS[0], config(steps=3))


def test_another_method_does_not_go_on_from_a_state_left_behind(tmp_path):
    asked = iter([False, True])
    with pytest.raises(Stopped):
        _learn("sequential", tmp_path, TASKS[0], should_stop=lambda: next(asked))
    steps = []
    _learn("plain", tmp_path, TASKS[0], on_progress=lambda e: steps.append(e.step))
    assert steps[-2:] == [1, 2]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", ["ewc", "lwf", "c_lora"])
def test_a_stopped_baseline_goes_on_to_the_same_bits(name, in_order, tmp_path):
    whole = in_order(name)[1]
    _learn(name, tmp_path / "parts", TASKS[0])
    calls = []

    def stop_at_second_step():
        calls.append(1)
        return len(calls) == len(photos()) + 2

    with pytest.raises(Stopped):
        _learn(name, tmp_path / "parts", TASKS[1], should_stop=stop_at_second_step)
    steps = []
    parts = _learn(name, tmp_path / "parts", TASKS[1], on_progress=lambda e: steps.append(e.step))
    assert steps[-1] == 2
    assert steps.count(1) <= 1  # of the photos
    same_concept(parts, whole[1])


def test_ewc_interrupted_before_it_remembered_makes_up_for_it(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ewc_module, "fisher", interrupt)
        with pytest.raises(KeyboardInterrupt):
            _learn("ewc", tmp_path, TASKS[0])
    memory = BaselineMemory(tmp_path, "ewc")
    assert list(Bank(tmp_path)) == ["v1"]
    assert memory.read().tasks == ()
    _learn("ewc", tmp_path, TASKS[0])
    once = memory.read()
    assert once.tasks == ("v1",)
    _learn("ewc", tmp_path, TASKS[0])
    _learn("ewc", tmp_path, TASKS[1])
    twice = memory.read()
    assert twice.tasks == ("v1", "v2")
    assert all((twice.tensors[key] >= once.tensors[key]).all() for key in once.tensors)
    assert list(Bank(tmp_path)) == ["v1", "v2"]


def test_a_damaged_memory_is_refused(tmp_path):
    memory = BaselineMemory(tmp_path, "ewc")
    memory.write({"a.down": torch.ones(3)}, ["v1"])
    data = bytearray(memory.path.read_bytes())
    data[-1] ^= 1
    memory.path.write_bytes(data)
    with pytest.raises(BankError, match=r"ewc\.safetensors"):
        memory.read()


@pytest.mark.usefixtures("untouched")
def test_c_lora_learns_on_top_of_all_earlier_weights(tmp_path, monkeypatch):
    first = _learn("c_lora", tmp_path, TASKS[0])
    path = next(iter(first.low_rank))
    weight = small_base().unet.get_submodule(path).weight
    before, seen = weight.detach().clone(), []
    train = learners_module.train_concept

    def spy(*args, **options):
        seen.append(weight.detach() - before)
        return train(*args, **options)

    monkeypatch.setattr(learners_module, "train_concept", spy)
    _learn("c_lora", tmp_path, TASKS[1])
    assert torch.allclose(seen[0], first.low_rank[path].delta, atol=1e-6)


# The Fisher information, by another way: folded weights, and the chain rule for the factors


def test_fisher_is_the_mean_squared_gradient(monkeypatch):
    base, drawn = small_base(), []
    concept = random_concept(base, "<dog1> <dog2>", 4, rank=4, class_words="dog")
    sources = ewc_module._draws
    monkeypatch.setattr(ewc_module, "_draws", lambda *a: drawn.append(sources(*a)) or drawn[-1])
    found = fisher(base, concept, photos(), config(rank=4), samples=3)
    host = LearningHost(base, concept.words)
    path = list(concept.low_rank)[5]
    weight, pair = base.unet.get_submodule(path).weight, concept.low_rank[path]
    wide_up, wide_down = pair.up.double().numpy(), pair.down.double().numpy()
    down, up = np.zeros(wide_down.shape), np.zeros(wide_up.shape)
    with folded(base, [concept]), host.attached({path: _nothing(pair)}):
        weight.requires_grad_(True)
        for index in range(3):
            picture = drawn[0].batch(index)
            assert len(picture.latents) == 1
            guess = host.predict(picture, concept.rows, False)
            loss = masked_mse(guess.value, guess.target, picture.image_masks)
            grad = torch.autograd.grad(loss, weight)[0].double().numpy()
            down += (wide_up.T @ grad * pair.scale) ** 2 / 3
            up += (grad @ wide_down.T * pair.scale) ** 2 / 3
        weight.requires_grad_(False)
    for side, expected in (("down", down), ("up", up)):
        value = found[f"{path}.{side}"].double().numpy()
        assert np.allclose(value, expected, rtol=1e-3, atol=1e-4 * expected.max())


def _nothing(pair):
    """An update that changes nothing; attached, every layer reads its own context."""
    zeros = (torch.nn.Parameter(torch.zeros_like(t)) for t in (pair.down, pair.up))
    return LowRank(*zeros, pair.alpha)


# Keeping


def test_arranged_banks():
    learned = concepts()
    path = next(iter(learned[0].low_rank))

    def delta(name):
        bank = SYSTEMS[name].arrange(learned, "o0")
        assert list(bank) == ["o0"]
        assert torch.equal(bank["o0"].rows["text_encoder"], learned[0].rows["text_encoder"])
        return bank["o0"].low_rank[path].delta

    parts = torch.stack([concept.low_rank[path].delta for concept in learned])
    assert torch.equal(delta("oracle"), parts[0])
    for name in ("sequential", "ewc", "lwf"):
        assert torch.equal(delta(name), parts[2])
    assert torch.allclose(delta("c_lora"), parts.sum(0), atol=1e-6)
    assert torch.allclose(delta("lora_merge"), parts.mean(0), atol=1e-6)
    for name in ("lora_composite", "paper", "released", "ours"):
        bank = SYSTEMS[name].arrange(learned, "o0")
        assert list(bank.values()) == learned


def test_every_system_names_a_learner_and_settings_that_are():
    for system in SYSTEMS.values():
        assert system.learner in LEARNERS
        assert replace(FAST, **system.sampling)
    for system in MULTI.values():
        assert replace(FAST, **system.sampling)


def test_a_concept_not_learned_cannot_be_arranged():
    with pytest.raises(CidmError, match="o7"):
        SYSTEMS["ours"].arrange(concepts(), "o7")


# Drawing


LONE = ["a <o0a> <o0b> in the snow", "a small <o0a> <o0b>"], replace(FAST, num_images=2)


@pytest.fixture(scope="module")
def oracle():
    """A lone concept and its pictures."""
    prompts, settings = LONE
    (concept,) = concepts(1)
    return concept, generate(small_base(), {"o0": concept}, prompts, config=settings)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", list(SYSTEMS))
def test_a_lone_concept_is_drawn_as_the_oracle_draws_it(name, oracle):
    concept, expected = oracle
    system = SYSTEMS[name]
    found = system.draw(small_base(), system.arrange([concept], "o0"), *LONE)
    assert len(found) == 4
    assert max(_gap(a, b) for a, b in zip(found, expected, strict=True)) <= 2
    assert _gap(found[0], found[1]) > 2


def _gap(a, b):
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


def test_composite_asks_each_concept_alone():
    """One step is affine in the estimate: the mean of what each concept alone would give."""
    base, learned = small_base(), concepts()
    prompts = [f"a {learned[0].trigger} in the snow", f"a small {learned[0].trigger}"]
    settings = SampleConfig(steps=1, scheduler="ddim", guidance_scale=3.0)
    shape = (2, base.family.latent_channels, 8, 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    bank = SYSTEMS["lora_composite"].arrange(learned, "o0")
    found = sample(base, composite_plan(base, bank, prompts, settings), noise, settings).double()
    alone = []
    for concept in learned:
        drawn = {"o0": replace(learned[0], updates=concept.updates)}
        plan = make_plan(base, drawn, prompts, (), settings)
        alone.append(sample(base, plan, noise, settings).double())
    expected = torch.stack(alone).mean(0)
    apart = min(float((expected - each).abs().max()) for each in alone)
    assert float((found - expected).abs().max()) < 0.01 * apart


def test_scenes_differ_by_what_regions_do():
    bank = {concept.name: concept for concept in concepts(2)}
    prompt = "a <o0a> <o0b> and a <o1a> <o1b>"
    # The edges lie within latent cells, where rules for boxes differ.
    regions = [
        Region("a <o0a> <o0b>", box=(0.0, 0.0, 0.46, 1.0)),
        Region("a <o1a> <o1b>", box=(0.54, 0.0, 1.0, 1.0)),
    ]
    drawn = {
        name: system.draw(small_base(), bank, prompt, regions, FAST)[0]
        for name, system in MULTI.items()
    }
    plain = generate(small_base(), bank, prompt, config=FAST)[0]
    assert _gap(drawn["none"], plain) <= 1
    both = generate(small_base(), bank, prompt, regions, FAST)[0]
    assert _gap(drawn["both"], both) == 0
    names = list(drawn)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert _gap(drawn[a], drawn[b]) > 0, (a, b)
