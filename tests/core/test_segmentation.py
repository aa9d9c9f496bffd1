"""Soft masks by a tiny CLIPSeg of random weights: what it sees, what is kept, what is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tools.make_checkpoint import write_tokenizer
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from cidm_core.cli import main
from cidm_core.diffusers_host.segmentation import (
    TEMPLATES,
    Segmenter,
    load_segmenter,
    with_segments,
)
from cidm_core.errors import HostError, PhotoError
from cidm_core.training.data import Photo

SIZE = 64


@pytest.fixture(scope="module")
def clipseg_folder(tmp_path_factory):
    """With everything a real folder has."""
    folder = tmp_path_factory.mktemp("clipseg") / "tiny-clipseg"
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "vocab_size": 1000, "max_position_embeddings": 77}
    text |= {"bos_token_id": 998, "eos_token_id": 999}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}  # less than SIZE
    torch.manual_seed(0)
    config = CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 2],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        use_complex_transposed_convolution=True,
    )
    model = CLIPSegForImageSegmentation(config)
    with torch.no_grad():  # random weights say little
        for parameter in model.decoder.parameters():
            parameter.mul_(6)
    model.save_pretrained(folder)
    write_tokenizer(folder, 1000)
    prepared = {"size": {"height": SIZE, "width": SIZE}, "image_mean": [0.5, 0.4, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


@pytest.fixture(scope="module")
def segmenter(clipseg_folder):
    return load_segmenter(clipseg_folder, "cpu")


def noise(seed, size=(60, 40)):
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def photos_in(folder, count=2):
    folder.mkdir(parents=True)
    for k in range(count):
        noise(k).save(folder / f"{k}.png")
    return Photo.from_folder(folder)


def test_a_mask_is_the_mean_of_what_the_model_sees_of_each_caption(segmenter):
    picture = noise(1)
    assert len(TEMPLATES) == 11
    texts = [template.format("teddy bear") for template in TEMPLATES]
    ids = segmenter.tokenizer(texts, padding=True, return_tensors="pt")
    square = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(square, np.float32) / 255)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((pixels - mean) / std).permute(2, 0, 1).expand(len(texts), -1, -1, -1)
    with torch.no_grad():
        logits = segmenter.model(
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            pixel_values=pixels,
        ).logits
    expected = logits.sigmoid().mean(0).numpy()
    found = segmenter.share(picture, "teddy bear")
    assert found.shape == (SIZE, SIZE)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(segmenter.share(picture, "house") - found).max() > 1e-4


def test_masks_stay_soft_in_the_photos_shape_and_are_made_once(segmenter, tmp_path, monkeypatch):
    photos, told = photos_in(tmp_path / "dog"), []
    found = with_segments(
        photos, "dog", segmenter, tmp_path / "masks", lambda *done: told.append(done)
    )
    assert told == [(1, 2), (2, 2)]
    for photo, masked in zip(photos, found, strict=True):
        assert (masked.path, masked.caption) == (photo.path, photo.caption)
        kept = Image.open(masked.mask_path)
        assert (kept.mode, kept.size) == ("L", (SIZE, 43))
        values = masked.mask
        assert values.shape == (40, 60)
        assert len(np.unique(values)) > 20
        share = segmenter.share(photo.image, "dog")
        wanted = Image.fromarray(share / share.max()).resize(kept.size, Image.Resampling.BILINEAR)
        np.testing.assert_allclose(np.asarray(kept) / 255, np.asarray(wanted), atol=0.003)
    monkeypatch.setattr(Segmenter, "share", None)  # what is there is used
    again = with_segments(photos, "dog", segmenter, tmp_path / "masks")
    assert [p.mask_path for p in again] == [p.mask_path for p in found]
    with pytest.raises(TypeError):
        with_segments(photos, "cat", segmenter, tmp_path / "masks")


def test_a_mask_that_is_there_is_kept(segmenter, tmp_path):
    photos_in(tmp_path / "dog")
    Image.new("L", (60, 40), 128).save(tmp_path / "dog" / "0_mask.png")
    photos = Photo.from_folder(tmp_path / "dog")
    found = with_segments(photos, "dog", segmenter, tmp_path / "masks")
    assert found[0].mask_path == tmp_path / "dog" / "0_mask.png"
    assert found[1].mask_path.parent == tmp_path / "masks"
    from_memory = Photo.from_image(noise(3))
    assert with_segments([from_memory], "dog", segmenter, tmp_path / "masks")[0].has_mask


def test_one_that_is_nowhere_is_told(segmenter, tmp_path, monkeypatch, caplog):
    nowhere = np.full((SIZE, SIZE), 0.02, np.float32)
    monkeypatch.setattr(Segmenter, "share", lambda *_: nowhere)
    with_segments(photos_in(tmp_path / "dog", 1), "dog", segmenter, tmp_path / "masks")
    assert "sure of no 'dog'" in caplog.text
    assert "at most 2 %" in caplog.text


def test_what_cannot_be_masked(segmenter, clip_folder, clipseg_folder, tmp_path):
    with pytest.raises(PhotoError, match="Masks are made of what the class words name"):
        with_segments(photos_in(tmp_path / "dog"), " ", segmenter, tmp_path / "masks")
    with pytest.raises(HostError, match="a model of the kind 'clip'"):
        load_segmenter(clip_folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(HostError, match="holds no model"):
        load_segmenter(tmp_path / "empty")
    with pytest.raises(HostError, match="no CLIPSeg model"):
        load_segmenter(tmp_path / "nowhere")
    half = tmp_path / "half"
    half.mkdir()
    for file in clipseg_folder.iterdir():
        (half / file.name).write_bytes(file.read_bytes())
    weights = load_file(half / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "film_mul" not in key}
    save_file(kept, half / "model.safetensors", {"format": "pt"})
    with pytest.raises(HostError, match=r"lacks 2 weights, such as decoder\.film_mul"):
        load_segmenter(half)
    (half / "model.safetensors").write_bytes(b"")
    with pytest.raises(HostError, match="cannot be loaded"):
        load_segmenter(half)


def test_the_command_masks_shows_and_learns(
    tiny_folder, clipseg_folder, tmp_path, monkeypatch, capsys
):
    photos_in(tmp_path / "dog")
    words = ["train", "--model", str(tiny_folder), "--bank", str(tmp_path / "bank")]
    words += ["--photos", str(tmp_path / "dog"), "--words", "<dog1> <dog2>", "--steps", "1"]
    words += ["--segment", str(clipseg_folder), "--show-masks", str(tmp_path / "masks.png")]
    words += ["--resolution", "64", "--variants", "1"]
    assert main(words) == 1
    assert "--class-words is missing" in capsys.readouterr().err
    seen = []

    def learn(base, bank, photos, **given):
        seen.extend(photos)
        raise PhotoError("That will do.")

    monkeypatch.setattr("cidm_core.diffusers_host.train.train_concept", learn)
    assert main([*words, "--class-words", "dog"]) == 1
    told = capsys.readouterr().err
    assert "Masking 2/2" in told
    assert "That will do." in told
    assert [Path(photo.mask_path).parent.name for photo in seen] == [".masks", ".masks"]
    assert Image.open(tmp_path / "masks.png").width > 600
