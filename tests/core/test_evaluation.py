"""Alignment against an independent reference, a tiny CLIP, and what a bank costs its concepts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from make import random_concept
from PIL import Image

from cidm_core.cli import main
from cidm_core.concept import Subject
from cidm_core.config import SampleConfig
from cidm_core.diffusers_host.base import changed_weights
from cidm_core.diffusers_host.clip import load_clip
from cidm_core.diffusers_host.pipeline import generate
from cidm_core.errors import CidmError, HostError, PromptError
from cidm_core.evaluation.alignment import image_alignment, pair_similarity, text_alignment
from cidm_core.evaluation.drift import ClassDrift
from cidm_core.evaluation.evaluate import evaluate, pixel_difference, prompts_for
from cidm_core.evaluation.prompts import fill, read_prompts, write_back
from cidm_core.ops.kernel_distance import kernel_distance
from cidm_core.training.data import Photo

QUICK = SampleConfig(steps=2, width_px=64, height_px=64)
SMALL = replace(QUICK, steps=1, width_px=32, height_px=32)
CAT = (Subject(("<cat1>", "<cat2>"), "cat"),)


@pytest.fixture(scope="module")
def clip(clip_folder):
    return load_clip(clip_folder, "cpu")


@pytest.fixture(scope="module")
def concepts(tiny_base):
    dog = random_concept(tiny_base, "<dog1> <dog2>", 1, class_words="dog", name="dog")
    ink = random_concept(tiny_base, "<ink1>", 2, class_words="ink", kind="style", name="ink")
    return {"dog": dog, "ink": ink}


def noise(seed, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def cosines(a, b):
    """Independent float64 reference: every pair by its own loop."""
    return np.array([[sum(x * y) / (sum(x * x) ** 0.5 * sum(y * y) ** 0.5) for y in b] for x in a])


# --- the formulas --------------------------------------------------------------------------------


def test_alignment_by_hand():
    pictures = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    texts = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    # cosines 0.6 and -1: the negative one counts as 0
    assert float(text_alignment(pictures, texts)) == pytest.approx(2.5 * 0.6 / 2)
    # pairs: 0.6, -0.8, 0, -1
    assert float(image_alignment(pictures, texts)) == pytest.approx(-1.2 / 4)
    assert float(pair_similarity(pictures, texts)) == pytest.approx(-0.2)


def test_alignment_matches_the_float64_reference():
    generator = torch.Generator().manual_seed(0)
    pictures, texts, photos = (
        torch.randn(n, 12, generator=generator, dtype=torch.float64) for n in (7, 7, 5)
    )
    pairs = cosines(pictures.numpy(), photos.numpy())
    own = np.diag(cosines(pictures.numpy(), texts.numpy()))
    expected = 2.5 * np.where(own > 0, own, 0).mean()
    torch.testing.assert_close(text_alignment(pictures, texts).item(), expected)
    torch.testing.assert_close(image_alignment(pictures, photos).item(), pairs.mean())
    # the length of an embedding says nothing
    torch.testing.assert_close(text_alignment(5 * pictures, texts).item(), expected)


def test_identical_pictures_align_fully():
    embeddings = torch.eye(3)
    assert float(pair_similarity(embeddings, embeddings)) == 1
    assert float(text_alignment(embeddings, embeddings)) == 2.5
    assert float(image_alignment(embeddings, embeddings)) == pytest.approx(1 / 3)


# --- prompts -------------------------------------------------------------------------------------


def test_prompts_are_filled_and_written_back(concepts):
    dog, ink = concepts["dog"], concepts["ink"]
    assert fill("A <TOK>, in the forest", dog) == "A <dog1> <dog2>, in the forest"
    assert fill("a {} on grass", ink) == "a <ink1> on grass"
    assert fill("my <dog1> <dog2> again", dog) == "my <dog1> <dog2> again"
    with pytest.raises(PromptError, match="does not say where"):
        fill("my <dog2> again", dog)
    with pytest.raises(PromptError, match="does not say where"):
        fill("a dog on grass", dog)
    both = "a <dog1> <dog2> and a <dog2> in <ink1> style, <dog10>"
    assert write_back(both, [dog, ink]) == "a dog and a dog in ink style, <dog10>"


def test_prompts_by_name_kind_or_default(concepts):
    dog, ink = concepts["dog"], concepts["ink"]
    by_kind = {"object": ["one {}"], "dog": ["my {}"], "style": ["drawn in {}"]}
    assert prompts_for(dog, by_kind) == ["my <dog1> <dog2>"]
    assert prompts_for(ink, by_kind) == ["drawn in <ink1>"]
    assert all("<ink1>" in prompt for prompt in prompts_for(ink, None))
    with pytest.raises(CidmError, match="no prompt for 'ink'"):
        prompts_for(ink, {"object": ["one {}"]})


def test_prompt_files(tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffa {}\n\n  b {}  \n".encode())
    assert read_prompts(file) == ["a {}", "b {}"]
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PromptError, match="UTF-8"):
        read_prompts(file)


# --- the encoder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (32, 32), (5, 90)])
def test_pictures_are_prepared_as_clip_does(clip, size):
    picture = noise(1, size)
    scale = 32 / min(size)
    shape = [32 if side == min(size) else int(side * 32 / min(size)) for side in size]
    assert min(shape) == 32, scale
    pixels = np.asarray(picture.resize(shape, Image.Resampling.BICUBIC), np.float64) / 255
    top, left = (shape[1] - 32) // 2, (shape[0] - 32) // 2
    pixels = pixels[top : top + 32, left : left + 32]
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    expected = ((pixels - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(clip.prepare(picture), expected, atol=1e-5)


def test_the_encoder_is_the_models_own(clip):
    pictures = [noise(i) for i in range(3)]
    pixels = torch.stack([torch.from_numpy(clip.prepare(p)) for p in pictures])
    texts = ["a dog on grass", "x " * 200, "a dog on grass"]
    ids = clip.tokenizer(
        texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        out = clip.model(input_ids=ids["input_ids"], pixel_values=pixels)
    found = torch.nn.functional.normalize(clip.images(pictures), dim=-1)
    torch.testing.assert_close(found, out.image_embeds, rtol=1e-5, atol=1e-5)
    found = clip.texts(texts)
    torch.testing.assert_close(found[0], found[2])
    found = torch.nn.functional.normalize(found, dim=-1)
    torch.testing.assert_close(found, out.text_embeds, rtol=1e-5, atol=1e-5)


def test_batches_change_nothing(clip, monkeypatch):
    pictures = [noise(i) for i in range(5)]
    whole = clip.images(pictures)
    monkeypatch.setattr("cidm_core.diffusers_host.clip._BATCH", 2)
    torch.testing.assert_close(clip.images(pictures), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", ["missing", "a file", "empty folder", "no weights"])
def test_a_clip_that_is_none(what, clip_folder, tmp_path):
    path = tmp_path / "clip"
    if what == "a file":
        path.write_text("x")
    elif what != "missing":
        path.mkdir()
    if what == "no weights":
        (path / "config.json").write_text((clip_folder / "config.json").read_text())
    with pytest.raises(HostError):
        load_clip(path)


# --- whole banks ---------------------------------------------------------------------------------


def test_evaluate_scores_each_concept_with_photos(tiny_base, concepts, clip):
    photos = {"dog": [noise(1), noise(2)], "ink": [Photo.from_image(noise(3))]}
    prompts = {"object": ["a {}", "a {} on grass"], "ink": ["a cat, {}"]}
    kept, counted = [], []
    report = evaluate(
        tiny_base,
        concepts,
        clip,
        photos,
        prompts,
        QUICK,
        on_picture=lambda done, total: counted.append((done, total)),
        keep=lambda name, prompt, pictures: kept.append((name, prompt, pictures)),
    )
    assert counted == [(1, 3), (2, 3), (3, 3)]
    assert [(name, prompt) for name, prompt, _ in kept] == [
        ("dog", "a <dog1> <dog2>"),
        ("dog", "a <dog1> <dog2> on grass"),
        ("ink", "a cat, <ink1>"),
    ]
    drawn = clip.images([picture for name, _, pictures in kept[:2] for picture in pictures])
    texts = clip.texts(["a dog", "a dog on grass"])
    pairs = cosines(drawn.double().numpy(), clip.images(photos["dog"]).double().numpy())
    own = np.diag(cosines(drawn.double().numpy(), texts.double().numpy()))
    score = report.scores[0]
    assert (score.concept, score.pictures) == ("dog", 2)
    assert score.image_alignment == pytest.approx(pairs.mean(), abs=1e-5)
    assert score.text_alignment == pytest.approx(2.5 * own.clip(0).mean(), abs=1e-5)
    mean = report.to_dict()["mean"]
    both = [s.image_alignment for s in report.scores]
    assert mean["image_alignment"] == pytest.approx(sum(both) / 2)
    lines = report.table().splitlines()
    assert lines[0].split() == ["concept", "IA", "TA", "pictures"]
    assert f"{100 * score.image_alignment:.3f}" in lines[1]
    assert lines[-1].startswith("mean")


def test_evaluate_needs_photos_of_known_concepts(tiny_base, concepts, clip):
    with pytest.raises(CidmError, match="photos for cat"):
        evaluate(tiny_base, concepts, clip, {"cat": [noise(1)]})
    with pytest.raises(CidmError, match="No reference photos"):
        evaluate(tiny_base, concepts, clip, {"dog": []})


def test_the_gate_forgets_nothing_and_dense_weights_do(tiny_base, concepts, clip):
    prompts = ["a photo of a {}"]
    photos = {"dog": [noise(1)]}
    gate = evaluate(tiny_base, concepts, clip, photos, prompts, QUICK, alone=True)
    for score in gate.scores:
        assert (score.difference, score.unchanged) == (0, 1)
        assert score.similarity == pytest.approx(1, abs=1e-5)
        assert score.text_alignment == score.text_alignment_alone
    assert gate.scores[0].image_alignment == gate.scores[0].image_alignment_alone
    assert gate.scores[1].image_alignment is None
    assert gate.mean.image_alignment == gate.scores[0].image_alignment
    dense = SampleConfig(**{**QUICK.to_dict(), "weights": "paper"})
    kept = []
    report = evaluate(
        tiny_base,
        concepts,
        prompts=prompts,
        config=dense,
        keep=lambda name, *_: kept.append(name),
        alone=True,
    )
    assert kept == ["dog", "dog alone", "ink", "ink alone"]
    assert all(score.difference > 0 for score in report.scores)
    assert all(score.unchanged == 0 for score in report.scores)
    assert report.to_dict()["largest_difference"] == max(s.difference for s in report.scores)
    assert report.scores[0].similarity is None
    assert report.table().splitlines()[0].split("  ")[0] == "concept"
    assert "TA" not in report.table()
    assert "IA alone" in gate.table()
    with pytest.raises(CidmError, match="no concept"):
        evaluate(tiny_base, {}, alone=True)


def test_class_drift_in_the_bank_and_merged(tiny_base, concepts, clip):
    """The gate leaves pictures of the class alone; weights in the model, or dense ones, do not."""
    rows_alone = replace(concepts["dog"], updates={}, name="cat", subjects=CAT)
    bank = {**concepts, "cat": rows_alone}
    before = tiny_base.unet.state_dict()
    kept = {key: tensor.clone() for key, tensor in before.items()}
    counted = []
    report = evaluate(
        tiny_base,
        bank,
        clip,
        prompts=["a {}"],
        config=SMALL,
        on_picture=lambda done, total: counted.append((done, total)),
        class_drift=3,
    )
    assert counted[-1] == (3 + 3 * (3 + 2 * 3),) * 2
    assert all(torch.equal(tensor, kept[key]) for key, tensor in before.items())
    assert [score.class_drift for score in report.scores] == [0, 0, 0]
    dog, ink, cat = (score.class_drift_merged for score in report.scores)
    assert dog != 0
    assert ink != 0
    assert cat == 0
    assert "class drift  class drift merged" in report.table()
    dense = replace(SMALL, weights="paper")
    found = evaluate(tiny_base, concepts, clip, None, ["a {}"], dense, class_drift=2)
    assert all(score.class_drift != 0 for score in found.scores)


def test_class_drift_is_the_distance_of_pictures_of_the_same_seeds(tiny_base, concepts, clip):
    dog = concepts["dog"]
    config = replace(SMALL, num_images=5, seed=3)
    plain = generate(tiny_base, {}, "photo of a dog", config=config)
    with changed_weights([(tiny_base.module(p).weight, u.delta) for p, u in dog.updates.items()]):
        merged = generate(tiny_base, {}, "photo of a dog", config=config)
    x, y = (clip.images(each).double() for each in (plain, merged))
    cosine = torch.nn.functional.normalize
    x, y = (cosine(each, dim=-1) * each.shape[1] ** 0.5 for each in (x, y))
    drift = ClassDrift(tiny_base, concepts, clip, 5, config)
    found = drift.of(dog, lambda _: None)["class_drift_merged"]
    assert found == pytest.approx(float(kernel_distance(x, y, paired=True)), abs=1e-9)


def test_class_drift_needs_a_clip_and_two_pictures(tiny_base, concepts, clip):
    with pytest.raises(CidmError, match="told by a CLIP model"):
        evaluate(tiny_base, concepts, class_drift=5)
    with pytest.raises(CidmError, match="cannot be told from 1 picture"):
        evaluate(tiny_base, concepts, clip, class_drift=1)


def test_pixel_difference_by_hand():
    black, white = Image.new("RGB", (2, 2)), Image.new("RGB", (2, 2), "white")
    half = white.copy()
    half.paste(black.crop((0, 0, 1, 2)))
    assert pixel_difference(black, white) == 1
    assert pixel_difference(white, half) == 0.5


def test_the_commands_tell_and_keep(
    tiny_base, tiny_folder, concepts, clip_folder, tmp_path, capsys
):
    import json

    from cidm_core.bank import Bank

    bank = Bank(tmp_path / "bank")
    for concept in concepts.values():
        bank.add(concept)
    for name in ("dog", "ink"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        noise(1).save(tmp_path / "photos" / name / "1.png")
    (tmp_path / "p.txt").write_text("a <TOK> here\n")
    words = ["--model", str(tiny_folder), "--bank", str(bank.path), "--clip", str(clip_folder)]
    words += ["--photos", str(tmp_path / "photos"), "--prompts", str(tmp_path / "p.txt")]
    words += ["--steps", "1", "--width", "64", "--height", "64", "--num-images", "2", "--json"]
    assert main(["evaluate", *words, "--keep", str(tmp_path / "kept")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["pictures"] for row in told["concepts"]] == [2, 2]
    assert told["settings"]["steps"] == 1
    files = sorted(p.relative_to(tmp_path / "kept") for p in (tmp_path / "kept").rglob("*.png"))
    assert [str(f) for f in files][:2] == [
        "dog/0001_a_dog1_dog2_here.png",
        "dog/0002_a_dog1_dog2_here.png",
    ]
    assert main(["evaluate", "--alone", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["largest_difference"] == 0
    assert told["concepts"][1]["image_alignment_alone"] is not None
