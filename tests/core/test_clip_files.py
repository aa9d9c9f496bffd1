"""CLIP that is damaged, or only a part of one, is refused and not made up."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cidm_core.diffusers_host.clip import load_clip
from cidm_core.diffusers_host.contrast import load_contrast_clip
from cidm_core.errors import HostError

WEIGHTS = "model.safetensors"


def damaged(folder, case):
    if case == "cut off":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:500])
    elif case == "no vocabulary":
        for file in [*folder.glob("*.txt"), *folder.glob("vocab*"), *folder.glob("token*")]:
            file.unlink()
    else:
        tensors = load_file(folder / WEIGHTS)
        if case == "text side alone":
            tensors = {key: value for key, value in tensors.items() if "vis" not in key}
        if case == "NaN in its eye":
            first = next(key for key in tensors if key.startswith("vision_model.encoder"))
            tensors[first].view(-1)[0] = torch.nan
        if case == "scale":
            tensors["logit_scale"].fill_(1000.0)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("cut off", "is no CLIP model of transformers .*header"),
        ("text side alone", r"lacks \d+ weights, such as vis.* a text encoder alone"),
        ("no vocabulary", "lacks its tokenizer. Put its vocab.json"),
    ],
)
def test_files_that_are_no_whole_clip(clip_folder, tmp_path, case, says):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    damaged(folder, case)
    with pytest.raises(HostError, match=says):
        load_clip(folder, "cpu")


@pytest.mark.parametrize("case", ["NaN in its eye", "scale"])
def test_a_clip_that_would_spoil_the_contrast(clip_folder, tmp_path, case):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    damaged(folder, case)
    with pytest.raises(HostError, match="holds NaN or infinite weights"):
        load_contrast_clip(folder, "cpu")


def test_a_clip_to_contrast_with_is_the_one_that_fits(tmp_path):
    with pytest.raises(HostError, match=re.escape("hf download openai/clip-vit-large-patch14")):
        load_contrast_clip(tmp_path / "nowhere", "cpu")
