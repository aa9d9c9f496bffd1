"""mini-clip: what it was taught with, that training can go on, and what the shipped one tells."""

import json
import random
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from cidm_core.cli import main
from cidm_core.diffusers_host import clip as clip_module
from cidm_core.diffusers_host.clip import load_clip
from cidm_core.errors import HostError
from cidm_core.mini.draw import draw
from cidm_core.mini.looks import reference_scene
from cidm_core.mini.world import any_scene
from lab.mini import clip_data, train_clip
from lab.mini.captions import caption
from lab.mini.clip_captions import ASPECTS, wrong_caption
from lab.mini.clip_check import PHOTOS_EACH, auc
from lab.mini.clip_model import MINI_CLIP_FOLDER, mini_tokenizer, new_clip, save_clip
from lab.mini.clip_scenes import LOOKS, differ, family, name_colors, other_thing, view
from lab.mini.held_out import is_held_out, resembles_look
from lab.mini.looks import CONCEPTS
from lab.mini.model import token_ids


@pytest.fixture(scope="module")
def encoder():
    return load_clip("mini-clip", "cpu")


@pytest.fixture(scope="module")
def tokenizer():
    return mini_tokenizer()


@pytest.fixture
def data(tokenizer):
    """Two families and eight other pictures, without the autoencoder."""
    scenes = clip_data.training_scenes(2, 8, seed=3)
    texts = clip_data._texts(scenes, tokenizer, 3)
    return clip_data.ClipPictures(clip_data.draw_all(scenes), **texts, families=2)


# --- scenes and captions ---


@pytest.mark.parametrize("kind", ["object", "style"])
def test_families_hold_look_alikes_and_views_show_them(kind):
    rng = random.Random(5)
    for _ in range(20):
        looks = family(rng, kind)
        assert len(looks) == LOOKS
        assert all(differ(a, b) for i, a in enumerate(looks) for b in looks[:i])
        assert len({look.kind for look in looks}) == 1
        for look in looks:
            scene = view(look, rng)
            assert not is_held_out(scene)
            assert not resembles_look(scene)
            things = [placed.thing for placed in scene.things]
            assert look.thing in things if look.thing else scene.style == look.style


def test_no_training_scene_shows_a_concept():
    scenes = clip_data.training_scenes(15, 60, seed=8)
    assert len(scenes) == 15 * LOOKS * clip_data.VIEWS + 60
    assert not any(resembles_look(scene) or is_held_out(scene) for scene in scenes)
    assert scenes == clip_data.training_scenes(15, 60, seed=8)


@pytest.mark.parametrize("aspect", ASPECTS)
def test_wrong_captions_differ_in_words(aspect):
    rng = random.Random(aspect)
    found = 0
    for _ in range(60):
        scene, seed = name_colors(any_scene(rng)), rng.randrange(1000)
        right, wrong = wrong_caption(scene, aspect, seed)
        assert right == caption(scene, random.Random(seed))
        assert (right, wrong) == wrong_caption(scene, aspect, seed)
        if wrong:
            found += 1
            assert set(wrong.split()) != set(right.split()) or aspect in ("binding", "side")
            assert wrong != right
    assert found >= 3


def test_colors_off_the_list_get_the_name_they_are_near():
    scene = any_scene(random.Random(1), count=1)
    thing = replace(scene.things[0].thing, color=(0.84, 0.2, 0.18), color_word="")
    scene = replace(scene, things=(replace(scene.things[0], thing=thing),))
    assert name_colors(scene).things[0].thing.color_word == "red"


# --- batches and training ---


def test_a_batch_holds_whole_families(data, tokenizer):
    swap = clip_data.left_right(tokenizer)
    mirrored = set()
    for seed in range(8):
        batch = clip_data.sample_batch(data, 2, 5, torch.Generator().manual_seed(seed), swap)
        assert batch.x.shape == (21, 3, 32, 32)
        assert batch.group.tolist() == [i // 2 for i in range(16)] + [-1] * 5
        plain = {tuple(ids) for ids in data.right.flatten(0, 1).tolist()}
        mirrored.add(sum(tuple(ids) in plain for ids in batch.right.tolist()) < 21)
    assert mirrored == {True, False}
    ids = token_ids(tokenizer, ["a cat on the left and a dog on the right"])
    assert tokenizer.decode(swap[ids[0]], skip_special_tokens=True) == (
        "a cat on the right and a dog on the left"
    )


def learn(data, tokenizer, work):
    work.mkdir(exist_ok=True)
    model = new_clip(tokenizer, 1)
    args = Namespace(seed=1, steps=4, work=work, identity_weight=1.0)
    train_clip.train(model, data, args)
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    data, tokenizer, tmp_path, monkeypatch
):
    whole = learn(data, tokenizer, tmp_path / "whole")
    monkeypatch.setattr(train_clip, "_SAVE_EVERY", 2)
    real, calls = train_clip.sample_batch, []

    def sample(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train_clip, "sample_batch", sample)
    with pytest.raises(KeyboardInterrupt):
        learn(data, tokenizer, tmp_path / "broken")
    rest = learn(data, tokenizer, tmp_path / "broken")
    assert len(calls) == 4 + 2  # steps 3 and 4 again
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_a_saved_model_loads_as_it_was(tokenizer, tmp_path):
    model = new_clip(tokenizer, 2)
    save_clip(tmp_path, model, {})
    loaded = load_clip(tmp_path, "cpu", clip_module._MINI_TOKENIZER)
    picture = draw(any_scene(random.Random(0)))
    x = torch.from_numpy(loaded.prepare(picture))[None]
    assert -1 <= float(x.min()) <= float(x.max()) <= 1
    with torch.no_grad():
        pooled = model.eval().vision_model(pixel_values=x).pooler_output
        expected = model.visual_projection(pooled)
    assert torch.allclose(loaded.images([picture]), expected, atol=2e-2)
    assert next(loaded.model.parameters()).dtype == torch.float32


# --- the shipped model ---


def test_it_is_small_and_reports_what_it_can_do():
    assert sum(path.stat().st_size for path in MINI_CLIP_FOLDER.iterdir()) <= 1_100_000
    report = json.loads((MINI_CLIP_FOLDER / "REPORT.json").read_text())
    assert report["drawn"]["identity_auc"]["concept_objects"]["auc"] > 0.9
    assert report["autoencoder"]["retrieval_of_64"]["image_to_text"] > 0.4


def test_an_installation_without_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(clip_module, "_MINI_FOLDER", tmp_path / "gone")
    with pytest.raises(HostError, match="Install the package again"):
        load_clip("mini-clip")


@pytest.mark.parametrize("aspect", ["color", "kind", "background", "style"])
def test_right_captions_beat_wrong_ones(encoder, aspect):
    rng, pairs = random.Random(f"ta {aspect}"), []
    while len(pairs) < 60:
        scene = name_colors(any_scene(rng, count=1))
        right, wrong = wrong_caption(scene, aspect, rng.randrange(1 << 20))
        pairs += [(scene, right, wrong)] if wrong else []
    seen = F.normalize(encoder.images([draw(scene) for scene, _, _ in pairs]), dim=-1)
    right, wrong = (F.normalize(encoder.texts([pair[i] for pair in pairs]), dim=-1) for i in (1, 2))
    share = ((seen * right).sum(-1) > (seen * wrong).sum(-1)).float().mean()
    assert share > 0.85


@pytest.mark.parametrize("name", ["purple-cat", "ember-dog", "candy-cup"])
def test_ia_tells_a_concept_from_its_look_alike(encoder, name):
    rng, look = random.Random(name), CONCEPTS[name]
    looks = [look, look, other_thing(look, rng, 3)]
    pictures = [draw(reference_scene(one, rng)[0]) for one in looks for _ in range(PHOTOS_EACH)]
    z = F.normalize(encoder.images(pictures), dim=-1)
    photos, own, other = z.split(PHOTOS_EACH)
    own, other = (own @ photos.T).mean(1), (other @ photos.T).mean(1)
    assert auc(own, other) > 0.9
    assert own.mean() > other.mean() + 0.1


def test_the_commands_take_its_name(tmp_path, capsys):
    assert main(["evaluate", "--bank", str(tmp_path / "none"), "--clip", "mini-clip"]) != 0
    assert "holds no concept" in capsys.readouterr().err
