"""CLIF from photos with masks to a concept, and contrast before other methods, on small models."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from contrasted import clip_for, contrast_for, settings, things
from learning_samples import config as cidm_settings
from learning_samples import photos, same_concept, same_weights, small_base, weights
from safetensors.torch import load

from cidm_core.bank import Bank
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.clip import load_clip
from cidm_core.diffusers_host.composites import Contrast, named_otherwise
from cidm_core.diffusers_host.contrast import load_contrast_clip, text_features
from cidm_core.diffusers_host.learning import LearningHost
from cidm_core.diffusers_host.load import load_base
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.diffusers_host.train import train_concept
from cidm_core.errors import ConceptError, FamilyError, PhotoError, PromptError, TrainingError
from cidm_core.methods.contrast import WordContrast
from cidm_core.methods.custom_diffusion import CustomDiffusionConfig
from cidm_core.storage import tensor_file
from cidm_core.training.data import TrainingSubject
from cidm_core.training.loop import Stopped
from cidm_core.updates import LowRank

CAT = TrainingSubject(photos(masks=True, seed=7), "<cat1> <cat2>", "dog")
DRAWN = SampleConfig(steps=2, width_px=32, height_px=32, seed=3)


def learn(folder, given=None, *, base=None, **options):
    base = base or small_base()
    options = {"words": "<dog1> <dog2>", "class_words": "dog", "method": "clif", **options}
    options = {"subjects": [CAT], "contrast": contrast_for(base), **options}
    taught = options.pop("photos", None) or photos(masks=True)
    options = {"config": settings(**(given or {})), **options}
    return train_concept(base, Bank(folder), taught, **options)


def losses(folder):
    (run,) = (folder / ".runs").iterdir()
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def texts(monkeypatch):
    """What CLIP reads while words learn."""
    said = []

    def spied(self, prompts, words, *, at_last_word=False):
        said.append((tuple(prompts), tuple(words), at_last_word))
        return features(self, prompts, words, at_last_word=at_last_word)

    features = LearningHost.text_features
    monkeypatch.setattr(LearningHost, "text_features", spied)
    return said


def test_three_stages_teach_words_and_attention(tmp_path):
    before = weights(small_base())
    concept = learn(tmp_path)
    same_weights(before, weights(small_base()))
    assert [subject.words for subject in concept.subjects] == [
        ("<dog1>", "<dog2>"),
        ("<cat1>", "<cat2>"),
    ]
    assert {name: rows.shape for name, rows in concept.rows.items()} == {
        "text_encoder": (4, 1, 128)
    }
    blocks = [layer.path.removesuffix("attn2") for layer in small_base().layers]
    sides = ("to_q", "to_k", "to_v", "to_out.0")
    wanted = {f"{block}attn{n}.{side}" for block in blocks for n in (1, 2) for side in sides}
    assert set(concept.updates) == wanted
    assert all(isinstance(u, LowRank) and u.rank == 2 for u in concept.updates.values())
    assert all(u.alpha == 2 and u.up.abs().max() > 0 for u in concept.updates.values())
    stages = [row["stage"] for row in losses(tmp_path)]
    assert stages == ["contrast"] * 3 + ["words"] * 2 + ["weights"] * 2
    (run,) = (tmp_path / ".runs").iterdir()
    kept = json.loads((run / "contrast.json").read_text())
    assert kept["names"] == ["<dog1> <dog2>", "<cat1> <cat2>", "dog"]
    assert (run / "contrast.png").stat().st_size > 3000
    assert concept.facts["contrast"]["before"]["cosine"] == pytest.approx(1)  # they begin alike
    assert concept.facts["contrast"]["after"]["cosine"] < 0.999
    bank = {concept.name: concept}
    drawn = generate(small_base(), bank, "a <dog1> <dog2> and a <cat1> <cat2>", config=DRAWN)
    plain = generate(small_base(), {}, "a dog", config=DRAWN)
    assert drawn[0].size == (32, 32)
    assert drawn[0].tobytes() != plain[0].tobytes()


def test_the_contrast_moves_the_first_encoders_rows_alone(tmp_path, xl_base):
    """Rows of the second encoder wait for textual inversion; no layer's weights move at all."""
    given = {"stages": "contrast", "resolution_px": 64}
    first = learn(tmp_path / "a", {**given, "contrast_steps": 1, "lr_contrast": 0.0}, base=xl_base)
    taught = learn(tmp_path / "b", given, base=xl_base)
    assert torch.equal(first.rows["text_encoder_2"], taught.rows["text_encoder_2"])
    assert not torch.equal(first.rows["text_encoder"], taught.rows["text_encoder"])
    assert taught.updates == {}
    inverted = learn(tmp_path / "c", {**given, "stages": "words", "word_steps": 1}, base=xl_base)
    for encoder, rows in first.rows.items():
        assert not torch.equal(rows, inverted.rows[encoder]), encoder
    assert inverted.updates == {}


@pytest.mark.parametrize("at", [2, 4, 6])  # within the contrast, the words, the weights
def test_a_run_stopped_in_any_stage_goes_on_to_the_same_bits(tmp_path, at):
    whole = learn(tmp_path / "whole")
    done = []

    def stop():
        return len(done) >= at

    def hear(progress):
        if progress.phase == "learning":
            done.append(progress.step)

    with pytest.raises(Stopped):
        learn(tmp_path / "parts", on_progress=hear, should_stop=stop)
    assert not list((tmp_path / "parts").glob("*.safetensors"))
    going_on = learn(tmp_path / "parts")
    same_concept(whole, going_on)
    assert going_on.facts["contrast"] == whole.facts["contrast"]


def test_words_of_the_bank_and_class_words_are_negatives(tmp_path, texts):
    cidm = {"method": "cidm", "subjects": (), "contrast": None}
    learn(tmp_path, words="<old1> <old2>", config=cidm_settings(steps=1), **cidm)
    given = {"contrast": True, "contrast_steps": 2}
    asked = {**cidm, "contrast": contrast_for(small_base())}
    texts.clear()
    learn(tmp_path, words="<new1> <new2>", config=cidm_settings(steps=1, **given), **asked)
    said = [prompt for prompts, _, _ in texts for prompt in prompts]
    wrong = [text for text in said if "<new1>" not in text and "left" in text]
    assert any("<old1> <old2>" in text for text in wrong)
    assert any("dog on the" in text for text in wrong)
    assert all({"<old1>", "<old2>", "<new1>"} <= set(words) for _, words, _ in texts)


def test_layers_of_a_word_learn_alike_by_contrast(tmp_path):
    """CIDM's word has a row for each layer: all begin alike, and the contrast keeps them so."""
    given = {"contrast": True, "contrast_steps": 3, "steps": 1, "lr_tokens": 0.0, "lr_lora": 0.0}
    given |= {"token_layers": "layer", "lr_contrast": 1e-2}
    options = {"method": "cidm", "subjects": ()}
    found = learn(tmp_path, config=cidm_settings(**given), **options).rows["text_encoder"]
    assert found.shape[1] == len(small_base().layers)
    assert torch.allclose(found, found[:, :1].expand_as(found), atol=1e-6)
    quiet = cidm_settings(**{**given, "lr_contrast": 0.0})
    still = learn(tmp_path, words="<s1> <s2>", config=quiet, **options).rows["text_encoder"]
    assert not torch.allclose(found, still, atol=1e-3)


def test_custom_diffusion_learns_after_a_contrast(tmp_path):
    given = {"steps": 1, "batch_size": 1, "accumulation": 1, "resolution_px": 32, "variants": 2}
    given |= {"contrast": True, "contrast_steps": 2, "prior_images": 0, "initializers": "700+701"}
    config = CustomDiffusionConfig(**given)
    learn(tmp_path, words="<new1>", method="custom_diffusion", subjects=(), config=config)
    assert [row["stage"] for row in losses(tmp_path)] == ["contrast", "contrast", "subjects"]


def test_no_contrast_unless_it_is_asked_for(tmp_path, caplog):
    options = {"method": "cidm", "subjects": (), "config": cidm_settings(steps=1)}
    with caplog.at_level(logging.WARNING):
        learn(tmp_path, **options)
    assert "these settings ask for no contrast" in caplog.text
    assert [row["stage"] for row in losses(tmp_path)] == ["concept"]
    assert not (tmp_path / ".composites").exists()


@pytest.mark.parametrize("reading", ["clip", "released"])
def test_readings_of_the_contrast(tmp_path, texts, reading):
    learn(tmp_path, {"stages": "contrast", "contrast_loss": reading})
    assert {at_last for _, _, at_last in texts[:2]} == {reading == "released"}


def test_texts_are_read_at_their_end_or_at_the_last_added_word():
    base, words = small_base(), {name: torch.randn(128) for name in ("<a>", "<b>")}
    clip = clip_for(base)
    texts = ["<b> beside <a> here", "only <a> here", "nothing of it"]
    ends = text_features(base, clip, texts, words)
    last = text_features(base, clip, texts, words, ("<a>", "<b>"))
    assert not torch.allclose(ends[:2], last[:2])
    assert torch.allclose(ends[2], last[2], atol=1e-5)
    cut = text_features(base, clip, ["<b>", "only <a>"], words, ("<a>", "<b>"))
    assert torch.allclose(last[:2], cut, atol=1e-4)  # the encoder is causal


def test_a_base_reads_texts_as_its_own_clip_does():
    texts = ["a photo of a cat on the left and a boat on the right", "a red car"]
    found = text_features(load_base("mini-sdxl"), load_contrast_clip("mini-clip"), texts, {})
    assert torch.allclose(found, load_clip("mini-clip").texts(texts), atol=1e-4)


def test_a_clip_of_another_training_is_told(caplog):
    """Of the right width, as LAION's ViT-L/14 beside OpenAI's."""
    base = load_base("mini-sdxl")
    own = load_contrast_clip("mini-clip")
    shaken = own.entries + 0.3 * own.entries.std() * torch.randn(own.entries.shape)
    for entries in (own.entries, shaken, None):
        replace(own, entries=entries).tell_if_other(base)
    assert not caplog.text
    other = own.entries[torch.randperm(len(own.entries), generator=torch.Generator())]
    replace(own, entries=other).tell_if_other(base)
    assert "does not come from this CLIP: their vocabularies are alike by 0." in caplog.text


def test_a_caption_with_other_names():
    found = named_otherwise("<a1> <a2> and a <b1>", ["<a1> <a2>", "<b1>"], ["<a1> <a2>", "cat"])
    assert found == ["<a1> <a2> and a <b1>", "cat and a <b1>", *found[2:]]
    assert set(found[2:]) == {"<a1> <a2> and a <a1> <a2>", "<a1> <a2> and a cat"}


def test_learning_goes_on_from_a_taught_concept(tmp_path):
    first = learn(tmp_path)
    more = {"stages": "weights", "steps": 1, "lr": 0.0}
    again = learn(tmp_path, more, again="go_on", contrast=None)
    same_concept(first, again)
    with pytest.raises(TrainingError, match=r"LoRAs of rank 3 .* Give the rank it has"):
        learn(tmp_path, {"rank": 3}, again="go_on")


def test_min_snr_changes_what_is_learned(tmp_path):
    given = {"stages": "weights"}
    plain = learn(tmp_path / "a", given, contrast=None)
    weighed = learn(tmp_path / "b", {**given, "snr_gamma": 0.05}, contrast=None)
    first, second = (losses(tmp_path / name)[0]["loss"] for name in "ab")
    assert second < first
    path = next(iter(plain.updates))
    assert not torch.equal(plain.updates[path].up, weighed.updates[path].up)


WRONG = {
    "no CLIP": ({}, {"contrast": None}, TrainingError, r"OpenAI's ViT-L/14 .*--clip"),
    "no masks": ({}, {"photos": photos()}, PhotoError, "there is no mask of photo 1"),
    "no words": ({}, {"words": ""}, ConceptError, "There are no words of subject 1"),
    "stage": ({"stages": "words+colour"}, {}, TrainingError, "stages is 'words.colour'. Join some"),
    "no stage": ({"stages": "+"}, {}, TrainingError, "Join some of contrast, words, weights"),
    "rule": ({"word_rule": "1:x,2"}, {}, TrainingError, "The rule '1:x,2' cannot be read"),
    "initialiser": ({"initializers": "dog+house boat"}, {}, ConceptError, "is 2 tokens|single|one"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_told_before_anything_is_learned(tmp_path, case):
    given, options, error, said = WRONG[case]
    with pytest.raises(error, match=said):
        learn(tmp_path, given, **options)
    assert not list(tmp_path.glob("*.safetensors"))
    assert not any(tmp_path.rglob("log.jsonl"))


def test_words_that_no_encoder_reads_are_told_before_photos_are_encoded(tmp_path):
    base, heard = small_base(), []
    far = [replace(each, label=" ".join(["very"] * 70)) for each in things()]
    with pytest.raises(PromptError, match=r"Concept word .* Move it nearer to the start"):
        learn(
            tmp_path,
            contrast=Contrast(clip_for(base), far),
            base=base,
            on_progress=lambda p: heard.append(p.phase),
        )
    assert set(heard) == {"composing"}


def test_a_clip_of_another_width_is_refused(tmp_path):
    other = Contrast(clip_for(small_base(), width=64), things())
    with pytest.raises(FamilyError, match=r"texts of width 64, .* has 128. Give the CLIP it comes"):
        learn(tmp_path, contrast=other)
    assert not tmp_path.joinpath(".runs").exists()


def test_one_subject_learns_without_meetings(tmp_path):
    concept = learn(tmp_path, subjects=())
    assert len(concept.subjects) == 1
    folder = next((tmp_path / ".composites").iterdir())
    assert not list(folder.glob("meeting*"))
    only = {"global_pairs": 0, "region_pairs": 0}
    both = learn(
        tmp_path,
        only,
        words="<m1> <m2>",
        subjects=[TrainingSubject(photos(masks=True, seed=3), "<n1> <n2>", "dog")],
        contrast=Contrast(clip_for(small_base())),
    )
    assert len(both.subjects) == 2


def test_clip_leaves_once_all_composites_are_seen(tmp_path):
    left = []
    clip = replace(clip_for(small_base()), leave=lambda: left.append(len(list(seen_at(tmp_path)))))
    learn(tmp_path, {"stages": "contrast"}, contrast=Contrast(clip, things()))
    assert left == [len(list(seen_at(tmp_path)))]


def seen_at(folder):
    return folder.glob(".composites/*/*.png")


def test_the_report_waits_for_the_end_of_the_contrast(tmp_path, monkeypatch):
    """A run whose contrast was skipped says nothing of it."""
    monkeypatch.setattr(WordContrast, "_finish", lambda _self: None)
    assert "contrast" not in learn(tmp_path).facts


def test_going_on_contrasts_the_words_of_the_first_of_two_encoders(tmp_path, xl_base, monkeypatch):
    """In whatever order the file gives the rows: safetensors has another in each process."""
    monkeypatch.setattr(tensor_file, "load", lambda data: dict(sorted(load(data).items())[::-1]))
    given = {"stages": "contrast", "resolution_px": 64}
    first = learn(tmp_path, given, base=xl_base)
    assert list(Bank(tmp_path)[first.name].rows) == ["text_encoder", "text_encoder_2"]
    after = learn(tmp_path, given, base=xl_base, again="go_on")
    assert torch.equal(first.rows["text_encoder_2"], after.rows["text_encoder_2"])
    assert not torch.equal(first.rows["text_encoder"], after.rows["text_encoder"])
