"""Custom Diffusion from photos to pictures, on a small model with random weights."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from learning_samples import photos, same_weights, small_base, weights

from cidm_core.bank import Bank
from cidm_core.cli import FAILED, main
from cidm_core.concept import Subject
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host import inputs
from cidm_core.diffusers_host.base import Base
from cidm_core.diffusers_host.learning import LearningHost
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.diffusers_host.train import train_concept
from cidm_core.errors import ConceptError, TrainingError
from cidm_core.evaluation.prompts import fill, write_back
from cidm_core.methods.base import Task
from cidm_core.methods.batches import Batch
from cidm_core.methods.custom_diffusion import CustomDiffusion, CustomDiffusionConfig
from cidm_core.training.data import Photo, TrainingSubject
from cidm_core.training.presets import presets_of
from cidm_core.updates import FullRank

GIVEN = {"augmentation": "none", "flip_probability": 0.0}
GIVEN |= {"steps": 3, "batch_size": 2, "accumulation": 1, "resolution_px": 32, "variants": 2}
GIVEN |= {"lr": 1e-3, "initializers": "700+701+702", "prior_images": 0}
DRAWN = SampleConfig(steps=3, width_px=32, height_px=32, seed=3)


def settings(**given):
    return CustomDiffusionConfig(**{**GIVEN, **given})


def learn(folder, given=None, **options):
    options = {"words": "<new1>", "class_words": "dog", **options}
    options = {"method": "custom_diffusion", "config": settings(**(given or {})), **options}
    return train_concept(
        small_base(), Bank(folder), options.pop("photos", None) or photos(), **options
    )


def priors(count=3, seed=9):
    made = [each.image for each in photos(count, seed=seed)]
    return [Photo.from_image(image, "a red dog, far away") for image in made]


@pytest.fixture
def prompts(monkeypatch):
    """What the model is asked while it learns."""
    seen = []
    held = LearningHost.predict

    def predict(self, batch, *args, **more):
        seen.extend(batch.prompts)
        return held(self, batch, *args, **more)

    monkeypatch.setattr(LearningHost, "predict", predict)
    return seen


def test_empty_class_words_are_told_before_a_prior_picture_is_drawn(tmp_path):
    more = TrainingSubject(photos(), "<new2>", " ")
    with pytest.raises(TrainingError, match=r"class words of subject 2 are empty\. Say in plain"):
        learn(tmp_path / "a", {"prior_images": 2}, subjects=[more])
    with pytest.raises(TrainingError, match="class words are empty"):
        learn(tmp_path / "a", class_words="")
    assert not (tmp_path / "a").exists()


def test_whole_keys_and_values_and_one_row_are_learned(tmp_path, prompts):
    before = weights(small_base())
    concept = learn(tmp_path)
    same_weights(before, weights(small_base()))
    layers = small_base().layers
    wanted = {f"{layer.path}.{side}" for layer in layers for side in ("to_k", "to_v")}
    assert set(concept.updates) == wanted
    assert all(isinstance(u, FullRank) and u.delta.any() for u in concept.updates.values())
    assert concept.rows["text_encoder"].shape[:2] == (1, 1)
    assert concept.subjects == (Subject(("<new1>",), "dog", "object", modifier=True),)
    assert Bank(tmp_path)[concept.name].subjects == concept.subjects
    # The words stand before the class words.
    assert prompts
    assert all("<new1> dog" in prompt for prompt in prompts)
    assert (concept.phrase, concept.trigger) == ("<new1> dog", "<new1>")
    assert fill("a {} on grass", concept) == "a <new1> dog on grass"
    assert write_back("a <new1> dog on grass", [concept]) == "a dog on grass"


def test_photos_are_resized_and_their_captions_say_so(tmp_path, prompts):
    learn(tmp_path, {"augmentation": "resize", "variants": 12, "steps": 12}, photos=bare())
    assert "photo of a <new1> dog" in prompts
    phrases = {prompt.removesuffix("photo of a <new1> dog") for prompt in prompts} - {""}
    assert phrases
    assert phrases <= {"a far away ", "very small ", "zoomed in ", "close up "}


def bare():
    return [Photo.from_image(photo.image) for photo in photos()]


def test_all_of_cross_attention_learns_if_asked(tmp_path):
    concept = learn(tmp_path, {"trained": "crossattn"})
    assert len(concept.updates) == 4 * len(small_base().layers)
    assert all(update.delta.any() for update in concept.updates.values())
    biases = {path: u.bias for path, u in concept.updates.items() if u.bias is not None}
    assert {path.rpartition("attn2.")[2] for path in biases} == {"to_out.0"}
    assert all(bias.any() for bias in biases.values())
    again = learn(tmp_path, {"trained": "crossattn", "lr": 0.0}, again="go_on")
    assert all(torch.equal(again.updates[path].bias, bias) for path, bias in biases.items())


def test_every_word_learns(tmp_path):
    """With several words the published script left the last one as it was."""
    concept = learn(tmp_path, words="<new1> <new2> <new3>")
    host = LearningHost(small_base(), ())
    begun = host.entries(["700", "701", "702"])["text_encoder"]
    for row, first in zip(concept.rows["text_encoder"], begun, strict=True):
        assert not torch.equal(row[0], first)


def test_without_words_the_class_words_call_it(tmp_path, prompts):
    concept = learn(tmp_path, words="")
    assert (concept.words, concept.phrase, dict(concept.rows)) == ((), "dog", {})
    assert all("dog" in prompt for prompt in prompts)
    base, bank = small_base(), Bank(tmp_path)

    def drawn(prompt, held):
        return generate(base, held, prompt, config=DRAWN)[0].tobytes()

    assert drawn("a photo of a dog", bank) != drawn("a photo of a dog", {})
    assert drawn("a photo of a cat", bank) == drawn("a photo of a cat", {})


def test_the_start_token_teaches_the_weights_nothing(tmp_path):
    """Their gradient, a sum of u_t x_t^T over tokens, has no part along the start token's x."""
    base, host = small_base(), LearningHost(small_base(), ("<new1>",))
    subject = Subject(("<new1>",), "dog", modifier=True)
    task = Task("dog", (subject,), base.family.name, base.fingerprint, base.layers)
    method = CustomDiffusion(task, settings(), [], host)
    path = next(path for path in method.updates if path.endswith("to_v"))
    held = {}
    with host.attached(method.updates):
        base.module(path).register_forward_pre_hook(lambda _, args: held.update(x=args[0]))
        (stage,) = method.stages()
        for group in stage.groups:
            group.learn(True)
        sum(method.losses(batch(base)).values()).backward()
        base.module(path)._forward_pre_hooks.clear()
    gradient, x = method.updates[path].delta.grad, held["x"].detach()
    others = torch.linalg.svd(x[:, 1:].flatten(0, 1), full_matrices=False)
    basis = others.Vh[1e-4 * others.S[0] < others.S]
    start = x[0, 0] - x[0, 0] @ basis.T @ basis
    assert start.norm() > 1e-2 * x[0, 0].norm()  # else there would be nothing to see
    assert (gradient @ start / start.norm()).norm() < 1e-4 * gradient.norm()


def batch(base):
    source = torch.Generator().manual_seed(1)
    side = 32 // base.family.latent_px
    latents = torch.randn(2, base.family.latent_channels, side, side, generator=source)
    return Batch(
        latents=latents,
        noise=torch.randn(latents.shape, generator=source),
        timesteps=torch.tensor([100, 700]),
        prompts=("a photo of a <new1> dog", "a <new1> dog"),
        image_masks=torch.ones(2, side, side),
    )


def test_prior_pictures_mixed_paired_or_none(tmp_path, prompts):
    events = []
    learn(tmp_path / "a", {"steps": 6}, prior=priors(), on_progress=events.append)
    assert all({"denoise", "prior"} <= set(e.terms) for e in events if e.phase == "learning")
    assert 0 < sum("<new1>" not in prompt for prompt in prompts) < len(prompts)
    prompts.clear()
    learn(tmp_path / "b", {"prior_batches": "paired"}, prior=priors())
    assert [("<new1>" in prompt) for prompt in prompts] == [True, True, False, False] * 3


def test_prior_pictures_that_nobody_gave_are_drawn_and_kept(tmp_path, prompts, caplog):
    phases = []
    given = {"prior_images": 2, "prior_batches": "paired"}
    learn(tmp_path, given, on_progress=lambda event: phases.append(event.phase))
    assert list(dict.fromkeys(phases)) == ["drawing", "preparing", "learning"]
    assert any(prompt == "photo of a dog" for prompt in prompts)
    (made,) = (tmp_path / ".prior").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in made.glob("*.png")}
    assert len(before) == 2
    learn(tmp_path, given, words="<b1>")
    assert {path.name: path.stat().st_mtime_ns for path in made.glob("*.png")} == before
    assert "no prior pictures" not in caplog.text
    learn(tmp_path, words="<c1>")
    assert "There are no prior pictures of 'dog'" in caplog.text
    with pytest.raises(TrainingError, match="learned in squares"):
        learn(tmp_path, {**given, "buckets": True}, words="<d1>")


def test_prior_pictures_are_drawn_with_the_whole_model(tmp_path, monkeypatch):
    """Not while Least VRAM has the UNet and the text encoders off the device."""
    told = []

    @contextmanager
    def parked(self, *modules):
        told.append(f"parked {len(modules)}")
        yield

    monkeypatch.setattr(Base, "parked", parked)
    monkeypatch.setattr(inputs, "draw_prior", lambda *_, **__: told.append("drawn") or priors(1))
    learn(tmp_path, {"prior_images": 1, "park_text_encoders": True})
    assert told == ["drawn", "parked 1"]


@pytest.mark.parametrize("norm", ["compvis", "diffusers"])
def test_the_photos_weigh_as_asked(tmp_path, norm):
    events = []
    given = {"steps": 1, "prior_batches": "paired", "mask_norm": norm, "lr": 0.0}
    learn(tmp_path, given, prior=priors(), on_progress=events.append)
    learn(
        tmp_path, {**given, "mask_norm": "compvis"}, words="<b1>", prior=priors(),
        on_progress=events.append,
    )  # fmt: skip
    first, second = (e.terms for e in events if e.phase == "learning")
    channels = small_base().family.latent_channels
    ratio = channels if norm == "diffusers" else 1
    assert first["denoise"] == pytest.approx(ratio * second["denoise"], rel=1e-4)
    assert first["prior"] == pytest.approx(second["prior"], rel=1e-4)


def test_subjects_take_turns_however_many_photos_they_have(tmp_path, prompts):
    held = [replace(photo, caption="a cat, sitting") for photo in photos(1, seed=4)]
    cat = TrainingSubject(held, "<new2>", "cat", prior=priors(2, seed=5))
    concept = learn(tmp_path, {"prior_batches": "paired"}, subjects=[cat], prior=priors())
    assert concept.phrase == "<new1> dog and <new2> cat"
    assert concept.rows["text_encoder"].shape[0] == 2
    assert len(prompts) == 12
    for start in range(0, 12, 4):
        dog, both, *_ = prompts[start : start + 4]
        assert "<new1> dog" in dog
        assert "<new2> cat" in both
    bank, base = Bank(tmp_path), small_base()
    alone = generate(base, bank, "a <new2> cat on a rug", config=DRAWN)[0]
    bare = generate(base, {}, "a cat on a rug", config=DRAWN)[0]
    assert alone.tobytes() != bare.tobytes()


def test_on_sdxl_each_subject_has_its_captions_and_each_word_learns(tmp_path, prompts, xl_base):
    """The published script has one prompt for all photos, and all words begin alike."""
    held = [replace(photo, caption="a cat, sitting") for photo in photos(1, seed=4)]
    cat = TrainingSubject(held, "<new2>", "cat", prior=priors(2, seed=5))
    given = {"resolution_px": 64, "initializers": "700+701", "prior_batches": "paired"}
    concept = train_concept(
        *(xl_base, Bank(tmp_path), photos()),
        words="<new1>",
        class_words="dog",
        method="custom_diffusion",
        config=settings(**given),
        subjects=[cat],
        prior=priors(),
    )
    assert len(prompts) == 12
    for start in range(0, 12, 4):
        dog, both, *prior = prompts[start : start + 4]
        assert "<new1> dog" in dog
        assert "<new2> cat" in both
        assert not any("<new" in text for text in prior)
    for encoder, begun in LearningHost(xl_base, ()).entries(["700", "701"]).items():
        assert not torch.equal(*begun)
        moved = (concept.rows[encoder][:, 0] - begun).abs().amax(1)
        assert (moved > 0).all()


def test_one_goes_on_from_what_it_taught(tmp_path):
    first = learn(tmp_path)
    again = learn(tmp_path, {"lr": 0.0}, again="go_on")
    for path, update in again.updates.items():
        assert torch.equal(update.delta, first.updates[path].delta)
    assert torch.equal(again.rows["text_encoder"], first.rows["text_encoder"])
    with pytest.raises(TrainingError, match="does not change exactly what Custom Diffusion"):
        learn(tmp_path, {"trained": "crossattn"}, again="go_on")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"initializers": " + "}, "Nothing is said of what the words begin as"),
        ({"initializers": "700+42170"}, "The vocabulary has .* entries, and 42170 is none"),
        ({"initializers": "dog+zyxwvut"}, "'zyxwvut' is .* tokens of the text encoder"),
    ],
)
def test_initialisers_are_checked_before_any_work(tmp_path, given, said):
    events = []
    with pytest.raises(ConceptError, match=said):
        learn(tmp_path, given, words="<new1> <new2>", on_progress=events.append)
    assert events == []
    assert list(Bank(tmp_path)) == []


def test_plain_words_begin_as_themselves(tmp_path):
    concept = learn(tmp_path, {"initializers": "dog", "lr": 0.0})
    dog = LearningHost(small_base(), ()).embeddings("dog")["text_encoder"]
    assert torch.equal(concept.rows["text_encoder"][0], dog)


def test_more_words_than_initialisers_take_them_in_turn(tmp_path):
    concept = learn(tmp_path, {"initializers": "700+dog", "lr": 0.0}, words="<a1> <b1> <c1>")
    host = LearningHost(small_base(), ())
    wanted = host.entries(["700", "dog", "700"])["text_encoder"]
    assert torch.equal(concept.rows["text_encoder"][:, 0], wanted)


def test_subjects_that_share_too_few_steps_are_told(tmp_path, caplog):
    held = [replace(photo, caption="a cat") for photo in photos(1, seed=4)]
    learn(tmp_path, subjects=[TrainingSubject(held, "<new2>", "cat")])
    assert "2 subjects share 3 steps; one alone has 300 by default" in caplog.text
    assert "steps at 600" in caplog.text
    caplog.clear()
    learn(tmp_path, words="<new3>")
    assert "subjects share" not in caplog.text


def test_two_subjects_of_the_same_name_are_refused(tmp_path):
    """Nothing could tell their photos apart."""
    other = TrainingSubject(photos(1, seed=4), "", "Dog")
    with pytest.raises(TrainingError, match="both called by 'dog'"):
        learn(tmp_path, words="", subjects=[other])


def test_what_is_said_of_photos_that_are_not_given_is_refused(tmp_path, capsys):
    words = ["train", "--bank", str(tmp_path), "--method", "custom_diffusion", "--subjects", "s"]
    for flag in ("--words", "--class-words", "--captions", "--masks", "--prior"):
        assert main([*words, flag, "x"]) == FAILED
        assert f"{flag} is about --photos, which are not given" in capsys.readouterr().err


def test_recipes_give_steps_and_rates():
    found = {r: CustomDiffusionConfig(recipe=r) for r in ("single", "style", "face", "joint")}
    assert [c.augmentation for c in found.values()] == ["resize", "resize", "none", "resize"]
    assert [(c.steps, c.lr) for c in found.values()] == [
        *((250, 8e-5), (250, 8e-5)),
        *((750, 4e-5), (500, 8e-5)),
    ]
    assert all(config.batch_size * config.accumulation == 8 for config in found.values())
    assert CustomDiffusionConfig(recipe="face", lr=1e-4).steps == 750
    for name, values in presets_of(CustomDiffusionConfig).items():
        config = CustomDiffusionConfig(**values)
        assert config.batch_size * config.accumulation == (16 if name == "best" else 8)


def test_weight_decay_pulls_to_the_base_model(tmp_path):
    """AdamW's first step is at most the rate; weights decayed whole would move by themselves."""
    concept = learn(tmp_path, {"steps": 1, "lr": 1.0, "weight_decay": 1.0})
    for path, update in concept.updates.items():
        whole = small_base().module(path).weight
        assert update.delta.abs().max() <= 1.001
        assert (update.delta + whole).abs().max() > 1.001


def test_the_command_line_learns_by_it(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    photos()[0].image.save(folder / "1.png")
    words = ["train", "--bank", str(tmp_path / "b"), "--photos", str(folder), "--json"]
    words += ["--method", "custom_diffusion", "--words", "<new1>", "--class-words", "cat"]
    rows = [{"photos": str(folder), "words": "<new2>", "class_words": "dog"}]
    (tmp_path / "more.json").write_text(json.dumps(rows))
    words += ["--subjects", str(tmp_path / "more.json")]
    words += ["--steps", "2", "--batch-size", "1", "--device", "cpu", "--prior-images", "1"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["method"], told["words"]) == ("custom_diffusion", ["<new1>", "<new2>"])
    assert told["config"]["initializers"] == "1259+1235+1132"
