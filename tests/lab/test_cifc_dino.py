"""DINO and DINOv2 encoders from tiny random models, against transformers' own steps."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from cidm_core.errors import HostError
from cidm_core.evaluation.alignment import image_alignment
from lab.cifc.dino import _MEAN, _STD, load_dino

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 7}


@pytest.fixture(scope="module", params=["vit", "dinov2"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dino") / request.param
    torch.manual_seed(0)
    if request.param == "vit":
        ViTModel(ViTConfig(**SMALL), add_pooling_layer=False).save_pretrained(folder)
    else:
        Dinov2Model(Dinov2Config(**SMALL)).save_pretrained(folder)
    return folder


def noise(seed, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_class_token_is_read(folder):
    encoder = load_dino(folder, "cpu")
    square = noise(0, (32, 32))  # 32 is 28 times 256 / 224: nothing is resized, 2 px are cut
    pixels = np.asarray(square, dtype=np.float64)[2:30, 2:30] / 255
    pixels = torch.from_numpy((pixels - _MEAN) / _STD).permute(2, 0, 1)[None].float()
    found = encoder.images([square])
    with torch.no_grad():
        expected = encoder.model(pixel_values=pixels).last_hidden_state[:, 0]
    assert torch.allclose(found, expected, atol=1e-5)
    assert encoder.model.training is False


def test_many_pictures_of_many_shapes(folder):
    encoder = load_dino(folder, "cpu")
    pictures = [noise(n, (20 + n, 60 - n)) for n in range(40)]
    found = encoder.images([*pictures, pictures[3]])
    assert found.shape == (41, 16)
    assert found.dtype == torch.float32
    assert torch.allclose(found[3], found[40], atol=1e-5)
    alignment = float(image_alignment(found[:5], found[5:9]))
    assert -1 <= alignment <= 1


def test_pixel_statistics_of_the_folder(folder):
    file = folder / "preprocessor_config.json"
    file.write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    grey = load_dino(folder, "cpu").prepare(Image.new("RGB", (9, 9), (255, 255, 255)))
    file.unlink()
    assert grey.shape == (3, 28, 28)
    assert np.allclose(grey, 1.0)


def test_large_tables_of_positions_are_used_at_224(tmp_path):
    torch.manual_seed(0)
    config = Dinov2Config(**{**SMALL, "image_size": 518, "patch_size": 14})
    Dinov2Model(config).save_pretrained(tmp_path / "large")
    encoder = load_dino(tmp_path / "large", "cpu")
    assert encoder.size == 224
    assert encoder.images([noise(1)]).shape == (1, 16)


def test_what_is_no_dino_is_refused(tmp_path):
    with pytest.raises(HostError, match="neither as a folder"):
        load_dino(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(HostError, match="no DINO model"):
        load_dino(tmp_path)
    with pytest.raises(HostError, match="is a file"):
        load_dino(tmp_path / "config.json")
