"""Infusion from photos to concepts: what learns, what a file holds, its commands."""

import json
import logging
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from infused import counted_rows, drawing, frozen_rows, infused, plan_of
from learning_samples import photos, same_weights, small_base, weights
from PIL import Image

from cidm_core.bank import Bank
from cidm_core.cli import main
from cidm_core.concept import Subject
from cidm_core.diffusers_host.learning import LearningHost
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.diffusers_host.train import train_concept
from cidm_core.errors import (
    BankError,
    ConceptError,
    PhotoError,
    PromptError,
    TrainingError,
)
from cidm_core.families import FAMILIES
from cidm_core.methods.base import Task
from cidm_core.methods.infusion import Infusion, InfusionConfig
from cidm_core.sampling.layer_updates import baked
from cidm_core.training.data import Photo
from cidm_core.training.loop import Stopped
from cidm_core.training.presets import presets_of
from cidm_core.updates import ValueResidual

GIVEN = {"steps": 4, "batch_size": 2, "accumulation": 1, "resolution_px": 32, "variants": 2}


def settings(**given):
    return InfusionConfig(**{**GIVEN, **given})


def learn(folder, given=None, base=None, **options):
    options = {"class_words": "dog", "method": "infusion", "name": "my_dog", **options}
    options["config"] = settings(**(given or {}))
    taught = options.pop("photos", None) or photos(masks=True)
    return train_concept(base or small_base(), Bank(folder), taught, **options)


@pytest.fixture
def calls(monkeypatch):
    """Rows of every call of the UNet."""
    return counted_rows(small_base().unet, monkeypatch)


@pytest.fixture(scope="module")
def cat():
    return infused(small_base(), "my_cat")


@pytest.fixture(scope="module")
def base():
    return small_base()


# What learns


def test_only_values_at_the_class_words_are_learned(tmp_path, base):
    before = weights(base)
    concept = learn(tmp_path)
    same_weights(before, weights(base))
    assert (concept.method, concept.words, concept.rows) == ("infusion", (), {})
    assert (concept.two_streams, concept.last_piece) == (True, True)
    assert list(concept.updates) == [f"{layer.path}.to_v" for layer in base.layers]
    assert all(isinstance(each, ValueResidual) for each in concept.updates.values())
    assert all(each.vector.abs().max() > 0 for each in concept.updates.values())


class Asked:
    """A host that only tells embeddings."""

    device = torch.device("cpu")

    def embeddings(self, text):
        return {"text_encoder": torch.ones(len(text.split()), 768)}


@pytest.mark.parametrize(
    ("given", "count", "values"),
    [
        ({}, 16, 12_480),
        ({"variant": "released"}, 32, 24_960),
        ({"layers": "no_mid"}, 15, 11_200),
        ({"layers": "up"}, 9, 6_720),
    ],
)
def test_the_vectors_of_sd15(given, count, values):
    family = FAMILIES["SD15"]
    subjects = (Subject((), "cat", on_request=True),)
    task = Task("my_cat", subjects, "SD15", "base", family.layers)
    method = Infusion(task, InfusionConfig(**given), (), Asked())
    assert len(method.updates) == count
    assert sum(u.vector.numel() for u in method.updates.values()) == values
    (stage,) = method.stages()
    assert {g.name: rate for g, rate in stage.groups.items()} == {"residuals": 0.01}
    assert all(not u.vector.any() for u in method.updates.values())
    assert method.result({}).two_streams == ("variant" not in given)


@pytest.mark.parametrize(("variant", "sides"), [("paper", 1), ("released", 2)])
def test_gradients_reach_these_vectors_and_nothing_else(tmp_path, base, variant, sides):
    concept = learn(tmp_path, {"variant": variant, "steps": 1})
    assert len(concept.updates) == sides * len(base.layers)
    assert all(u.vector.any() for u in concept.updates.values())
    assert not any(p.requires_grad and p.grad is not None for p in base.unet.parameters())


def test_learning_runs_the_model_once_more_without_gradients(tmp_path, calls):
    learn(tmp_path, {"steps": 2})
    assert calls == [2, 2] * 2
    calls.clear()
    learn(tmp_path / "b", {"steps": 2, "variant": "released"})
    assert calls == [2] * 2


def test_recipes_and_presets_keep_sixteen_pictures_a_step():
    quick = InfusionConfig(recipe="quick")
    assert (quick.steps, quick.lr) == (400, 0.03)
    usual = InfusionConfig()
    assert (usual.steps, usual.lr, usual.weight_decay) == (500, 0.01, 0.01)
    for name, values in presets_of(InfusionConfig).items():
        config = InfusionConfig(**values)
        pictures = config.batch_size * config.accumulation
        assert pictures == (32 if name == "best" else 16), name


def test_captions_are_of_few_words(tmp_path, monkeypatch):
    seen, held = [], LearningHost.predict

    def predict(self, batch, *args, **more):
        seen.extend(batch.prompts)
        return held(self, batch, *args, **more)

    monkeypatch.setattr(LearningHost, "predict", predict)
    bare = [Photo.from_image(each.image, "", each.mask) for each in photos(masks=True)]
    learn(tmp_path, {"steps": 20}, photos=bare)
    assert {"dog", "A dog shown in a photo", "a good photo of a dog"} <= set(seen)
    assert len(set(seen)) <= 11


def test_a_run_goes_on_to_the_same_bits(tmp_path):
    whole, count = learn(tmp_path / "a"), iter(range(100))
    with pytest.raises(Stopped):
        learn(tmp_path / "b", should_stop=lambda: next(count) - len(photos()) >= 2)
    steps = []
    told = lambda e: steps.append(e.step) if e.phase == "learning" else None  # noqa: E731
    again = learn(tmp_path / "b", on_progress=told)
    assert steps == [3, 4]
    for path, update in whole.updates.items():
        assert torch.equal(again.updates[path].vector, update.vector), path


def test_learning_goes_on_from_a_taught_look(tmp_path):
    first = learn(tmp_path)
    with pytest.raises(BankError, match=r"'dog' are those of concept 'my_dog'.*another name"):
        learn(tmp_path, {"steps": 1})
    other = learn(tmp_path, {"steps": 1}, name="her_dog")
    assert (other.name, len(Bank(tmp_path))) == ("her_dog", 2)
    further = learn(tmp_path, {"steps": 1}, again="go_on")
    assert further.name == "my_dog"
    path = next(iter(first.updates))
    moved = (further.updates[path].vector - first.updates[path].vector).abs().max()
    assert 0 < moved < 0.03
    with pytest.raises(TrainingError, match="does not change what Infusion learns with"):
        learn(tmp_path, {"variant": "released"}, again="go_on")


def test_photos_without_masks_are_told_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        learn(tmp_path, {"steps": 1}, photos=photos())
    assert "3 of 3 photos have no mask: all that is in them is learned" in caplog.text
    caplog.clear()
    learn(tmp_path, {"steps": 1}, name="b")
    assert "mask" not in caplog.text


def test_bad_masks_and_captions_are_refused(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    photos()[0].image.save(folder / "rex.png")
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(folder / "rex_mask.png")
    with pytest.raises(PhotoError, match=r"rex_mask\.png' is black everywhere"):
        Photo.from_folder(folder)
    Image.fromarray(np.full((32, 90), 255, np.uint8)).save(folder / "rex_mask.png")
    with pytest.raises(PhotoError, match=r"rex_mask\.png' is 90 x 32 px"):
        Photo.from_folder(folder)
    long = Photo.from_image(photos()[0].image, "a photo of " + "grass " * 60 + "with a dog")
    with pytest.raises(PromptError, match="'dog' lies beyond the 46 tokens"):
        learn(tmp_path / "b", photos=[long])


# Words


def test_words_stand_for_the_tokens_of_the_class_words(tmp_path, base):
    concept = learn(tmp_path, words="<rex>")
    assert concept.names == (("<rex>",),)
    assert torch.equal(concept.rows["text_encoder"], frozen_rows(base, "dog")["text_encoder"])
    plan = plan_of(base, Bank(tmp_path), "a photo of a <rex>")
    plain = plan_of(base, {}, "a photo of a dog")
    torch.testing.assert_close(plan.slots[1].text.states, plain.slots[1].text.states)
    assert len(plan.arranged("both")[0].rows) == 3
    assert len(plan_of(base, Bank(tmp_path), "a photo of a dog").concepts) == 0


def test_as_many_words_as_tokens_are_needed(tmp_path, base):
    tokens = base.tokenizers[0]("dog", add_special_tokens=False).input_ids
    said = rf"token of 'dog'. .* reads it as {len(tokens)}, and the words are 3: '<a> <b> <c>'"
    with pytest.raises(ConceptError, match=said):
        learn(tmp_path, words="<a> <b> <c>")


# The file


def test_a_file_gives_back_what_was_learned(tmp_path):
    for given in ({}, {"variant": "released", "pieces": "all"}):
        concept = learn(tmp_path, {**given, "steps": 1}, name=f"dog{len(given)}")
        read = Bank(tmp_path)[concept.name]
        assert (read.two_streams, read.last_piece) == (not given, not given)
        assert read.subjects == (Subject((), "dog", on_request=True),)
        for path, update in concept.updates.items():
            assert read.updates[path].vector.dtype == torch.float16
            assert torch.equal(read.updates[path].vector, update.vector)
        entry = Bank(tmp_path).entries()[-1]
        assert (entry.two_streams, entry.names, entry.on_request) == (not given, (), True)


def test_the_file_of_sd15_has_25_kb_of_numbers(tmp_path, tiny_base):
    family = FAMILIES["SD15"]
    updates = {
        f"{at.path}.to_v": ValueResidual(torch.ones(at.width).half()) for at in family.layers
    }
    concept = infused(tiny_base, "my_cat", updates=updates)
    concept = replace(concept, layers=tuple(layer.path for layer in family.layers))
    Bank(tmp_path).add(concept)
    size = os.path.getsize(tmp_path / "my_cat.safetensors")
    assert sum(u.vector.nbytes for u in updates.values()) == 24_960
    assert 25_000 < size < 36_000


def test_it_stays_out_of_weights(tmp_path, cat, base):
    plan = plan_of(base, {"my_cat": cat}, "a cat", infuse="my_cat")
    with pytest.raises(ConceptError, match="act at single words of the prompt"):
        baked(plan.concepts, plan.slots[1], plan.layers, plan.config)
    bank = Bank(tmp_path)
    bank.add(cat)
    with pytest.raises(BankError, match="no weights that a LoRA can hold"):
        bank.export("my_cat", tmp_path / "lora" / "cat.safetensors")


def test_sdxl_learns_and_draws_it(tmp_path, xl_base):
    given = {"steps": 1, "batch_size": 1, "resolution_px": 64}
    concept = learn(tmp_path, given, xl_base, photos=photos(1, masks=True), words="<rex>")
    assert len(concept.updates) == len(xl_base.layers)
    assert set(concept.rows) == {"text_encoder", "text_encoder_2"}
    generate(xl_base, Bank(tmp_path), "a <rex>", config=drawing(steps=1))
    named = infused(xl_base, "my_cat")
    plan = plan_of(xl_base, {"my_cat": named}, "a cat", infuse="my_cat")
    assert len(plan.arranged("both")[0].rows) == 3


# Commands


def test_the_command_line_learns_and_draws_it(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, photo in enumerate(photos(2)):
        photo.image.save(folder / f"{number}.png")
    bank = str(tmp_path / "b")
    words = ["train", "--bank", bank, "--photos", str(folder), "--method", "infusion"]
    words += ["--class-words", "cat", "--name", "my_cat", "--steps", "1", "--batch-size", "1"]
    assert main([*words, "--accumulation", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "--infuse my_cat" in said.err + said.out
    draw = ["generate", "--bank", bank, "--steps", "1", "--device", "cpu"]
    draw += ["--prompt", "a cat and a kitten", "--out", str(tmp_path / "cat.png"), "--json"]
    assert main([*draw, "--infuse", "my_cat", "--infuse", "kitten=my_cat"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["concepts"] == ["my_cat"]
    assert told["settings"]["infuse"] == "my_cat, kitten=my_cat"
    assert main([*draw, "--infuse", "dog=my_cat"]) == 1
    assert "where 'dog' stands" in capsys.readouterr().err
