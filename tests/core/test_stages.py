"""Stages of a method: their groups, rates, sources, terms; prior pictures; several subjects."""

from dataclasses import dataclass, replace

import pytest
import torch
from learning_samples import config, photos, small_base

from cidm_core.bank import Bank
from cidm_core.config import TrainConfig
from cidm_core.diffusers_host.job import find_taught
from cidm_core.diffusers_host.train import train_concept
from cidm_core.errors import ConceptError, TrainingError
from cidm_core.methods import METHODS
from cidm_core.methods.base import Stage
from cidm_core.methods.batches import PhotoBatches
from cidm_core.methods.cidm import Cidm, CidmConfig
from cidm_core.methods.group import Group
from cidm_core.ops.diffusion import masked_mse
from cidm_core.ops.schedules import linear_decay
from cidm_core.training.data import Photo, TrainingSubject
from cidm_core.training.loop import Loop, Stopped
from cidm_core.training.progress import Hooks
from cidm_core.training.state import RunFolder


class Ones:
    def batch(self, index):
        return 1.0


class Twos:
    def batch(self, index):
        return 2.0


class TwoStages:
    """`a` learns first, then both; every stage has its own terms, rates and callbacks."""

    def __init__(self):
        self.updates, self.calls = {}, []
        self.a, self.b = Group("a", {"x": torch.zeros(2)}), Group("b", {"x": torch.zeros(2)})

    def stages(self):
        return [
            Stage("first", 3, {self.a: 0.1}, self.first, Ones(), after_update=self.note("first")),
            Stage("none", 0, {self.a: 9.0}, self.first, Ones()),
            Stage(
                "second",
                2,
                {self.b: 0.2, self.a: 0.01},
                self.second,
                Twos(),
                schedule=linear_decay,
                penalties=lambda: {"size": self.a.tensors["x"].square().sum()},
                measure=lambda: {"b": self.b.tensors["x"].detach().sum()},
                before_update=lambda measured: self.calls.append(("b is", measured["b"])),
                after_update=self.note("second"),
            ),
        ]

    def note(self, name):
        return lambda factor: self.calls.append((name, factor))

    def first(self, batch):
        return {"far": batch * (self.a.tensors["x"] - self.b.tensors["x"] - 1).square().sum()}

    def second(self, batch):
        return {"near": batch * (self.a.tensors["x"] + self.b.tensors["x"]).sum()}

    def state(self):
        return {}

    def load_state(self, _):
        pass


def loop(tmp_path, method=None, **hooks):
    tmp_path.mkdir(exist_ok=True)
    folder = RunFolder(tmp_path, "x")
    settings = config(weight_decay=0.0, max_grad_norm=0.0)
    return Loop(
        method or TwoStages(),
        lambda source: source,
        settings,
        folder,
        torch.device("cpu"),
        Hooks(**hooks),
    )


def test_every_stage_has_its_own_groups_rates_terms_and_callbacks(tmp_path):
    method, seen = TwoStages(), []
    run = loop(tmp_path, method, on_progress=lambda e: seen.append(method.b.flat.detach().clone()))
    run.run()
    rows = run.folder.rows
    assert [row["stage"] for row in rows] == ["first"] * 3 + ["second"] * 2
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["stage_step"] for row in rows] == [1, 2, 3, 1, 2]
    assert all({"far", "lr_a"} <= row.keys() and "lr_b" not in row for row in rows[:3])
    assert all({"near", "size", "lr_a", "lr_b"} <= row.keys() for row in rows[3:])
    assert [row["lr_b"] for row in rows[3:]] == [0.2, 0.1]
    assert all(not value.any() for value in seen[:3])  # b rests
    assert seen[3].all()
    factors = [factor for name, factor in method.calls if name in ("first", "second")]
    assert factors == [1.0, 1.0, 1.0, 1.0, 0.5]
    assert ("b is", 0.0) in method.calls
    assert rows[3]["near"] == pytest.approx(2 * 2 * 0.3, rel=1e-2)  # its own source


def test_a_resting_group_gets_no_gradient(tmp_path):
    method = TwoStages()
    with pytest.raises(Stopped):
        loop(tmp_path, method, should_stop=iter([False, False, True]).__next__).run()
    assert not method.b.grad.any()
    assert not method.b.tensors["x"].requires_grad
    assert method.a.tensors["x"].requires_grad


@pytest.mark.parametrize("step", [1, 3, 4])
def test_the_state_knows_the_stage(tmp_path, step):
    whole = loop(tmp_path / "whole")
    whole.run()
    stops = [False] * step + [True]
    first = loop(tmp_path / "parts", should_stop=iter(stops).__next__)
    with pytest.raises(Stopped, match=f"step {step} of 5"):
        first.run()
    again = loop(tmp_path / "parts")
    state = again.folder.load()
    assert state.facts["stage"] == ("first" if step < 3 else "second")
    again.resume(state)
    again.run()
    for name in ("a", "b"):
        ours, theirs = getattr(again.method, name), getattr(whole.method, name)
        assert torch.equal(ours.flat, theirs.flat)
    assert [row["stage_step"] for row in again.folder.rows] == [1, 2, 3, 1, 2]


# Prior pictures and several subjects


@dataclass(frozen=True, kw_only=True)
class KeepingConfig(CidmConfig):
    """CIDM's, with how prior pictures come."""


class Keeping(Cidm):
    """Learns two things at once and holds the class by prior pictures."""

    name, Config = "keeping", KeepingConfig
    prior, several, how = "optional", True, "paired"
    batches = ()

    def stages(self):
        (stage,) = super().stages()
        return [replace(stage, source=PhotoBatches(prior=type(self).how))]

    def losses(self, batch):
        type(self).batches += (batch,)
        rows = self._rows.live
        found = self._host.predict(batch, rows, False)
        terms = {}
        for name, of in (("denoise", ~batch.is_prior), ("prior", batch.is_prior)):
            if of.any():
                terms[name] = masked_mse(found.value[of], found.target[of], batch.image_masks[of])
        return terms


@pytest.fixture
def keeping(monkeypatch):
    monkeypatch.setitem(METHODS, "keeping", Keeping)
    monkeypatch.setattr(Keeping, "batches", ())
    return Keeping


def others(count=4):
    texts = ["a red dog, far away", ""]
    made = [each.image for each in photos(count, seed=9)]
    return [Photo.from_image(image, texts[i % 2]) for i, image in enumerate(made)]


CAT = TrainingSubject(
    [replace(photo, caption="a cat, sitting") for photo in photos(2, seed=4)], "<cat1>", "cat"
)


def learn(folder, **options):
    given = {"steps": 4, "batch_size": 2, "resolution_px": 32, "variants": 2}
    options = {"method": "keeping", "words": "<dog1> <dog2>", "class_words": "dog", **options}
    options = {"config": TrainConfig(**given), "prior": others(), **options}
    return train_concept(small_base(), Bank(folder), photos(), **options)


def test_paired_prior_pictures_follow_the_photos(tmp_path, keeping):
    events = []
    learn(tmp_path, on_progress=events.append)
    assert [e.step for e in events if e.phase == "preparing"] == list(range(1, 8))
    assert all({"denoise", "prior"} <= set(e.terms) for e in events if e.phase == "learning")
    for batch in keeping.batches:
        assert batch.is_prior.tolist() == [False, False, True, True]
        assert batch.latents.shape[0] == batch.image_masks.shape[0] == len(batch.prompts) == 4
        assert all("<dog1>" in prompt for prompt in batch.prompts[:2])
        for prompt in batch.prompts[2:]:
            # As written; without a caption the class words in a template.
            assert prompt == "a red dog, far away" or prompt.endswith("dog")
            assert "<dog1>" not in prompt


def test_mixed_prior_pictures_are_half_of_all_on_average(tmp_path, keeping, monkeypatch):
    monkeypatch.setattr(keeping, "how", "mixed")
    learn(tmp_path, config=TrainConfig(steps=12, batch_size=4, resolution_px=32, variants=1))
    flags = torch.stack([batch.is_prior for batch in keeping.batches])
    assert flags.shape == (12, 4)
    assert 12 <= flags.sum() <= 36
    assert flags.any(1).sum() > 6
    for batch in keeping.batches:
        for prompt, is_prior in zip(batch.prompts, batch.is_prior.tolist(), strict=True):
            assert ("<dog1>" in prompt) != is_prior


def test_prior_pictures_belong_to_the_run(tmp_path, keeping):
    learn(tmp_path)
    asked = {"words": "<dog1> <dog2>", "class_words": "dog", "method": "keeping"}
    asked["config"] = TrainConfig(steps=4, batch_size=2, resolution_px=32, variants=2)
    bank = Bank(tmp_path)
    assert find_taught(small_base(), bank, photos(), prior=others(), **asked) is not None
    assert find_taught(small_base(), bank, photos(), prior=others(3), **asked) is None
    assert find_taught(small_base(), bank, photos(), **asked) is None
    assert (
        find_taught(small_base(), bank, photos(), prior=others(), subjects=[CAT], **asked) is None
    )


def test_a_stage_that_asks_for_prior_pictures_must_get_some(tmp_path, keeping, monkeypatch):
    with pytest.raises(TrainingError, match="but none were given"):
        learn(tmp_path, prior=())
    monkeypatch.setattr(keeping, "prior", "needed")
    with pytest.raises(TrainingError, match="keeping needs prior pictures"):
        learn(tmp_path, prior=())


def test_several_subjects_are_learned_together(tmp_path, keeping):
    concept = learn(tmp_path, subjects=[CAT])
    assert [subject.words for subject in concept.subjects] == [("<dog1>", "<dog2>"), ("<cat1>",)]
    assert [subject.class_words for subject in concept.subjects] == ["dog", "cat"]
    assert concept.rows["text_encoder"].shape[0] == 3
    assert concept.facts["photos"] == 5
    stored = Bank(tmp_path)[concept.name]
    assert stored.subjects == concept.subjects
    seen = [prompt for batch in keeping.batches for prompt in batch.prompts[:2]]
    assert any("<dog1> <dog2>" in prompt for prompt in seen)
    assert any("<cat1>" in prompt for prompt in seen)


def test_cidm_says_what_it_cannot_teach(tmp_path):
    with pytest.raises(TrainingError, match="cidm teaches one subject at a time, and 2 were given"):
        learn(tmp_path, method="cidm", prior=(), subjects=[CAT])
    with pytest.raises(TrainingError, match="cidm does not learn from prior pictures"):
        learn(tmp_path, method="cidm")
    with pytest.raises(ConceptError, match="No concept words given"):
        learn(tmp_path, method="cidm", prior=(), words=())
