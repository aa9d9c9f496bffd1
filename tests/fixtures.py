"""A tiny SD 1.5 and a tiny SDXL in every form the loader takes, and a tiny CLIP.

All three forms (memory, folder, single file) of each hold the same random weights (seed 0, fp32).
Sharing them is safe as long as a test leaves the modules as it found them. Heavy imports are
inside: pytest reads this file before it starts its workers, and for every run of a few light tests.
"""

import pytest


def _folder(factory, name, preset):
    from tools.make_checkpoint import write_diffusers

    folder = factory.mktemp("models") / name
    write_diffusers(folder, preset, "fp32")
    return folder


def _checkpoint(factory, name, preset):
    from tools.make_checkpoint import write_compvis

    path = factory.mktemp("checkpoints") / f"{name}.safetensors"
    write_compvis(path, preset, "fp32")
    return path


def _base(folder):
    from cidm_core.diffusers_host.load import load_base

    return load_base(folder, device="cpu", dtype="fp32")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A diffusers folder."""
    return _folder(tmp_path_factory, "tiny-sd15", "tiny")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A single file in CompVis layout with a folder `tokenizer` beside it."""
    return _checkpoint(tmp_path_factory, "tiny", "tiny")


@pytest.fixture(scope="session")
def tiny_base(tiny_folder):
    """Seven cross-attention layers, 32 and 64 wide, context 768; a forward takes milliseconds."""
    return _base(tiny_folder)


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory):
    """A diffusers folder of SDXL."""
    return _folder(tmp_path_factory, "tiny-sdxl", "sdxl-tiny")


@pytest.fixture(scope="session")
def xl_checkpoint(tmp_path_factory):
    """A single file of SDXL in CompVis layout with a folder `tokenizer` beside it."""
    return _checkpoint(tmp_path_factory, "tiny-xl", "sdxl-tiny")


@pytest.fixture(scope="session")
def xl_base(xl_folder):
    """Eight cross-attention layers, 64 wide, two per attention; text encoders of two layers."""
    return _base(xl_folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP of random weights with everything a real folder has."""
    import torch
    from tools.make_checkpoint import write_tokenizer
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "vocab_size": 1000, "max_position_embeddings": 77}
    text |= {"bos_token_id": 998, "eos_token_id": 999}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    write_tokenizer(folder, 1000)
    return folder


@pytest.fixture(scope="module")
def encoded_once():
    """No text is encoded twice for the same concepts, for tests that are about what follows."""
    from remembering import remembering

    from cidm_core.diffusers_host import pipeline

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "DiffusersEncoder", remembering(pipeline.DiffusersEncoder))
        yield
