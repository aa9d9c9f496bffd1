"""What every method can be told of its photos: resizing, mirroring, plain captions."""

from dataclasses import replace

import pytest
import torch
from learning_samples import config, learn, photos, small_base

from cidm_core.bank import Bank
from cidm_core.diffusers_host.cache import cache_latents
from cidm_core.diffusers_host.inputs import opened
from cidm_core.diffusers_host.job import prepare
from cidm_core.diffusers_host.learning import LearningHost
from cidm_core.errors import BankError, TrainingError
from cidm_core.methods import METHODS
from cidm_core.methods.batches import PhotoBatches
from cidm_core.methods.cidm import Cidm
from cidm_core.methods.custom_diffusion import CustomDiffusionConfig
from cidm_core.training.data import Photo, TrainingSubject
from cidm_core.training.lesson import Lesson
from cidm_core.training.processes import Alone
from cidm_core.training.progress import Hooks
from cidm_core.training.views import FAR, NEAR

PHRASES = (*FAR, *NEAR)


class Watched(Cidm):
    """CIDM that could take prior pictures."""

    prior = "optional"


@pytest.fixture
def batches(monkeypatch, tmp_path):
    """What would be learned from: batches of two photos and two prior pictures."""
    monkeypatch.setitem(METHODS, "watched", Watched)

    def drawn(taught=None, prior=None, **given):
        settings = config(steps=8, batch_size=2, variants=8, **given)
        subject = TrainingSubject(taught or photos(), "<dog1> <dog2>", "dog")
        subject = replace(subject, prior=prior or photos(2, seed=5))
        lesson = Lesson.of([subject], "watched", settings)
        base = small_base()
        job = prepare(base, Bank(tmp_path), lesson, None, "refuse", Alone())
        host = LearningHost(base, job.task.words, job.task.phrases)
        sources = opened(job, host, Hooks(), (), None)
        source = sources.open(PhotoBatches(prior="paired"))
        return [source.batch(index) for index in range(8)]

    return drawn


def test_resized_photos_say_so_and_prior_pictures_stay_as_they_are(batches):
    prior = [Photo.from_image(photo.image, "a dog, asleep") for photo in photos(2, seed=5)]
    seen = batches(prior=prior, augmentation="resize")
    prompts = [prompt for batch in seen for prompt in batch.prompts[:2]]
    said = {phrase for phrase in PHRASES for prompt in prompts if prompt.startswith(phrase)}
    assert said & set(FAR)
    assert said & set(NEAR)
    assert not all(prompt.startswith(PHRASES) for prompt in prompts)
    for batch in seen:
        for prompt, mask in zip(batch.prompts, batch.image_masks, strict=True):
            assert mask.any()
            assert bool((mask == 0).any()) == prompt.startswith(FAR)
        assert batch.prompts[2:] == ("a dog, asleep",) * 2
        assert (batch.image_masks[2:] == 1).all()


def test_nothing_is_drawn_otherwise_for_phrases_and_mirrors(batches):
    plain = batches(augmentation="none")
    mirrored = batches(augmentation="none", flip_probability=1.0)
    for one, other in zip(plain, mirrored, strict=True):
        assert torch.equal(one.noise, other.noise)
        assert one.prompts == other.prompts
        assert not torch.equal(one.latents, other.latents)  # prior pictures, too
        assert not torch.equal(one.latents[2:], other.latents[2:])


def test_concept_masks_follow_resized_photos():
    settings = config(variants=12, steps=99, augmentation="resize")
    cache = cache_latents(small_base(), photos(1, size=(32, 32), masks=True), settings, 32)
    kinds = {}
    for phrase, mask, concept in zip(
        cache.phrases[0], cache.image_masks[0], cache.concept_masks[0], strict=True
    ):
        assert concept.any()
        assert (concept <= mask).all()
        kinds.setdefault(phrase in FAR, []).append(concept)
    assert kinds.keys() == {True, False}
    assert max(each.sum() for each in kinds[True]) < max(each.sum() for each in kinds[False])


def test_plain_captions_are_as_written_and_bare_words_have_one_template(batches):
    taught = [
        replace(photo, caption=text)
        for photo, text in zip(photos(), ("a dog, on grass, asleep", "", "A dog"), strict=True)
    ]
    prior = [
        replace(photo, caption=text) for photo, text in zip(photos(2), ("", "a cat"), strict=True)
    ]
    seen = batches(taught, prior, templates="plain")
    own = {prompt for batch in seen for prompt in batch.prompts[:2]}
    name = "<dog1> <dog2>"
    assert own == {f"a {name}, on grass, asleep", f"photo of a {name}", f"a {name}"}
    assert {p for batch in seen for p in batch.prompts[2:]} == {"photo of a dog", "a cat"}
    varied = batches(taught, prior)
    assert not {prompt for batch in varied for prompt in batch.prompts[:2]} <= own


def test_phrases_go_before_plain_captions(batches):
    taught = [replace(photo, caption="") for photo in photos()]
    seen = batches(taught, templates="plain", augmentation="resize")
    prompts = {prompt for batch in seen for prompt in batch.prompts[:2]}
    assert prompts <= {f"{phrase}photo of a <dog1> <dog2>" for phrase in ("", *PHRASES)}
    assert len(prompts) >= 3


def test_the_template_goes_around_what_calls_each_subject():
    """The class words of one without words; a method can keep them behind the words."""
    taught = [replace(photo, caption=text) for photo in photos(1) for text in ("", "moongate")]
    subject = TrainingSubject(taught, (), "moongate", "style")
    bare = [replace(photo, caption="") for photo in photos(1)]
    cat = TrainingSubject(bare, "<new1>", "cat", prior=bare)
    lesson = Lesson.of([subject, cat], "custom_diffusion", CustomDiffusionConfig(templates="plain"))
    own, prior = (lesson.templated(each) for each in lesson.photo_sets())
    style, of_cat = "painting in the style of moongate", "photo of a <new1> cat"
    assert [photo.caption for photo in own] == [style, style, of_cat]
    assert [photo.caption for photo in prior] == ["photo of a cat"]
    assert {photo.kind for photo in own} == {""}


def test_other_templates_are_another_setting_and_no_other_captions(tmp_path):
    learn(tmp_path, given={"steps": 1, "templates": "plain"})
    with pytest.raises(BankError, match=r"What differs: templates plain, now varied\. To teach"):
        learn(tmp_path, given={"steps": 1})


def test_resized_photos_are_learned_in_squares(tmp_path):
    given = config(augmentation="resize", buckets=True)
    with pytest.raises(TrainingError, match="Leave `buckets` off, or set `augmentation`"):
        learn(tmp_path, config=given)


def test_centre_squares_that_are_alike_are_encoded_once(monkeypatch):
    base, calls = small_base(), []
    encode = base.vae.encode
    monkeypatch.setattr(base.vae, "encode", lambda x: calls.append(len(x)) or encode(x))
    for chance, count in ((0.0, 2), (0.5, 4)):
        settings = config(variants=16, steps=99, augmentation="none", flip_probability=chance)
        cache = cache_latents(base, photos(2), settings, 32)
        assert sum(calls) == count
        assert all(mask.all() for mask in cache.image_masks)
        calls.clear()
